"""What can be done inside a live container, whoever owns its run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from moat_core import checks
from moat_core.runtime import files
from moat_core.runtime.exec import OUTPUT_LIMIT_BYTES, exec_command
from moat_core.types import Command, ExecResult, Output

if TYPE_CHECKING:
    from moat_core.host_path import IsShared
    from moat_core.runtime.base import Process, Sandbox

__all__ = ["AttachedRun", "OnOutput", "SandboxHandle"]

OnOutput = Callable[[Output], Awaitable[None]]


class SandboxHandle:
    """What can be done inside a live container, whoever owns its run."""

    name: str

    @property
    def sandbox(self) -> Sandbox:
        """The container."""
        raise NotImplementedError

    @property
    def given(self) -> IsShared:
        """Tells which folders of this machine any run was ever given to write to."""
        raise NotImplementedError

    async def exec(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: checks.Content | None = None,
        timeout_s: float | None = None,
        limit_bytes: int = OUTPUT_LIMIT_BYTES,
        check: bool = False,
        on_output: OnOutput | None = None,
    ) -> ExecResult:
        """Run a command to its end.

        Args:
            argv: Program and arguments; for a shell say so: ``["sh", "-c", "a | b"]``.
            env: Added to the run's environment.
            cwd: Working folder; the workspace if not given.
            user: ``"root"`` or ``"uid:gid"``; the run's user if not given.
            stdin: What it reads; a string is sent as UTF-8.
            timeout_s: After so many seconds all of its processes are killed; ``timed_out`` says so.
            limit_bytes: What is kept of stdout and of stderr each; ``truncated`` says when that was not all.
            check: Raise for an exit code other than 0.
            on_output: Awaited with each piece of output as it arrives.

        Raises:
            InvalidType, InvalidValue, ArgumentTooLong: An argument cannot be (a `TypeError`, a `ValueError` and an
                `OSError`, as for `subprocess.run`); nothing was started.
            CommandFailed, CommandTimeout: With ``check=True`` only; both carry the result.
            SandboxGone, RunOver: The container is not there any more. Never shown as a command's failure.
        """
        command = Command(tuple(checks.argv(argv)), env or {}, cwd, user)
        data = None if stdin is None else checks.content(stdin, "stdin")
        limit_s = None if timeout_s is None else checks.positive_s(timeout_s, "timeout_s")
        kept = checks.count(limit_bytes, "limit_bytes")
        wants_check = checks.flag(check, "check")
        async with self._around(command) as finish:
            result = await exec_command(
                self.sandbox, command, stdin=data, timeout_s=limit_s, limit_bytes=kept, on_output=on_output
            )
            await finish(result)
        return result.check() if wants_check else result

    @asynccontextmanager
    async def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bool = False,
        tty: bool = False,
        size: tuple[int, int] | None = None,
    ) -> AsyncIterator[Process]:
        """Start a command and yield it while it runs; leaving kills what is left of its process tree.

        Args:
            stdin: Give it a standard input to write to.
            tty: Give it a pseudo-terminal of SIZE (rows, columns).
        """
        command = Command(tuple(checks.argv(argv)), env or {}, cwd, user, tty, stdin, size)
        async with self._around(command), self.sandbox.open_process(command) as process:
            yield process

    async def read(self, path: checks.PathName, *, limit_bytes: int = files.READ_LIMIT_BYTES) -> bytes:
        """Return the content of a file; see `moat_core.runtime.files.read`."""
        return await files.read(self.sandbox, path, limit_bytes=limit_bytes)

    async def write(self, path: checks.PathName, data: checks.Content) -> None:
        """Write a file, making the folders above it; see `moat_core.runtime.files.write`."""
        await files.write(self.sandbox, path, data)

    async def upload(self, source: checks.PathName, target: checks.PathName) -> None:
        """Copy a file or folder of the host into a folder of the run; see `moat_core.runtime.files.upload`."""
        await files.upload(self.sandbox, source, target, given=self.given)

    async def download(
        self, source: checks.PathName, target: checks.PathName, *, limit_bytes: int = files.DOWNLOAD_LIMIT_BYTES
    ) -> None:
        """Copy a file or folder of the run into a folder of the host; see `moat_core.runtime.files.download`."""
        await files.download(self.sandbox, source, target, limit_bytes=limit_bytes, given=self.given)

    @asynccontextmanager
    async def _around(self, command: Command) -> AsyncIterator[Callable[[ExecResult], Awaitable[None]]]:  # noqa: ARG002
        async def finish(result: ExecResult) -> None:
            """Nobody has to know of it outside the owner."""

        yield finish


class AttachedRun(SandboxHandle):
    """A live run of another process."""

    def __init__(self, name: str, sandbox: Sandbox, given: IsShared) -> None:
        self.name = name
        self._sandbox = sandbox
        self._given = given

    @property
    def sandbox(self) -> Sandbox:
        """The container."""
        return self._sandbox

    @property
    def given(self) -> IsShared:
        """See `SandboxHandle`."""
        return self._given
