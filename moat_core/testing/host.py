"""A `Sandbox` that isolates nothing: its commands run on this very machine, in a folder.

For testing what is built on ``exec`` (file transfer, limits, time-outs) with a real shell and real pipes but without
an engine, and as the simplest example of the contract. Never for anything that is not trusted.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from moat_core.errors import SandboxGone, UsageError
from moat_core.runtime.base import Process, Sandbox, SandboxInfo
from moat_core.types import Command, Output, RunState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moat_core.types import Stream

__all__ = ["HostProcess", "HostSandbox"]

_MARK = "MOAT_TEST_EXEC"
_CHUNK = 64 * 1024
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


class HostSandbox(Sandbox):
    """Commands run in FOLDER, as the user who runs the tests. It has no terminals and no other users."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info = SandboxInfo("host", "run-00000000", "main", RunState.RUNNING, "host", "none")
        self._gone = anyio.Event()

    def vanish(self) -> None:
        """Be gone: every command from now on finds no sandbox."""
        self._gone.set()

    @asynccontextmanager
    async def open_process(self, command: Command) -> AsyncIterator[HostProcess]:
        """See `Sandbox`.

        Raises:
            UsageError: A terminal or another user was asked for.
        """
        if command.tty or command.user is not None:
            raise UsageError("A HostSandbox has neither terminals nor other users.")
        if self._gone.is_set():
            raise SandboxGone("The host sandbox is gone.")
        mark = secrets.token_hex(8)
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **command.env, _MARK: mark}
        try:
            inner = await anyio.open_process(
                command.argv,
                stdin=subprocess.PIPE if command.stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self.folder / (command.cwd or "."),
                env=environ,
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError) as error:
            code = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
            script = 'echo "$1" >&2; exit "$2"'
            argv = ("sh", "-c", script, "sh", f"{command.argv[0]}: {error.strerror}", str(code))
            inner = await anyio.open_process(argv, stdin=subprocess.PIPE)
        process = HostProcess(inner, mark)
        try:
            yield process
        finally:
            with anyio.CancelScope(shield=True):
                await process.signal(signal.SIGKILL)
                await inner.aclose()

    @asynccontextmanager
    async def open_main(self) -> AsyncIterator[Process]:
        """See `Sandbox`. It has no main process."""
        raise UsageError("A HostSandbox has no main process.")
        yield

    async def wait(self) -> SandboxInfo:
        """See `Sandbox`."""
        await self._gone.wait()
        return self.info

    async def refresh(self) -> SandboxInfo:
        """See `Sandbox`."""
        if self._gone.is_set():
            raise SandboxGone("The host sandbox is gone.")
        return self.info

    async def stop(self, grace_s: float) -> None:  # noqa: ARG002
        """See `Sandbox`."""
        self.vanish()

    async def logs(self, *, tail: int | None, follow: bool) -> AsyncIterator[Output]:  # noqa: ARG002
        """See `Sandbox`."""
        for output in ():
            yield output


class HostProcess(Process):
    """A process of this machine and its descendants, found by a mark in their environment."""

    def __init__(self, inner: anyio.abc.Process, mark: str) -> None:
        self._inner = inner
        self._mark = f"{_MARK}={mark}".encode()

    async def __aiter__(self) -> AsyncIterator[Output]:
        send, receive = anyio.create_memory_object_stream[Output](0)

        async def pump(stream: Stream, source: anyio.abc.ByteReceiveStream) -> None:
            async with clone_of[stream]:
                async for data in source:
                    await clone_of[stream].send(Output(stream, data))

        clone_of: dict[Stream, anyio.streams.memory.MemoryObjectSendStream[Output]] = {
            "stdout": send,
            "stderr": send.clone(),
        }
        assert self._inner.stdout is not None
        assert self._inner.stderr is not None
        async with anyio.create_task_group() as group, receive:
            group.start_soon(pump, "stdout", self._inner.stdout)
            group.start_soon(pump, "stderr", self._inner.stderr)
            async for output in receive:
                yield output

    async def write(self, data: bytes) -> None:
        """See `Process`."""
        assert self._inner.stdin is not None
        try:
            await self._inner.stdin.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise BrokenPipeError from error

    async def close_stdin(self) -> None:
        """See `Process`."""
        if self._inner.stdin is not None:
            await self._inner.stdin.aclose()

    async def resize(self, rows: int, columns: int) -> None:
        """See `Process`. There is no terminal."""

    async def signal(self, number: int) -> None:
        """See `Process`."""
        for pid in self._tree():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    async def wait(self) -> int:
        """See `Process`."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._drain)
            code = await self._inner.wait()
            group.cancel_scope.cancel()
        return code if code >= 0 else 128 - code

    async def _drain(self) -> None:
        async for _ in self:
            pass

    def _tree(self) -> list[int]:
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self._mark in environ.read_bytes().split(b"\0"):
                    found.append(int(environ.parent.name))
            except OSError:
                continue
        return found
