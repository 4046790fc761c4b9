"""Which runs there are, and the ledger of what they made: the questions to the one SQLite file, and its rows.

WAL with ``synchronous=NORMAL``: a commit survives the death of any process, which is what the ledger is for, and
costs no fsync (about 0.05 ms). Power loss may lose the newest rows; then the engine's containers have died too
and their remains are found by label. Calls are synchronous and short; they block the loop for less than a switch
to a thread would take. What is written of a run goes into its `journal`, too. Stdlib only: ``moat list`` imports this.
"""

from __future__ import annotations

import json
import time

from moat_core.checks import storable
from moat_core.store import journal
from moat_core.store.file import SCHEMA_VERSION, NewerStore, StoreFile
from moat_core.store.rows import LedgerRow, Row, RunRow

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable
    from typing import Any

__all__ = ["SCHEMA_VERSION", "LedgerRow", "NewerStore", "RunRow", "Store"]

_ALIVE = "(phase < 'over' OR phase > 'over')"
"""Not over, so written that the index serves it: history costs nothing."""
_PRESENT = _ALIVE + " OR id IN (SELECT run_id FROM ledger)"  # noqa: S608
_RUNS_WHERE = "SELECT * FROM runs WHERE {} ORDER BY created DESC, id"

_INSERT_RUN = (
    f"INSERT {{}}INTO runs ({', '.join(RunRow.fields)}) VALUES ({', '.join(':' + name for name in RunRow.fields)})"  # noqa: S608
)
_UNSEEN = "unseen "


class Store(StoreFile):
    """What is remembered; see `StoreFile` for how it is opened."""

    # -- runs ------------------------------------------------------------------------------------------------

    def add_run(self, row: RunRow) -> None:
        """Remember a new run."""
        values = row.to_sql()
        self._write(_INSERT_RUN.format(""), values)
        journal.append(self.home, row.id, {"run": values}, new=True)

    def add_past(self, rows: Iterable[RunRow]) -> None:
        """Remember many runs that are over, without journals: for measurements and imports."""
        sql = _INSERT_RUN.format("OR IGNORE ")
        self._write("BEGIN", ())
        for row in rows:
            self._write(sql, row.to_sql())
        self._write("COMMIT", ())

    def update_run(self, run_id: str, **values: Any) -> None:
        """Change some columns of a run."""
        values = {k: json.dumps(v) if k in RunRow.json_fields else v for k, v in values.items()}
        journal.append(self.home, run_id, {"run": values})
        columns = ", ".join(f"{name} = :{name}" for name in values)
        self._write(f"UPDATE runs SET {columns} WHERE id = :id", {**values, "id": run_id})  # noqa: S608

    def runs(self, *, over: bool = True) -> list[RunRow]:
        """Return runs, newest first; without those that are OVER if so asked."""
        where = "1" if over else _ALIVE
        return self._read(RunRow, _RUNS_WHERE.format(where))

    def present_runs(self) -> list[RunRow]:
        """Return the runs that are not over or of which something is left or was kept, newest first."""
        return self._read(RunRow, _RUNS_WHERE.format(_PRESENT))

    def past_runs(self, most: int) -> list[tuple[str, float]]:
        """Return id and end (seconds since 1970) of the oldest runs that are over and left nothing, MOST of them."""
        sql = (
            "SELECT id, COALESCE(ended, created) FROM runs WHERE phase = 'over' AND NOT EXISTS "
            "(SELECT 1 FROM ledger WHERE run_id = runs.id) ORDER BY rowid LIMIT ?"
        )
        return [(row[0], row[1]) for row in self._execute(sql, (most,))]

    def count_past(self) -> int:
        """Return how many runs are over."""
        rows = self._execute("SELECT COUNT(*) FROM runs WHERE phase = 'over'", ())
        return int(rows[0][0]) if rows else 0

    def run(self, run_id: str) -> RunRow | None:
        """Return one run."""
        rows: list[RunRow] = self._read(RunRow, "SELECT * FROM runs WHERE id = ?", (run_id,))
        return rows[0] if rows else None

    def forget_run(self, run_id: str) -> None:
        """Forget a run that is over."""
        self._write("DELETE FROM runs WHERE id = ?", (run_id,))

    # -- ledger ----------------------------------------------------------------------------------------------

    def add_intent(self, run_id: str, kind: str, data: dict[str, Any]) -> int:
        """Write down that a resource is about to be made; return the row's id."""
        values = {"run": run_id, "kind": kind, "data": json.dumps(data), "now": time.time()}
        cursor = self._write(
            # Greater than every other here, and than any in a file that was lost.
            "INSERT INTO ledger (id, run_id, kind, data, state, created) SELECT "
            "MAX(COALESCE(MAX(id), 0) + 1, CAST(:now * 1000000 AS INTEGER)), :run, :kind, :data, 'intent', :now "
            "FROM ledger",
            values,
        )
        row_id = int(cursor.lastrowid or 0)
        made = {"id": row_id, "kind": kind, "data": values["data"], "state": "intent", "created": values["now"]}
        journal.append(self.home, run_id, {"made": made})
        return row_id

    def set_state(self, row_id: int, state: str) -> None:
        """Set a resource's state, ``live`` or ``kept``."""
        self._write("UPDATE ledger SET state = ? WHERE id = ?", (state, row_id))
        self._tell_of(row_id, {"state": [row_id, state]})

    def forget_resource(self, row_id: int) -> None:
        """Forget a resource that is released."""
        self._tell_of(row_id, {"undone": row_id})
        self._write("DELETE FROM ledger WHERE id = ?", (row_id,))

    def _tell_of(self, row_id: int, line: dict[str, Any]) -> None:
        for (run_id,) in self._execute("SELECT run_id FROM ledger WHERE id = ?", (row_id,)):
            journal.append(self.home, run_id, line)

    def resources(self, run_id: str | None = None, *, kept: bool = True) -> list[LedgerRow]:
        """Return what a run (or all runs) made, newest first: the order in which it is undone."""
        where = "" if kept else " AND state != 'kept'"
        if run_id is None:
            return self._read(LedgerRow, f"SELECT * FROM ledger WHERE 1 {where} ORDER BY id DESC")  # noqa: S608
        return self._read(
            LedgerRow,
            f"SELECT * FROM ledger WHERE run_id = ? {where} ORDER BY id DESC",  # noqa: S608
            (run_id,),
        )

    def unfinished(self) -> list[str]:
        """Return the ids of runs that somebody must still be working on: not over, or with rows not kept."""
        sql = f"SELECT id FROM runs WHERE {_ALIVE} UNION SELECT run_id FROM ledger WHERE state != 'kept'"  # noqa: S608
        return [row[0] for row in self._execute(sql, ())]

    def unfinished_of(self, pid: int) -> list[str]:
        """Return the unfinished runs that the process PID owns."""
        sql = f"SELECT id FROM runs WHERE {_ALIVE} AND owner_pid = ?"  # noqa: S608
        return [row[0] for row in self._execute(sql, (pid,))]

    def resources_of(self, kinds: Iterable[str]) -> list[LedgerRow]:
        """Return what all runs made of some KINDS, oldest first."""
        wanted = tuple(kinds)
        places = ", ".join("?" * len(wanted))
        return self._read(LedgerRow, f"SELECT * FROM ledger WHERE kind IN ({places}) ORDER BY id", wanted)  # noqa: S608

    # -- notes -----------------------------------------------------------------------------------------------

    def note(self, key: str) -> str | None:
        """Return a remembered word."""
        rows = self._execute("SELECT value FROM notes WHERE key = ?", (key,))
        return rows[0][0] if rows else None

    def set_note(self, key: str, value: str | None) -> None:
        """Remember a word, or forget it."""
        if value is None:
            self._write("DELETE FROM notes WHERE key = ?", (key,))
        else:
            self._write("INSERT OR REPLACE INTO notes VALUES (?, ?)", (key, value))

    def add_unseen(self, run_id: str) -> None:
        """Remember that something of the run was forgotten which nobody has seen: it may still appear."""
        run = self.run(run_id)
        if run is not None:
            self.set_note(f"{_UNSEEN}{run_id}", json.dumps([run.runtime, run.address, time.time()]))

    def unseen(self) -> list[tuple[str, str]]:
        """Return the ``(runtime, address)`` pairs where something may have appeared that was forgotten unseen."""
        sql = "SELECT value FROM notes WHERE key LIKE ? ORDER BY key"
        return [(value[0], value[1]) for value in map(json.loads, _firsts(self._execute(sql, (_UNSEEN + "%",))))]

    def forget_unseen(self, older_s: float) -> None:
        """Stop thinking of what was forgotten unseen more than OLDER_S seconds ago: it was looked for since."""
        for key, value in self._execute("SELECT key, value FROM notes WHERE key LIKE ?", (_UNSEEN + "%",)):
            if json.loads(value)[2] < time.time() - older_s:
                self.set_note(key, None)

    def is_unsure(self) -> bool:
        """Whether something may be there that no row tells of: it has to be looked for by its labels."""
        sql = "SELECT 1 FROM notes WHERE key = 'rebuilt' OR key LIKE ? LIMIT 1"
        return bool(self._execute(sql, (_UNSEEN + "%",)))

    # -- plumbing --------------------------------------------------------------------------------------------

    def _read(self, cls: type[Row], sql: str, arguments: Any = ()) -> list[Any]:
        if self._is_missing():
            return []
        rows: list[Any] = self._guarded(
            lambda connection: [cls.from_sql(row) for row in connection.execute(sql, storable(arguments))]
        )
        return rows

    def _execute(self, sql: str, arguments: Any) -> list[sqlite3.Row]:
        if self._is_missing():
            return []
        found: list[sqlite3.Row] = self._guarded(lambda one: one.execute(sql, storable(arguments)).fetchall())
        return found

    def _write(self, sql: str, arguments: Any) -> sqlite3.Cursor:
        cursor: sqlite3.Cursor = self._guarded(lambda connection: connection.execute(sql, storable(arguments)))
        return cursor


def _firsts(rows: Iterable[sqlite3.Row]) -> list[Any]:
    return [row[0] for row in rows]
