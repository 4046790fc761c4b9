"""What the ledger has of some kinds, over all runs: for a process that serves what they name, and owns none of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import attrs

from moat_core.ledger.resource import Resource, from_row
from moat_core.store import Home, Store
from moat_core.store.paths import is_locked

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Entry", "LedgerView"]


@attrs.frozen
class Entry:
    """A resource as the ledger has it.

    Args:
        row_id: Greater than that of every row written before.
        state: ``intent``, ``live`` or ``kept``, see `Resource`.
    """

    run_id: str
    row_id: int
    state: str
    resource: Resource


class LedgerView:
    """Reads alone; nothing is made, not even the state folder. Not for use by several threads at once.

    Args:
        home: The state folder.
        kinds: What is looked at.
    """

    def __init__(self, home: str | os.PathLike[str], kinds: Iterable[type[Resource]]) -> None:
        self._store = Store(Home(home))
        self._kinds = {kind.kind: kind for kind in kinds}
        self._seen: tuple[int, int] | None = None

    def changed(self) -> bool:
        """Tell whether anything of the store may have changed since it was asked last; some microseconds."""
        seen, self._seen = self._seen, self._store.version()
        return seen != self._seen

    def read(self) -> list[Entry]:
        """Return the entries, oldest first, without those that another version has written otherwise.

        Raises:
            StoreError: The state cannot be read.
        """
        entries = []
        for row in self._store.resources_of(self._kinds):
            try:
                entries.append(Entry(row.run_id, row.id, row.state, from_row(self._kinds[row.kind], row.data)))
            except (TypeError, ValueError):
                continue
        return entries

    def is_live(self, run_id: str) -> bool:
        """Tell whether the run's owner lives: somebody holds its lock."""
        return is_locked(self._store.home.run_lock(run_id))

    def close(self) -> None:
        """Close the file."""
        self._store.close()
