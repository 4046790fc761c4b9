"""The one SQLite file as a file: opened, made, found broken or gone, and made again.

A file that is gone, empty or broken is made anew at once and filled from the runs' journals, in the same transaction
as its tables: so there is never one that says nothing while something lives. Row ids come from the clock, so that
those of a file that is no more are nobody else's in the next. Whoever still holds the old one notices at their next
word, and goes on in the new one.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from contextlib import contextmanager

from moat_core.errors import StoreError
from moat_core.store import journal
from moat_core.store.given import FILL, TABLES, recall_given
from moat_core.store.paths import Home, Lock, unusable
from moat_core.store.rows import LedgerRow, RunRow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

__all__ = ["SCHEMA_VERSION", "NewerStore", "StoreFile"]

SCHEMA_VERSION = 3
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
_UPGRADES = {1: "ALTER TABLE runs ADD COLUMN urls TEXT NOT NULL DEFAULT '{}'", 2: f"{TABLES};{FILL}"}
"""Version -> what makes it the next one."""


class NewerStore(StoreError):
    """A newer moat has written the file."""

    code = "store-newer"


class StoreFile:
    """The file, opened when it is first needed. Not for use by several threads at once.

    Args:
        home: Where it lies.
        on_warning: Told in one sentence when the file had to be made again.
        from_journals: Leave the file alone and remember in memory what the runs' journals say: to undo what is left
            where a newer moat's file lies.
    """

    def __init__(
        self, home: Home, on_warning: Callable[[str], None] | None = None, *, from_journals: bool = False
    ) -> None:
        self.home = home
        self._warn = on_warning or (lambda text: None)
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._inherited: sqlite3.Connection | None = None
        self._inode = self._openings = 0
        self._is_alone = False
        self._from_journals = from_journals

    def close(self) -> None:
        """Close the file."""
        self._leave_parents()
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def version(self) -> tuple[int, int]:
        """Return what differs once another connection has committed anything, or the file is another (2 to 5 µs)."""
        if self._is_missing():
            return 0, 0
        changes: int = self._guarded(lambda connection: connection.execute("PRAGMA data_version").fetchone()[0])
        return self._openings, changes  # each connection counts anew

    # -- for `Store` -----------------------------------------------------------------------------------------

    def _guarded(self, action: Callable[[sqlite3.Connection], Any]) -> Any:
        """Do ACTION; with a new file, if it turns out that ours is broken."""
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

    def _is_missing(self) -> bool:
        """Reading makes nothing, not even an empty file; unless there is what the file should tell of."""
        if self._from_journals or self._size() > 0 or os.path.exists(self.home.given):
            return False
        try:
            with os.scandir(self.home.runs) as entries:
                is_missing = next(entries, None) is None
        except FileNotFoundError:
            is_missing = True
        except OSError as error:
            raise unusable(self.home.path, error) from error
        if is_missing:
            self.close()
        return is_missing

    # -- plumbing --------------------------------------------------------------------------------------------

    def _leave_parents(self) -> None:
        """In a forked child: a connection must not cross a fork, not even to be closed (howtocorrupt.html §2.6)."""
        if self._connection is not None and self._pid != os.getpid():
            self._inherited = self._connection
            self._connection = None

    def _size(self) -> int:
        """Return the file's size; -1 if it is not there.

        Raises:
            StoreError: A file is where the folder should be, or a folder that is not ours to read.
        """
        try:
            return os.stat(self.home.database).st_size
        except FileNotFoundError:
            return -1
        except OSError as error:
            raise unusable(self.home.path, error) from error

    def _is_ours(self) -> bool:
        """Whether what we have opened is what lies there: not removed, emptied or replaced meanwhile."""
        try:
            found = os.stat(self.home.database)
        except OSError:
            return False
        return found.st_ino == self._inode and found.st_size > 0

    def _open(self) -> sqlite3.Connection:
        self._leave_parents()
        before = self._connection
        if before is not None and (self._from_journals or self._is_ours()):
            return before
        if not self._from_journals and not self._is_alone and self._size() <= 0:
            with self._alone():
                return self._open()
        size = self._size()
        if not self._from_journals and size <= 0:
            self._move_aside()
        try:
            connection, told = self._connect()
        except (NewerStore, sqlite3.OperationalError) as error:
            is_blocked = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_CANTOPEN
            if before is None or not (is_blocked or isinstance(error, NewerStore)):
                raise
            return before  # a live run goes on in what it knows; nobody else can read it any more
        self.close()
        self._connection, self._pid = connection, os.getpid()
        self._openings += 1
        if told and size <= 0 and not self._from_journals:  # else somebody is just putting it aside, and says so
            self._say("was gone" if size < 0 else "was empty", told)
        if before is not None:
            self._recall(connection)  # what was written into the old one while this one was made
        return connection

    def _connect(self) -> tuple[sqlite3.Connection, int]:
        """Return a connection to what lies there, and how many runs it was made of if it is new."""
        self.home.make()
        path = ":memory:" if self._from_journals else self.home.database
        connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        told = 0
        try:
            connection.row_factory = sqlite3.Row
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise NewerStore(  # noqa: TRY301 - the connection is to be closed for this, too
                    f"The state in {self.home.path} was written by a newer moat "
                    f"(version {version}; this one knows {SCHEMA_VERSION}).",
                    hint="Upgrade moat, or set MOAT_HOME to another folder.",
                )
            if version == 0:
                connection.execute("PRAGMA journal_mode = WAL")
            if version < SCHEMA_VERSION:
                told = self._make_tables(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
            if not self._from_journals:
                self._inode = os.stat(path).st_ino
        except BaseException:
            connection.close()
            raise
        return connection, told

    def _make_tables(self, connection: sqlite3.Connection) -> int:
        connection.execute("BEGIN IMMEDIATE")
        told = 0
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]  # somebody may have been quicker
            steps = [_UPGRADES[each] for each in range(version, SCHEMA_VERSION)] if version else [_SCHEMA + TABLES]
            for statement in ";".join(steps).split(";"):
                connection.execute(statement)
            if version == 0:
                told = self._recall(connection)
                connection.execute(FILL)
                recall_given(connection, self.home)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return told

    def _recall(self, connection: sqlite3.Connection) -> int:
        """Add what the runs' journals tell and the file does not; return how many runs have told something."""
        count = 0
        for run_id, told in journal.read_all(self.home):
            count += 1
            try:
                if told.run:
                    _insert(connection, "runs", RunRow.fields, {**told.run, "id": run_id})
                for row in told.rows.values():
                    _insert(connection, "ledger", LedgerRow.fields, {**row, "run_id": run_id})
            except sqlite3.IntegrityError:
                continue  # another version's, or nonsense
        return count

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:  # our own JSON does not parse any more
            raise _BrokenFileError(str(error)) from error
        except sqlite3.Error as error:
            extended = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
            code = extended & 0xFF  # the primary one
            # A missing table or column, text that is no text, and an end that comes too early are a broken file, too
            # (sqlite.org/rescode.html); so is one that cannot be read since somebody has just put it aside.
            if (
                code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
                or _BROKEN.search(str(error))
                or (extended == sqlite3.SQLITE_IOERR_SHORT_READ)
                or (code == sqlite3.SQLITE_IOERR and self._connection is not None and not self._is_ours())
            ):
                raise _BrokenFileError(str(error)) from error
            hint = "Free some disk space, make it writable, or set MOAT_HOME to another folder."
            if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                hint = f"Another process has held it for {_BUSY_S:.0f} s; look for a stuck moat."
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            raise StoreError(f"The state in {self.home.path} cannot be used: {error} ({name}).", hint=hint) from error
        except OSError as error:
            raise unusable(self.home.path, error) from error

    # -- making it again -------------------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the only one who makes the file anew, or puts it aside."""
        self.home.make()
        lock = Lock(self.home.database + "-lock")
        lock.acquire(wait=True)
        self._is_alone = True
        try:
            yield
        finally:
            self._is_alone = False
            lock.close()

    def _put_aside(self, error: Exception) -> None:
        """Rename a broken file and begin anew."""
        self.close()
        with self._alone():
            try:
                with self._translated():
                    _check(self._open())
                # Somebody was quicker: what lies there now is new and whole, and must stay.
            except _BrokenFileError:
                self.close()
                aside = self._move_aside()
                self._connection, told = self._connect()
                self._pid = os.getpid()
                self._openings += 1
                self._say(f"was broken ({error}) and was put aside as {os.path.basename(aside)}", told)

    def _move_aside(self) -> str:
        aside = f"{self.home.database}.broken-{time.strftime('%Y%m%d-%H%M%S')}"
        # The log goes first: a new database beside an old log would be filled from it.
        if self._size() == 0:
            os.unlink(self.home.database)  # nothing to keep; but whoever holds it must see that it is not the new one
        for suffix in ("-wal", "-shm", ""):
            try:
                os.replace(self.home.database + suffix, aside + suffix)
            except FileNotFoundError:
                continue
            except OSError as problem:
                raise unusable(self.home.path, problem) from problem
        return aside

    def _say(self, what: str, told: int) -> None:
        runs = f"{told} run{'s' if told != 1 else ''}"
        again = f"It was made again from what {runs} had written down" if told else "A new one was begun"
        self._warn(f"The state file in {self.home.path} {what}. {again}; other containers are found by their labels.")
        assert self._connection is not None
        self._connection.execute("INSERT OR REPLACE INTO notes VALUES ('rebuilt', '1')")


def _insert(connection: sqlite3.Connection, table: str, fields: tuple[str, ...], values: dict[str, Any]) -> None:
    names = [name for name in fields if name in values]
    places = ", ".join(":" + name for name in names)
    connection.execute(f"INSERT OR IGNORE INTO {table} ({', '.join(names)}) VALUES ({places})", values)  # noqa: S608


def _check(connection: sqlite3.Connection) -> None:
    """Read everything; raise what `StoreFile` takes for a broken file if something cannot be read."""
    said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if said != "ok":
        raise _BrokenFileError(str(said))
    for cls, table in ((RunRow, "runs"), (LedgerRow, "ledger")):
        for row in connection.execute(f"SELECT * FROM {table}"):  # noqa: S608
            cls.from_sql(row)
    connection.execute("SELECT * FROM notes").fetchall()


class _BrokenFileError(Exception):
    """Not a database, or one with holes."""
