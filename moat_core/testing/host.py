"""A `Sandbox` that isolates nothing: its commands run on this very machine, in a folder.

For testing what is built on ``exec`` (file transfer, limits, time-outs) with a real shell and real pipes but without
an engine, and as the simplest example of the contract. Never for anything that is not trusted.
"""

from __future__ import annotations

import functools
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
from moat_core.runtime.exec import beside
from moat_core.types import Command, Output, RunState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

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
        send, receive = anyio.create_memory_object_stream[Output](0)  # no room: who does not read stops the writer
        process = HostProcess(inner, mark, receive)
        try:
            async with receive, beside(functools.partial(process.pump, send)):
                yield process
        finally:
            with anyio.CancelScope(shield=True):
                await process.signal(signal.SIGKILL)
                await inner.aclose()

    def open_main(self) -> AbstractAsyncContextManager[Process]:
        """See `Sandbox`.

        Raises:
            UsageError: It has no main process.
        """
        raise UsageError("A HostSandbox has no main process.")

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
        """See `Sandbox`. There are none."""
        nothing: tuple[Output, ...] = ()
        for output in nothing:
            yield output


class HostProcess(Process):
    """A process of this machine and its descendants, found by a mark in their environment."""

    def __init__(self, inner: anyio.abc.Process, mark: str, outputs: MemoryObjectReceiveStream[Output]) -> None:
        self._inner = inner
        self._mark = f"{_MARK}={mark}".encode()
        self._outputs = outputs

    async def pump(self, send: MemoryObjectSendStream[Output]) -> None:
        """Read both streams to their ends, piece by piece, as somebody takes them."""
        assert self._inner.stdout is not None
        assert self._inner.stderr is not None
        async with send, anyio.create_task_group() as group:
            group.start_soon(self._pump, "stdout", self._inner.stdout, send)
            group.start_soon(self._pump, "stderr", self._inner.stderr, send)

    @staticmethod
    async def _pump(stream: Stream, source: anyio.abc.ByteReceiveStream, send: MemoryObjectSendStream[Output]) -> None:
        async for data in source:
            await send.send(Output(stream, data))

    async def __aiter__(self) -> AsyncIterator[Output]:
        async for output in self._outputs:
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
        told: set[int] = set()
        while new := self._tree() - told:  # until nobody was forked while we looked
            for pid in new:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            told |= new

    async def wait(self) -> int:
        """See `Process`."""
        async for _ in self:
            pass
        code = await self._inner.wait()
        return code if code >= 0 else 128 - code

    def _tree(self) -> set[int]:
        found = set()
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self._mark in environ.read_bytes().split(b"\0"):
                    found.add(int(environ.parent.name))
            except OSError:
                continue
        return found
