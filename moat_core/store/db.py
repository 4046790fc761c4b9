"""The one SQLite file: which runs there are, and the ledger of what they made.

WAL with ``synchronous=NORMAL``: a commit survives the death of any process, which is what the ledger is for, and
costs no fsync (about 0.05 ms). Power loss may lose the newest rows; then the engine's containers have died too
and their remains are found by label. Calls are synchronous and short; they block the loop for less than a switch
to a thread would take. Stdlib only: ``moat list`` imports this.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from contextlib import contextmanager

from moat_core.checks import storable
from moat_core.errors import StoreError
from moat_core.store.paths import Home, Lock, _unusable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

__all__ = ["SCHEMA_VERSION", "LedgerRow", "RunRow", "Store"]

SCHEMA_VERSION = 2
_BUSY_S = 10.0
_BROKEN = re.compile("no such (table|column)|Could not decode|has no column")
_SCHEMA = """
CREATE TABLE runs (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, runtime TEXT NOT NULL, address TEXT NOT NULL, probe TEXT NOT NULL,
  workspace TEXT NOT NULL, command TEXT NOT NULL, env_names TEXT NOT NULL, ports TEXT NOT NULL,
  owner_pid INTEGER NOT NULL, owner_kind TEXT NOT NULL, sandboxed INTEGER NOT NULL, oci_runtime TEXT,
  phase TEXT NOT NULL, created REAL NOT NULL, ended REAL, status TEXT, exit_code INTEGER, error TEXT,
  urls TEXT NOT NULL DEFAULT '{}'
) STRICT;
CREATE INDEX runs_phase ON runs (phase);
CREATE TABLE ledger (
  id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('intent', 'live', 'kept')), created REAL NOT NULL
) STRICT;
CREATE INDEX ledger_run ON ledger (run_id);
CREATE TABLE notes (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""
_UPGRADES = {1: "ALTER TABLE runs ADD COLUMN urls TEXT NOT NULL DEFAULT '{}'"}
"""Version -> what makes it the next one."""


class _Row:
    """A row as an object, without the cost of importing attrs."""

    fields: tuple[str, ...] = ()
    json_fields: frozenset[str] = frozenset()

    def __init__(self, **values: Any) -> None:
        for name in self.fields:
            setattr(self, name, values.get(name))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.fields)})"

    @classmethod
    def _from_sql(cls, row: sqlite3.Row) -> Any:
        return cls(**{k: json.loads(row[k]) if k in cls.json_fields else row[k] for k in row.keys()})  # noqa: SIM118

    def _to_sql(self) -> dict[str, Any]:
        return {
            name: json.dumps(getattr(self, name)) if name in self.json_fields else getattr(self, name)
            for name in self.fields
        }


class RunRow(_Row):
    """What is remembered of a run: how to find it, and how it ended. Never its state, never a value of its env."""

    fields = (
        "id", "name", "runtime", "address", "probe", "workspace", "command", "env_names", "ports", "owner_pid",
        "owner_kind", "sandboxed", "oci_runtime", "phase", "created", "ended", "status", "exit_code", "error", "urls",
    )  # fmt: skip
    json_fields = frozenset({"command", "env_names", "ports", "urls"})
    id: str
    name: str
    runtime: str
    address: str
    probe: str
    workspace: str
    command: list[str] | None
    env_names: list[str]
    ports: dict[str, int]
    owner_pid: int
    owner_kind: str
    sandboxed: int
    oci_runtime: str | None
    phase: str
    created: float
    ended: float | None
    status: str | None
    exit_code: int | None
    error: str | None
    urls: dict[str, str]


class LedgerRow(_Row):
    """One resource: ``state`` is ``intent`` (may exist), ``live`` (exists) or ``kept`` (exists, on request)."""

    fields = ("id", "run_id", "kind", "data", "state", "created")
    json_fields = frozenset({"data"})
    id: int
    run_id: str
    kind: str
    data: dict[str, Any]
    state: str
    created: float


class Store:
    """The file, opened when it is first needed. Not for use by several threads at once.

    Args:
        home: Where it lies.
        on_warning: Told in one sentence when a broken file had to be put aside.
    """

    def __init__(self, home: Home, on_warning: Callable[[str], None] | None = None) -> None:
        self.home = home
        self._warn = on_warning or (lambda text: None)
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._inherited: sqlite3.Connection | None = None
        self._inode = self._openings = 0

    # -- runs ------------------------------------------------------------------------------------------------

    def add_run(self, row: RunRow) -> None:
        """Remember a new run."""
        names = ", ".join(RunRow.fields)
        places = ", ".join(":" + name for name in RunRow.fields)
        self._write(f"INSERT INTO runs ({names}) VALUES ({places})", row._to_sql())  # noqa: S608, SLF001

    def update_run(self, run_id: str, **values: Any) -> None:
        """Change some columns of a run."""
        values = {k: json.dumps(v) if k in RunRow.json_fields else v for k, v in values.items()}
        columns = ", ".join(f"{name} = :{name}" for name in values)
        self._write(f"UPDATE runs SET {columns} WHERE id = :id", {**values, "id": run_id})  # noqa: S608

    def runs(self, *, over: bool = True) -> list[RunRow]:
        """Return runs, newest first; without those that are OVER if so asked."""
        where = "" if over else "WHERE phase != 'over'"
        return self._read(RunRow, f"SELECT * FROM runs {where} ORDER BY created DESC, id")  # noqa: S608

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
        cursor = self._write(
            "INSERT INTO ledger (run_id, kind, data, state, created) VALUES (?, ?, ?, 'intent', ?)",
            (run_id, kind, json.dumps(data), time.time()),
        )
        return int(cursor.lastrowid or 0)

    def set_state(self, row_id: int, state: str) -> None:
        """Set a resource's state, ``live`` or ``kept``."""
        self._write("UPDATE ledger SET state = ? WHERE id = ?", (state, row_id))

    def forget_resource(self, row_id: int) -> None:
        """Forget a resource that is released."""
        self._write("DELETE FROM ledger WHERE id = ?", (row_id,))

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
        sql = "SELECT id FROM runs WHERE phase != 'over' UNION SELECT run_id FROM ledger WHERE state != 'kept'"
        return [row[0] for row in self._execute(sql, ())]

    def unfinished_of(self, pid: int) -> list[str]:
        """Return the unfinished runs that the process PID owns."""
        sql = "SELECT id FROM runs WHERE phase != 'over' AND owner_pid = ?"
        return [row[0] for row in self._execute(sql, (pid,))]

    def resources_of(self, kinds: Iterable[str]) -> list[LedgerRow]:
        """Return what all runs made of some KINDS, oldest first."""
        wanted = tuple(kinds)
        places = ", ".join("?" * len(wanted))
        return self._read(LedgerRow, f"SELECT * FROM ledger WHERE kind IN ({places}) ORDER BY id", wanted)  # noqa: S608

    def version(self) -> tuple[int, int]:
        """Return what differs once another connection has committed anything, or the file is another (2 to 5 µs)."""
        try:
            inode = os.stat(self.home.database).st_ino
        except OSError:
            return 0, 0
        if inode != self._inode:
            self.close()
        rows = self._execute("PRAGMA data_version", ())
        self._inode = inode
        return self._openings, rows[0][0] if rows else 0  # each connection counts anew

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

    # -- plumbing --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the file."""
        self._leave_parents()
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _leave_parents(self) -> None:
        """In a forked child: a connection must not cross a fork, not even to be closed (howtocorrupt.html §2.6)."""
        if self._connection is not None and self._pid != os.getpid():
            self._inherited = self._connection
            self._connection = None

    def _read(self, cls: type[_Row], sql: str, arguments: Any = ()) -> list[Any]:
        if self._is_missing():
            return []
        rows: list[Any] = self._guarded(lambda connection: _all(cls, connection, sql, storable(arguments)))
        return rows

    def _execute(self, sql: str, arguments: Any) -> list[sqlite3.Row]:
        if self._is_missing():
            return []
        found: list[sqlite3.Row] = self._guarded(lambda one: one.execute(sql, storable(arguments)).fetchall())
        return found

    def _is_missing(self) -> bool:
        """Reading makes nothing, not even an empty file."""
        if self._connection is not None:
            return False
        try:
            os.stat(self.home.database)
        except FileNotFoundError:
            return True
        except OSError as error:  # a file where the folder should be, or a folder that is not ours to read
            raise _unusable(self.home.path, error) from error
        return False

    def _write(self, sql: str, arguments: Any) -> sqlite3.Cursor:
        cursor: sqlite3.Cursor = self._guarded(lambda connection: connection.execute(sql, storable(arguments)))
        return cursor

    def _guarded(self, action: Callable[[sqlite3.Connection], Any]) -> Any:
        try:
            with self._translated():
                return action(self._open())
        except _BrokenFileError as error:
            try:
                self._put_aside(error)
                with self._translated():
                    return action(self._open())
            except _BrokenFileError as again:
                raise StoreError(
                    f"The state in {self.home.path} is broken again: {again}.",
                    hint="Check that disk, or set MOAT_HOME to another folder.",
                ) from again

    def _open(self) -> sqlite3.Connection:
        self._leave_parents()
        if self._connection is not None:
            return self._connection
        self.home.make()
        connection = sqlite3.connect(self.home.database, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            connection.row_factory = sqlite3.Row
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise StoreError(  # noqa: TRY301 - the connection is to be closed for this, too
                    f"The state in {self.home.path} was written by a newer moat "
                    f"(version {version}; this one knows {SCHEMA_VERSION}).",
                    hint="Upgrade moat, or set MOAT_HOME to another folder.",
                )
            if version == 0:
                connection.execute("PRAGMA journal_mode = WAL")
            if version < SCHEMA_VERSION:
                self._make_tables(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            connection.close()
            raise
        self._connection, self._pid = connection, os.getpid()
        self._openings += 1
        return connection

    @staticmethod
    def _make_tables(connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]  # somebody may have been quicker
            steps = _SCHEMA.split(";") if version == 0 else [_UPGRADES[each] for each in range(version, SCHEMA_VERSION)]
            for statement in steps:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:  # our own JSON does not parse any more
            raise _BrokenFileError(str(error)) from error
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF  # an extended code's primary one
            # A missing table or column, and text that is no text, are a broken file too (sqlite.org/rescode.html).
            if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB} or _BROKEN.search(str(error)):
                raise _BrokenFileError(str(error)) from error
            hint = "Free some disk space, make it writable, or set MOAT_HOME to another folder."
            if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                hint = f"Another process has held it for {_BUSY_S:.0f} s; look for a stuck moat."
            raise StoreError(f"The state in {self.home.path} cannot be used: {error}.", hint=hint) from error
        except OSError as error:
            raise _unusable(self.home.path, error) from error

    def _put_aside(self, error: Exception) -> None:
        """Rename a broken file and begin anew; containers of ours are found again by their labels."""
        self.close()
        lock = Lock(os.path.join(self.home.locks, "store.lock"))
        lock.acquire(wait=True)
        try:
            try:
                with self._translated():
                    _check(self._open())
                # Somebody was quicker: what lies there now is new and whole, and must stay.
            except _BrokenFileError:
                self.close()
                self._begin_anew(error)
        finally:
            lock.close()

    def _begin_anew(self, error: Exception) -> None:
        aside = f"{self.home.database}.broken-{time.strftime('%Y%m%d-%H%M%S')}"
        # The log goes first: a new database beside an old log would be filled from it.
        for suffix in ("-wal", "-shm", ""):
            try:
                os.replace(self.home.database + suffix, aside + suffix)
            except FileNotFoundError:
                continue
            except OSError as problem:
                raise _unusable(self.home.path, problem) from problem
        self._warn(
            f"The state file was broken ({error}); it was put aside as {os.path.basename(aside)} in {self.home.path} "
            "and a new one begun. Running containers are found by their labels."
        )
        self._open()
        self.set_note("rebuilt", "1")


def _all(cls: type[_Row], connection: sqlite3.Connection, sql: str, arguments: Any) -> list[Any]:
    return [cls._from_sql(row) for row in connection.execute(sql, arguments)]


def _check(connection: sqlite3.Connection) -> None:
    """Read everything; raise what `Store` takes for a broken file if something cannot be read."""
    said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if said != "ok":
        raise _BrokenFileError(str(said))
    _all(RunRow, connection, "SELECT * FROM runs", ())
    _all(LedgerRow, connection, "SELECT * FROM ledger", ())
    connection.execute("SELECT * FROM notes").fetchall()


class _BrokenFileError(Exception):
    """Not a database, or one with holes."""
