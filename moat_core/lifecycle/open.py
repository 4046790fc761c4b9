"""What must hold before the first thing of a run is made, and until the last is undone: lock, watchdog, row."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import attrs

from moat_core.errors import MoatError, StoreError
from moat_core.imports import look_there_last
from moat_core.lifecycle.mounts import hold_mounts
from moat_core.lifecycle.run import RunResult
from moat_core.store import RunRow
from moat_core.store.given import Given
from moat_core.store.paths import Lock, is_locked
from moat_core.types import Problem

if TYPE_CHECKING:
    from moat_core.ledger import Watchdog
    from moat_core.lifecycle.run import Run
    from moat_core.store import Home, Store

__all__ = ["Opened"]


@attrs.define(eq=False)
class Opened:
    """A run's proof of life.

    Args:
        owner_kind: ``foreground``, ``detached`` or ``library``: who may be asked to end it, and how.
        probe: See `RuntimeInfo.probe`.
    """

    home: Home
    store: Store
    watchdog: Watchdog
    owner_kind: str
    probe: str
    _lock: Lock | None = None
    _written: bool = False
    _gave_up: bool = False

    async def begin(self, run: Run) -> None:
        """Take the lock, start the watchdog, write the row: in this order, so that no row is ever unwatched.

        Raises:
            StoreError: MOAT_HOME cannot be written.
        """
        self.home.make()
        lock = Lock(self.home.run_lock(run.id))
        if not lock.acquire():
            raise StoreError(f"Somebody else owns {run.id}.", hint="Ask for a run without naming its id.")
        self._lock = lock
        self.watchdog.start()
        plan = run.plan
        self.store.add_run(
            RunRow(
                id=run.id,
                name=run.name,
                runtime=plan.runtime,
                address=run.address,
                probe=self.probe,
                workspace=str(plan.workspace),
                command=list(plan.command) if plan.command is not None else None,
                env_names=sorted(plan.env),
                ports={port.endpoint: port.number for port in plan.ports},
                owner_pid=os.getpid(),
                owner_kind=self.owner_kind,
                sandboxed=int(plan.sandboxed),
                phase="open",
                created=time.time(),
                urls={},
            )
        )
        self._written = True
        try:
            os.makedirs(run.home, mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreError(f"The run's folder cannot be made: {error.strerror}.", hint="Free some space.") from error
        await run.ledger.step("opened")

    async def hold_mounts(self, run: Run) -> None:
        """Hold what the plan mounts, and remember what this run can write to before it can.

        Raises:
            HostPathError: Something does not lead where it should.
        """
        await hold_mounts(run, Given(self.store).add)
        look_there_last(mount.source for mount in run.plan.mounts if not mount.read_only)

    async def started(self, run: Run) -> None:
        """Remember that the run is up, what the engine really started it with, and where it is reached."""
        published = run.sandbox.info.ports
        for port in run.plan.ports:
            if port.number in published:
                run.urls.setdefault(port.endpoint, f"http://127.0.0.1:{published[port.number]}")
        self.store.update_run(
            run.id,
            phase="act",
            oci_runtime=run.sandbox.info.oci_runtime,
            sandboxed=int(run.plan.sandboxed),
            urls=run.urls,
        )

    async def end(self, run: Run) -> RunResult:
        """Write down how it ended and give the lock up.

        What could not be undone keeps its rows: the run is then not over, and whoever gets the lock may reap it.
        """
        result = _result(run)
        if run.detached:
            self._let_go(run)
            return result
        try:
            if self._written:  # else the row of that id, if there is one, is somebody else's
                await self._write_end(run, result)
            await run.tell("moat_on_closed", result=result)
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None
        if self._gave_up:
            self.watchdog.reap_now()
        return attrs.evolve(result, problems=tuple(run.problems))

    def _let_go(self, run: Run) -> None:
        """Leave the lock to the supervisor, with whom we share it; should that one have died already, nobody has it."""
        assert self._lock is not None
        self._lock.close()
        self._lock = None
        if not is_locked(self.home.run_lock(run.id)):
            self.watchdog.reap_now()

    async def _write_end(self, run: Run, result: RunResult) -> None:
        error = result.outcome.error
        try:
            left = self.store.resources(run.id, kept=False)
            self._gave_up = bool(left)
            self.store.update_run(
                run.id,
                phase="finish" if left else "over",
                ended=time.time(),
                status=result.outcome.status,
                exit_code=result.exit_code,
                error=str(error) if error is not None else None,
            )
            await run.ledger.step("closed")
        except MoatError as problem:
            self._gave_up = True
            run.problems.append(Problem(problem.message, problem.hint, "store"))

    @property
    def lock_fd(self) -> int:
        """The lock's descriptor, for a process that goes on owning the run."""
        assert self._lock is not None
        return self._lock.fd


def _result(run: Run) -> RunResult:
    assert run.outcome is not None
    sandbox, ended = run._sandbox, run.main_ended  # noqa: SLF001 - the property raises when there is none
    return RunResult(
        run_id=run.id,
        name=run.name,
        outcome=run.outcome,
        exit_code=ended.exit_code if ended is not None and run.plan.command is not None else None,
        oci_runtime=sandbox.info.oci_runtime if sandbox is not None else None,
        problems=tuple(run.problems),
        left=tuple(run.undo.left),
        duration_s=time.monotonic() - run.started,
    )
