"""A run that is alive, as the library's user holds it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import anyio

from moat_core import checks
from moat_core.api.around import outlast, surrounded
from moat_core.api.inside import OnOutput, SandboxHandle
from moat_core.errors import MoatError, RunOver, TeardownError, UsageError
from moat_core.events import Event, ExecEnded, ExecStarted
from moat_core.hooks.manager import BY_HAND
from moat_core.lifecycle import Outcome, Run, RunResult, execute
from moat_core.runtime.exec import Collector
from moat_core.store.log import LogWriter
from moat_core.types import Command, ExecResult, Output

if TYPE_CHECKING:
    from types import TracebackType

    from moat_core.host_path import IsShared
    from moat_core.lifecycle import Opened
    from moat_core.runtime.base import Process, Sandbox

__all__ = ["RunHandle"]

_EXIT_OF_KILLED = 137


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
        self._started = self._ended = 0.0
        self._main: Process | None = None
        self._pumping: anyio.CancelScope | None = None
        self._logged = {"stdout": 0, "stderr": 0}

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
        if isinstance(error, Exception) and self.run.outcome is None and not self.run.cancel_requested:
            self.run.outcome = Outcome("failed", error=error)
        elif error is not None:
            self.run.cancel()
        result = await self.aclose()
        if error is not None:
            return
        if result.outcome.status == "failed":
            result.check()
        if result.left:
            raise TeardownError(
                f"The run {self.name} ended well, but not everything of it could be undone: {result.left[0].message}",
                hint="What is left is being removed by the reaper; `moat status` tells.",
                problems=[problem.to_json() for problem in result.left],
            )

    async def wait_until_over(self) -> None:
        """Wait until the run has ended, however that comes, and everything is undone; nothing is asked to end."""
        assert self._driver is not None
        await asyncio.wait({self._driver})

    async def aclose(self) -> RunResult:
        """End the run now, undo everything, and return how it ended. Safe to call again."""
        self._closing.set()
        return await self._finish()

    async def _finish(self) -> RunResult:
        """Await the driver; a cancellation meanwhile takes its patience, not its result."""
        assert self._driver is not None
        assert self._run is not None
        await outlast(self._driver, self._run.cancel)
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
    def given(self) -> IsShared:
        """See `SandboxHandle`."""
        return self.run.given

    @property
    def sandbox(self) -> Sandbox:
        """The container.

        Raises:
            RunOver, SandboxGone: It is not there any more; the error says why, if it is known.
        """
        reason = self.run.cancel_reason
        if isinstance(reason, MoatError):
            raise reason
        if self._driver is not None and self._driver.done():
            raise RunOver(f"The run {self.name} is over.")
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
        read = asyncio.ensure_future(self._main_read.wait())
        try:
            await asyncio.wait({self._driver, read}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            read.cancel()
        if run.main_ended is None:
            if run.cancel_reason is not None:
                raise run.cancel_reason
            raise RunOver(f"The run {self.name} ended before its command did.")
        code = run.main_ended.exit_code
        return ExecResult(
            argv=run.plan.command,
            exit_code=_EXIT_OF_KILLED if code is None or run.timed_out else code,
            stdout=self._collector.get("stdout"),
            stderr=self._collector.get("stderr"),
            truncated=self._collector.truncated,
            timed_out=run.timed_out,
            oom_killed=run.main_ended.oom_killed,
            duration_s=self._ended - self._started,
        )

    async def detach(self) -> None:
        """Let the run live on without this process: a supervisor of its own takes it over, lock and all.

        Leaving the handle's context then undoes nothing. `Moat.attach` finds the run again, ``moat stop`` ends it.

        Raises:
            UsageError: A plugin serves it from within this process, which cannot be handed over.
        """
        run = self.run
        by_hand = [info.name for info in run.dispatcher.plugins.plugins.values() if info.origin == BY_HAND]
        if by_hand:
            raise UsageError(
                f"The run {self.name} cannot be detached: the plugin {by_hand[0]} was registered in this process.",
                hint="Install it, or name its module in MOAT_PLUGINS: a supervisor can load those.",
            )
        ours = set(run.service_names) - {"watch", "moves", "output", "time limit"}
        if ours:
            raise UsageError(
                f"The run {self.name} cannot be detached: {', '.join(sorted(ours))} runs in this process.",
                hint="Start it with `moat run -d` instead: its supervisor then owns everything from the start.",
            )
        assert self._opened is not None
        from moat_core.api.supervisor import adopt

        await self._stop_pump()
        task = {
            "logged": self._logged,
            "keep": run.plan.keep,
            "timeout_s": run.time_left_s,
            "mounts": [(target, held.path, *held.identity) for target, held in run.held_mounts.items()],
        }
        await adopt(self._opened.home, run.id, self._opened.lock_fd, task, without=run.dispatcher.plugins.without)
        run.detached = True
        await self.aclose()

    async def _stop_pump(self) -> None:
        """Stop reading the output, so that the supervisor can go on exactly there."""
        if self._pumping is not None:
            self._pumping.cancel()
            await self._main_read.wait()

    async def stop(self, *, grace_s: float = 10.0) -> None:
        """Ask the container's main process to end, and kill it after GRACE_S seconds."""
        await self.sandbox.stop(checks.seconds(grace_s, "grace_s"))

    def url(self, endpoint: str) -> str:
        """Return where a browser on this machine finds an endpoint of the run.

        That is ``http://<endpoint>.<agent>.localhost:<port>`` with routing, else ``http://127.0.0.1:<port>``. Many
        systems' resolvers do not know names under ``localhost``, which browsers and curl do: see `address`.

        Raises:
            UsageError: The run has no such endpoint.
        """
        urls = self.run.urls
        if checks.text(endpoint, "endpoint") not in urls:
            raise self._no_endpoint(endpoint, urls)
        return urls[endpoint]

    def address(self, endpoint: str) -> tuple[str, int]:
        """Return host and port of this machine where an endpoint is published: for programs, and past any proxy.

        Raises:
            UsageError: The run has no such endpoint.
        """
        numbers = {port.endpoint: port.number for port in self.run.plan.ports}
        published = self.sandbox.info.ports
        if numbers.get(checks.text(endpoint, "endpoint")) not in published:
            raise self._no_endpoint(endpoint, numbers)
        return "127.0.0.1", published[numbers[endpoint]]

    def _no_endpoint(self, endpoint: str, known: Iterable[str]) -> UsageError:
        names = ", ".join(sorted(known)) or "none"
        return UsageError(f"The run {self.name} has no endpoint '{endpoint}'.", hint=f"It has: {names}.")

    @property
    def urls(self) -> dict[str, str]:
        """Endpoint -> its `url`."""
        return dict(self.run.urls)

    # -- its own command's output ------------------------------------------------------------------------------

    async def _pump(self, *, task_status: Any) -> None:
        """Read the main process's output: into the log, to the listener, and the beginning of it into memory."""
        run = self.run
        self._started = asyncio.get_running_loop().time()
        log = LogWriter(os.fspath(run.home))
        self._pumping = anyio.CancelScope()
        try:
            with self._pumping:
                async with run.sandbox.open_main() as main:
                    self._main = main
                    task_status.started()
                    async for output in main:
                        self._logged[output.stream] += len(output.data)
                        log.write(output.stream, output.data)
                        await self._show(output)
                    await run.main_done.wait()
        finally:
            log.close()
            self._ended = asyncio.get_running_loop().time()
            self._main_read.set()
        await asyncio.Event().wait()

    async def _show(self, output: Output) -> None:
        if self._on_output is None:
            self._collector.add(output)
            return
        try:
            await self._on_output(output)
        except Exception as error:  # noqa: BLE001 - the caller's own; it comes back to them as it is
            self.run.cancel(error)

    @asynccontextmanager
    async def _around(self, command: Command) -> AsyncIterator[Callable[[ExecResult], Awaitable[None]]]:
        run = self.run
        self._exec_count += 1
        exec_id = f"{run.id}.{self._exec_count}"

        async def finish(result: ExecResult) -> None:
            await run.emit(ExecEnded(run.id, exec_id, result.exit_code, result.duration_s, result.timed_out))

        await run.emit(ExecStarted(run.id, exec_id, command.argv))
        async with surrounded(run, command):
            yield finish
