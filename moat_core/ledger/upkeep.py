"""What upkeep hooks are given, and the work of undoing what dead owners left."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio

from moat_core.errors import MoatError
from moat_core.ledger.lane import Lane, Reaped, to_problem
from moat_core.ledger.ledger import RELEASE_S, Kinds, Ledger
from moat_core.store.paths import is_locked
from moat_core.types import Leftover, Problem

if TYPE_CHECKING:
    from moat_core.hooks.dispatch import Dispatcher
    from moat_core.ledger.connections import Connections
    from moat_core.runtime.base import Connection
    from moat_core.store import Store

__all__ = ["Reaped", "Upkeep", "kinds_of"]

C = TypeVar("C", bound="Connection")
_FIND_S = 20.0
UNSEEN_S = 300.0
"""For so long every command looks for what an engine may have made late, in seconds."""


def kinds_of(dispatcher: Dispatcher) -> Kinds:
    """Return every registered resource kind.

    Raises:
        MoatError: Two plugins registered the same kind name.
    """
    kinds: Kinds = {}
    owners: dict[str, str] = {}
    for plugin, kind in dispatcher.collect_items("moat_register_resources"):
        if kinds.setdefault(kind.kind, kind) is not kind:
            raise MoatError(f"Plugins '{owners[kind.kind]}' and '{plugin}' both registered '{kind.kind}'.")
        owners[kind.kind] = plugin
    return kinds


class Upkeep:
    """A look at what there is, outside any run.

    Args:
        automatic: The reaper asks: only what nobody can want any more.
    """

    def __init__(
        self, store: Store, dispatcher: Dispatcher, connections: Connections, *, automatic: bool = False
    ) -> None:
        self.store = store
        self.dispatcher = dispatcher
        self.automatic = automatic
        self._connections = connections
        self._kinds = kinds_of(dispatcher)
        self._reported: list[Problem] = []

    @property
    def owner(self) -> str:
        """What the label ``moat.owner`` of everything of ours says: one engine may serve several homes."""
        return self.store.home.owner

    @property
    def moat_home(self) -> Path:
        """The state folder, ``MOAT_HOME``."""
        return Path(self.store.home.path)

    def report(self, problem: Problem) -> None:
        """Tell what could not be looked at, where the rest is an answer all the same."""
        self._reported.append(problem)

    async def connection(self, kind: type[C], address: str) -> C:
        """Return the open connection of KIND to ADDRESS."""
        return await self._connections.get(kind, address)

    def is_live(self, run_id: str) -> bool:
        """Whether the run's owner lives: somebody holds its lock."""
        return is_locked(self.store.home.run_lock(run_id))

    def is_known(self, run_id: str) -> bool:
        """Whether the ledger has rows of that run (kept ones included)."""
        return bool(self.store.resources(run_id))

    def addresses(self) -> list[tuple[str, str]]:
        """Return the ``(runtime, address)`` pairs where something of ours may be, newest first.

        Those are of runs that are not over, of which something is left, or of which something may have appeared late.
        """
        runs = [(run.runtime, run.address) for run in self.store.present_runs()]
        return list(dict.fromkeys([*runs, *self.store.unseen()]))

    def dead_runs(self) -> list[str]:
        """Return the runs that are not over although nobody owns them: a cheap look, no engine is asked."""
        return [run_id for run_id in self.store.unfinished() if not self.is_live(run_id)]

    async def reap(
        self, run_ids: Collection[str] = (), *, on_progress: Callable[[str], None] = lambda text: None
    ) -> Reaped:
        """Undo once everything of dead owners: what the ledger knows, then what only labels tell.

        Args:
            run_ids: Of those only what these have left; of all, if there is none.
        """
        reaped = Reaped()
        engines: dict[object, list[str]] = {}
        for run_id in self.dead_runs():
            if not run_ids or run_id in run_ids:
                run = self.store.run(run_id)
                engines.setdefault((run.runtime, run.address) if run else None, []).append(run_id)
        async with anyio.create_task_group() as group:
            for dead in engines.values():
                lane = Lane(self.store, self._kinds, self._connections, reaped, on_progress)
                group.start_soon(lane.reap, dead)
        await self._sweep(reaped)
        return reaped

    async def release_leftover(self, leftover: Leftover) -> None:
        """Remove something that `moat_find_leftovers` found.

        Raises:
            MoatError: It cannot be removed.
        """
        # Without a row: what could not be removed is found again by its label, and a row for it, of a run that
        # nobody owns, would make every later command a reaper.
        ledger = Ledger(leftover.run_id or "", self.store, self._kinds, self._connections)
        with anyio.fail_after(RELEASE_S):
            await leftover.resource.release(ledger)

    async def destroy(self, run_id: str) -> list[Problem]:
        """Undo every resource of a run whose lock the caller holds or that is over; kept ones too."""
        return await self.settle(run_id, keep=False)

    async def settle(self, run_id: str, *, keep: bool) -> list[Problem]:
        """End a run whose lock the caller holds: undo what it made, and KEEP what may be kept.

        Returns:
            What could not be undone.
        """
        ledger = Ledger(run_id, self.store, self._kinds, self._connections)
        problems = []
        for row in self.store.resources(run_id):
            try:
                await ledger.settle(ledger.restore(row), keep=keep)
            except Exception as error:  # noqa: BLE001 - the others are undone all the same
                problems.append(to_problem(run_id, error))
        return problems

    def follow(self, run_id: str, ports: Mapping[int, int]) -> None:
        """Have what a run made follow its container, see `Resource.moved`; the caller holds its lock."""
        ledger = Ledger(run_id, self.store, self._kinds, self._connections)
        for row in self.store.resources(run_id, kept=False):
            try:
                ledger.follow(ledger.restore(row), ports)
            except MoatError:
                continue  # it cannot be read, which is told when it is to be undone

    async def find_leftovers(self) -> tuple[list[tuple[str, Leftover]], list[Problem]]:
        """Ask every plugin; one that fails or hangs is a problem and hides nobody else's answer."""
        self._reported = []
        with anyio.move_on_after(_FIND_S) as scope:
            found, problems = await self.dispatcher.survey("moat_find_leftovers", upkeep=self)
            return found, problems + self._reported
        assert scope.cancelled_caught
        late = Problem(f"Looking for leftovers took more than {_FIND_S:.0f} s.", "Is the engine well?")
        return [], [*self._reported, late]

    async def _sweep(self, reaped: Reaped) -> None:
        found, problems = await self.find_leftovers()
        reaped.problems += problems
        if not problems:
            self.store.forget_unseen(UNSEEN_S)
        for _, leftover in found:
            if not leftover.automatic or (leftover.run_id and self.is_live(leftover.run_id)):
                continue
            try:
                await self.release_leftover(leftover)
                reaped.released.append((leftover.run_id or "", f"{leftover.kind} {leftover.name}"))
            except Exception as error:  # noqa: BLE001 - see above
                reaped.problems.append(to_problem(leftover.run_id or "", error))
