"""The folders that a run was ever given to write to. Links in them are nobody's word (`moat_core.host_path`).

They are remembered for longer than the runs, since what was left in them stays; and written down a second time, in a
file of their own, for a state file that is lost. Stdlib only: `moat list` imports this.
"""

from __future__ import annotations

import json

from moat_core.store.journal import append_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from moat_core.store.db import Store
    from moat_core.store.paths import Home

__all__ = ["FILL", "TABLES", "Given", "recall_given"]

TABLES = """\
CREATE TABLE IF NOT EXISTS given (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, identity TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS given_identity ON given (identity)"""
FILL = "INSERT OR IGNORE INTO given (path, identity) SELECT workspace, '' FROM runs"
"""For a file of before, or one that was made again: the workspaces of the runs that it knows."""
_MOST = 100_000
_ADD = "INSERT OR REPLACE INTO given (path, identity) VALUES (?, ?)"


class Given:
    """Them, in a STORE: each is known by its identity (device and inode) or by its real path, as either may change."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, folders: Iterable[tuple[tuple[int, int], str]]) -> None:
        """Remember FOLDERS; the oldest are forgotten when there are too many."""
        rows = [(_name(path), _text(identity)) for identity, path in folders]

        def write(connection: sqlite3.Connection) -> None:
            for row in rows:
                known = connection.execute("SELECT 1 FROM given WHERE path = ? AND identity = ?", row).fetchone()
                if known is None:  # most are given again and again, which costs no write
                    append_line(self._store.home.given, row)
                    connection.execute(_ADD, row)
                    connection.execute("DELETE FROM given WHERE id <= (SELECT MAX(id) FROM given) - ?", (_MOST,))

        self._store._guarded(write)  # noqa: SLF001 - a part of it, in a file of its own

    def __call__(self, identity: tuple[int, int], path: str) -> bool:
        """Tell whether the folder of this IDENTITY, or of this real PATH, was ever given."""
        sql = "SELECT 1 FROM given WHERE path = ? OR identity = ? LIMIT 1"
        return bool(self._store._execute(sql, (_name(path), _text(identity))))  # noqa: SLF001 - as above


def recall_given(connection: sqlite3.Connection, home: Home) -> None:
    """Add what was written down beside the state file; what makes no sense there is left out."""
    try:
        with open(home.given, "rb") as file:
            lines = file.read().splitlines()[-_MOST:]
    except OSError:
        return
    for line in lines:
        try:
            path, identity = json.loads(line)
            connection.execute(_ADD, (str(path), str(identity)))
        except (ValueError, TypeError):
            continue


def _text(identity: tuple[int, int]) -> str:
    return f"{identity[0]}:{identity[1]}"  # an inode has 64 bits, SQLite's integers 63 and a sign


def _name(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode()  # a name need not be UTF-8, but SQLite's text is
