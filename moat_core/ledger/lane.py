"""Undoing once what dead owners left on one engine: a few runs at a time, each thing with its own time.

"Not there" is believed of an engine that has had time to do what it was asked for: what a dead owner may just have
asked for is looked for again until nothing of that kind has turned up for a while, counted from the engine's first
answer to us, since before that it may have stood still.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import anyio
import attrs

from moat_core.errors import MoatError
from moat_core.ledger.ledger import LATE_S, Held, Kinds, Ledger
from moat_core.store import journal
from moat_core.store.paths import Lock
from moat_core.types import Problem

if TYPE_CHECKING:
    from moat_core.ledger.connections import Connections
    from moat_core.store import LedgerRow, RunRow, Store

__all__ = ["Lane", "Reaped", "to_problem"]

_AT_ONCE = 4
_AGAIN_S = 0.5
_SILENT = 4
"""After so many things in a row to which the engine said nothing, the others are not tried: it is away."""
_DIED = "Its owner died; moat undid it."


@attrs.define
class Reaped:
    """What was undone: ``(run id or "", what)`` pairs, and what could not be."""

    released: list[tuple[str, str]] = attrs.field(factory=list)
    problems: list[Problem] = attrs.field(factory=list)


@attrs.define(eq=False)
class _Dead:
    """A run that is being undone; its lock is ours.

    Args:
        late: What was not there, and may appear.
    """

    run_id: str
    lock: Lock
    ledger: Ledger
    late: list[Held] = attrs.field(factory=list)
    has_failed: bool = False


class Lane:
    """The dead runs of one engine."""

    def __init__(
        self, store: Store, kinds: Kinds, connections: Connections, reaped: Reaped, say: Callable[[str], None]
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._connections = connections
        self._reaped = reaped
        self._say = say
        self._silent = 0
        self._waiting: list[_Dead] = []
        self._quiet_since = 0.0

    async def reap(self, run_ids: Iterable[str]) -> None:
        """Undo what these runs have left. What fails is in ``reaped.problems``, and hides nothing else."""
        runs = iter(tuple(run_ids))
        try:
            async with anyio.create_task_group() as group:
                for _ in range(_AT_ONCE):
                    group.start_soon(self._work, runs)
            await self._wait_for_late()
        finally:
            for dead in self._waiting:
                dead.lock.release()

    async def _work(self, runs: Iterator[str]) -> None:
        for run_id in runs:
            if self._silent >= _SILENT:
                return
            lock = Lock(self._store.home.run_lock(run_id))
            if not lock.acquire():
                continue  # its owner, or another reaper, was only slow to show
            dead = _Dead(run_id, lock, Ledger(run_id, self._store, self._kinds, self._connections))
            try:
                await self._undo_all(dead)
            except Exception as error:  # noqa: BLE001 - one broken plugin or row must not keep the others from being reaped
                self._fail(dead, error)
            finally:
                if dead.late:
                    self._waiting.append(dead)
                else:
                    lock.release()

    async def _undo_all(self, dead: _Dead) -> None:
        run, rows = self._store.run(dead.run_id), self._store.resources(dead.run_id, kept=False)
        if not rows and (run is None or run.phase == "over"):
            return  # its owner ended it in order, between our look and our lock
        name = f"{run.name} ({run.id})" if run else dead.run_id
        self._say(f"{name}: its owner is gone; undoing what it left.")
        for row in rows:
            try:
                await self._undo(dead, row)
            except Exception as error:  # noqa: BLE001 - see above
                self._fail(dead, error)
        if not dead.late:
            self._end(dead)

    async def _undo(self, dead: _Dead, row: LedgerRow) -> None:
        held = dead.ledger.restore(row)
        found = await dead.ledger.undo(held)
        self._silent = 0
        if found:
            self._reaped.released.append((dead.run_id, f"{row.kind} {_name(held)}"))
        if held.resource.may_grow or (row.state == "intent" and not found):
            dead.late.append(held)
            self._quiet_since = anyio.current_time()
        else:
            await dead.ledger.forget(held)

    async def _wait_for_late(self) -> None:
        """Look again for what was not there; whatever turns up shows that the engine is still at work."""
        while self._waiting:
            await anyio.sleep(_AGAIN_S)
            is_over = anyio.current_time() - self._quiet_since >= LATE_S
            for dead in tuple(self._waiting):
                for held in tuple(dead.late):
                    await self._look_again(dead, held, is_over=is_over)
                if not dead.late:
                    self._end(dead)
                    self._waiting.remove(dead)
                    dead.lock.release()

    async def _look_again(self, dead: _Dead, held: Held, *, is_over: bool) -> None:
        try:
            found = await dead.ledger.undo(held)
        except Exception as error:  # noqa: BLE001 - see above
            dead.late.remove(held)
            self._fail(dead, error)
            return
        if found:
            self._reaped.released.append((dead.run_id, f"{held.resource.kind} {_name(held)}"))
            self._quiet_since = anyio.current_time()
        if (found and not held.resource.may_grow) or (is_over and not found):
            if not found:
                self._store.add_unseen(dead.run_id)
            dead.late.remove(held)
            await dead.ledger.forget(held)

    def _fail(self, dead: _Dead, error: Exception) -> None:
        dead.has_failed = True
        self._silent += isinstance(error, TimeoutError | ConnectionError)
        self._reaped.problems.append(to_problem(dead.run_id, error))

    def _end(self, dead: _Dead) -> None:
        """Write down that the run is over: as its owner has said, if it has."""
        run = self._store.run(dead.run_id)
        if dead.has_failed or run is None or run.phase == "over":
            return
        self._store.update_run(run.id, phase="over", **_how_it_ended(self._store, run))


def _how_it_ended(store: Store, run: RunRow) -> dict[str, object]:
    if run.status is not None:
        return {}  # it was written down before what it had made could be undone
    told = journal.read(store.home, run.id).run  # where there was no writing into the file just then
    if told.get("status") is not None:
        return {key: told.get(key) for key in ("status", "exit_code", "error", "ended")}
    return {"status": "failed", "ended": time.time(), "error": _DIED}


def to_problem(run_id: str, error: Exception) -> Problem:
    """Return what is told of something that could not be undone."""
    if isinstance(error, MoatError):
        return Problem(error.message, error.hint, run_id)
    return Problem(f"{type(error).__name__}: {error}", "`moat clean` tries again.", run_id)


def _name(held: Held) -> str:
    return str(getattr(held.resource, "name", "")) or os.fspath(getattr(held.resource, "path", ""))
