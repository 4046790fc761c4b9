"""A run that is alive, as the library's user holds it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import anyio

from moat_core.errors import MoatError, RunOver, UsageError
from moat_core.events import Event, ExecEnded, ExecStarted
from moat_core.lifecycle import Outcome, Run, RunResult, UndoStack, execute
from moat_core.runtime import files
from moat_core.runtime.exec import OUTPUT_LIMIT_BYTES, Collector, exec_command
from moat_core.store.log import LogWriter
from moat_core.types import Command, ExecResult, Output

if TYPE_CHECKING:
    from types import TracebackType

    from moat_core.lifecycle import Opened
    from moat_core.runtime.base import Process, Sandbox

__all__ = ["AttachedRun", "RunHandle", "SandboxHandle"]

OnOutput = Callable[[Output], Awaitable[None]]
_EXIT_OF_KILLED = 137


class SandboxHandle:
    """What can be done inside a live container, whoever owns its run."""

    name: str

    @property
    def sandbox(self) -> Sandbox:
        """The container."""
        raise NotImplementedError

    async def exec(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bytes | str | None = None,
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
            CommandFailed, CommandTimeout: With ``check=True`` only; both carry the result.
            SandboxGone, RunOver: The container is not there any more. Never shown as a command's failure.
        """
        command = _command(argv, env, cwd, user)
        data = stdin.encode() if isinstance(stdin, str) else stdin
        async with self._around(command) as finish:
            result = await exec_command(
                self.sandbox, command, stdin=data, timeout_s=timeout_s, limit_bytes=limit_bytes, on_output=on_output
            )
            await finish(result)
        return result.check() if check else result

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
        command = _command(argv, env, cwd, user, stdin=stdin, tty=tty, size=size)
        async with self._around(command), self.sandbox.open_process(command) as process:
            yield process

    async def read(self, path: str, *, limit_bytes: int = files.READ_LIMIT_BYTES) -> bytes:
        """Return the content of a file; see `moat_core.runtime.files.read`."""
        return await files.read(self.sandbox, path, limit_bytes=limit_bytes)

    async def write(self, path: str, data: bytes | str) -> None:
        """Write a file, making the folders above it; see `moat_core.runtime.files.write`."""
        await files.write(self.sandbox, path, data.encode() if isinstance(data, str) else data)

    async def upload(self, source: str | os.PathLike[str], target: str) -> None:
        """Copy a file or folder of the host into a folder of the run."""
        await files.upload(self.sandbox, source, target)

    async def download(self, source: str, target: str | os.PathLike[str]) -> None:
        """Copy a file or folder of the run into a folder of the host."""
        await files.download(self.sandbox, source, target)

    @asynccontextmanager
    async def _around(self, command: Command) -> AsyncIterator[Callable[[ExecResult], Awaitable[None]]]:  # noqa: ARG002
        async def finish(result: ExecResult) -> None:
            """Nobody has to know of it outside the owner."""

        yield finish


class AttachedRun(SandboxHandle):
    """A live run of another process."""

    def __init__(self, name: str, sandbox: Sandbox) -> None:
        self.name = name
        self._sandbox = sandbox

    @property
    def sandbox(self) -> Sandbox:
        """The container."""
        return self._sandbox


class RunHandle(SandboxHandle):
    """A run of ours: ``async with moat.run(...) as run``. Leaving destroys it.

    Its life is driven by a task of its own, so that a cancellation of the caller ends it in order; that task is
    always awaited before ``__aexit__`` returns, whatever happens.
    """

    def __init__(self, make: Callable[[], Awaitable[tuple[Run, Opened]]], on_output: OnOutput | None) -> None:
        self._make = make
        self._on_output = on_output
        self._run: Run | None = None
        self._opened: Opened | None = None
        self._driver: asyncio.Task[RunResult] | None = None
        self._closing = asyncio.Event()
        self._collector = Collector()
        self._main_read = asyncio.Event()
        self._exec_count = 0
        self._main: Process | None = None

    # -- life --------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._driver is not None:
            raise UsageError("A run can be entered once.", hint="Ask for another with moat.run(...).")
        self._run, opened = await self._make()
        self._opened = opened
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def body(run: Run) -> None:
            if run.plan.command is not None:
                await run.start_service("output", self._pump)
            ready.set_result(None)
            await self._closing.wait()

        self._driver = asyncio.create_task(execute(self._run, opened, body), name=f"moat {self._run.id}")
        try:
            waited: set[asyncio.Future[Any]] = {self._driver, ready}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._run.cancel()
            await self._finish()
            raise
        if self._driver.done():
            self._driver.result().check()
            raise RunOver(f"The run {self.name} ended before it had begun.")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            self.run.outcome = Outcome("failed", error=error)
        elif error is not None:
            self.run.cancel()
        result = await self.aclose()
        if error is None and result.outcome.status == "failed":
            result.check()

    async def aclose(self) -> RunResult:
        """End the run now, undo everything, and return how it ended. Safe to call again."""
        self._closing.set()
        return await self._finish()

    async def _finish(self) -> RunResult:
        """Await the driver; a cancellation meanwhile takes its patience, not its result."""
        assert self._driver is not None
        assert self._run is not None
        await _outlast(self._driver, self._run.cancel)
        return self._driver.result()

    # -- what it is --------------------------------------------------------------------------------------------

    @property
    def run(self) -> Run:
        """What plugins see of it.

        Raises:
            RunOver: It was not entered yet.
        """
        if self._run is None:
            raise RunOver("The run was not entered: use `async with`.")
        return self._run

    @property
    def is_begun(self) -> bool:
        """Whether it was entered, so that there is something to close."""
        return self._driver is not None

    @property
    def was_cancelled(self) -> bool:
        """Whether somebody asked for the end without giving an error as the reason."""
        return self._run is not None and self._run.cancel_requested and self._run.cancel_reason is None

    @property
    def main(self) -> Process:
        """The main process, for its stdin, signals and terminal size; its output is read already.

        Raises:
            RunOver: The run is not open.
        """
        if self._main is None:
            raise RunOver(f"The run {self.name} is not open.")
        return self._main

    @property
    def id(self) -> str:
        """``run-`` and 8 hex digits."""
        return self.run.id

    @property
    def name(self) -> str:  # type: ignore[override]
        """The agent's name."""
        return self.run.name

    @property
    def sandbox(self) -> Sandbox:
        """The container.

        Raises:
            RunOver, SandboxGone: It is not there any more; the error says why, if it is known.
        """
        if self._driver is not None and self._driver.done():
            raise RunOver(f"The run {self.name} is over.")
        reason = self.run.cancel_reason
        if isinstance(reason, MoatError):
            raise reason
        return self.run.sandbox

    @property
    def oci_runtime(self) -> str:
        """What the engine really started the container with: ``runsc`` is gVisor."""
        return self.sandbox.info.oci_runtime

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call LISTENER with every event of the run from now on; returns a function that ends it."""
        return self.run.events.subscribe(listener)

    # -- what it does ------------------------------------------------------------------------------------------

    async def wait(self) -> ExecResult:
        """Wait for the run's own command (``command=``) to end, and return how it did, with its output.

        Raises:
            UsageError: It has no command of its own.
            MoatError: What ended the run otherwise.
        """
        run = self.run
        if run.plan.command is None:
            raise UsageError(f"The run {self.name} has no command of its own to wait for.", hint="Use exec().")
        assert self._driver is not None
        timed_out = False
        read = asyncio.ensure_future(self._main_read.wait())
        try:
            await asyncio.wait({self._driver, read}, timeout=run.plan.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not read.done() and not self._driver.done():
                timed_out = True
                await run.sandbox.stop(0)
                await asyncio.wait({self._driver, read}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            read.cancel()
        if run.main_ended is None:
            self._driver.result().check() if self._driver.done() else None
            raise RunOver(f"The run {self.name} ended before its command did.")
        code = run.main_ended.exit_code
        return ExecResult(
            argv=run.plan.command,
            exit_code=_EXIT_OF_KILLED if code is None or timed_out else code,
            stdout=self._collector.get("stdout"),
            stderr=self._collector.get("stderr"),
            truncated=self._collector.truncated,
            timed_out=timed_out,
            oom_killed=run.main_ended.oom_killed,
            duration_s=asyncio.get_running_loop().time() - self._started,
        )

    async def detach(self) -> None:
        """Let the run live on without this process: a supervisor of its own takes it over, lock and all.

        Leaving the handle's context then undoes nothing. `Moat.attach` finds the run again, ``moat stop`` ends it.

        Raises:
            UsageError: A plugin serves it from within this process, which cannot be handed over.
        """
        run = self.run
        ours = set(run.service_names) - {"watch", "output"}
        if ours:
            raise UsageError(
                f"The run {self.name} cannot be detached: {', '.join(sorted(ours))} runs in this process.",
                hint="Start it with `moat run -d` instead: its supervisor then owns everything from the start.",
            )
        assert self._opened is not None
        from moat_core.api.supervisor import adopt

        await adopt(self._opened.home, run.id, self._opened.lock_fd)
        run.detached = True
        await self.aclose()

    async def stop(self, *, grace_s: float = 10.0) -> None:
        """Ask the container's main process to end, and kill it after GRACE_S seconds."""
        await self.sandbox.stop(grace_s)

    def url(self, endpoint: str) -> str:
        """Return where an endpoint of the run can be reached from this machine: ``http://127.0.0.1:<port>``.

        Raises:
            UsageError: The run has no such endpoint.
        """
        ports = {port.endpoint: port.number for port in self.run.plan.ports}
        published = self.sandbox.info.ports
        if endpoint not in ports or ports[endpoint] not in published:
            known = ", ".join(sorted(ports)) or "none"
            raise UsageError(f"The run {self.name} has no endpoint '{endpoint}'.", hint=f"It has: {known}.")
        return f"http://127.0.0.1:{published[ports[endpoint]]}"

    # -- its own command's output ------------------------------------------------------------------------------

    async def _pump(self, *, task_status: Any) -> None:
        """Read the main process's output: into the log, to the listener, and the beginning of it into memory."""
        run = self.run
        self._started = asyncio.get_running_loop().time()
        log = LogWriter(os.fspath(run.home))
        try:
            async with run.sandbox.open_main() as main:
                self._main = main
                task_status.started()
                async for output in main:
                    log.write(output.stream, output.data)
                    if self._on_output is not None:
                        await self._on_output(output)
                    else:
                        self._collector.add(output)
                await run.main_done.wait()
        finally:
            log.close()
            self._main_read.set()
        await asyncio.Event().wait()

    @asynccontextmanager
    async def _around(self, command: Command) -> AsyncIterator[Callable[[ExecResult], Awaitable[None]]]:
        run = self.run
        self._exec_count += 1
        exec_id = f"{run.id}.{self._exec_count}"

        async def finish(result: ExecResult) -> None:
            await run.emit(ExecEnded(run.id, exec_id, result.exit_code, result.duration_s, result.timed_out))

        await run.emit(ExecStarted(run.id, exec_id, command.argv))
        async with _entered(run, command):
            yield finish


@asynccontextmanager
async def _entered(run: Run, command: Command) -> AsyncIterator[None]:
    """Surround the body with every ``moat_around_exec`` context; each is left however the command ended.

    They are held by a task of their own: a cancellation of the caller's that comes while they are left must neither
    cut them short nor be lost.
    """
    if not run.dispatcher.has("moat_around_exec"):
        yield
        return
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def hold() -> None:
        stack = UndoStack(run.grace_s, run.problems)
        try:
            for wanted in run.dispatcher.contexts("moat_around_exec", run=run, command=command):
                context = wanted.make()
                if context is not None:
                    with run.dispatcher.calling(wanted.plugin, wanted.hook):
                        await stack.enter(wanted.plugin, wanted.hook, context)
            ready.set_result(None)
            await leave.wait()
        finally:
            await stack.unwind()

    holder = asyncio.create_task(hold(), name=f"moat {run.id} around")
    try:
        waited: set[asyncio.Future[Any]] = {holder, ready}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            yield
    finally:
        leave.set()
        if not ready.done():
            holder.cancel()
        await _outlast(holder)
    if not ready.done():
        holder.result()


async def _outlast(task: asyncio.Task[Any], on_cancel: Callable[[], None] = lambda: None) -> None:
    """Wait for the end of TASK, whatever happens to us; a cancellation that came meanwhile is raised after it."""
    cancelled: asyncio.CancelledError | None = None
    # The scope keeps out anyio's cancellation, which would come again at every await; task.cancel() comes in.
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
                on_cancel()
    if cancelled is not None:
        raise cancelled


def _command(
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    cwd: str | None,
    user: str | None,
    *,
    stdin: bool = False,
    tty: bool = False,
    size: tuple[int, int] | None = None,
) -> Command:
    if isinstance(argv, str) or not argv or not all(isinstance(word, str) for word in argv):
        raise UsageError(f"A command is a list of strings, not {argv!r}.", hint='For a shell: ["sh", "-c", "a | b"].')
    return Command(tuple(argv), env or {}, cwd, user, tty=tty, stdin=stdin, size=size)
