"""What each run has written down, a second time: so that a state file that is lost is made again, whoever lives.

Beside its log, in a file of its own, each run has a line for everything that the state file was told of it: the run,
each thing before it is made, each change, how it ended. Whoever finds the state file gone, empty or broken reads them
all (see `moat_core.store.file`). Only who holds the run's lock appends. Stdlib only: ``moat list`` imports this.
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from moat_core.store.paths import Home

__all__ = ["Told", "append", "append_line", "read", "read_all"]

_NAME = "journal"
_LIMIT_BYTES = 16 * 1024 * 1024
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


class Told:
    """What a run's journal comes to.

    Args:
        run: Column -> value, as in the state file; ``{}`` if the run itself was never written down.
        rows: Row id -> the columns of a thing that was not undone.
    """

    def __init__(self) -> None:
        self.run: dict[str, Any] = {}
        self.rows: dict[int, dict[str, Any]] = {}

    def add(self, line: dict[str, Any]) -> None:
        """Take one line; what another version may have written beside is not ours to understand."""
        if "run" in line:
            self.run.update(line["run"])
        elif "made" in line:
            self.rows[int(line["made"]["id"])] = line["made"]
        elif "state" in line:
            row_id, state = line["state"]
            if row_id in self.rows:
                self.rows[row_id]["state"] = state
        elif "undone" in line:
            self.rows.pop(line["undone"], None)


def append(home: Home, run_id: str, line: dict[str, Any], *, new: bool = False) -> None:
    """Write LINE down. It is the second copy: that it cannot be written stops nothing.

    Args:
        new: The run begins: make its folder.
    """
    folder = home.run_folder(run_id)
    if new:
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        except OSError:
            return
    append_line(os.path.join(folder, _NAME), line)


def append_line(path: str, line: object) -> None:
    """Add LINE, as JSON, to the file PATH, made if it is not there; that it cannot be written stops nothing."""
    try:
        descriptor = os.open(path, _FLAGS, 0o600)
    except OSError:
        return
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    except OSError:
        pass
    finally:
        os.close(descriptor)


def read(home: Home, run_id: str) -> Told:
    """Return what the run has written down; a torn line, of a full disk or a dead owner, says nothing."""
    told = Told()
    try:
        with open(os.path.join(home.run_folder(run_id), _NAME), "rb") as file:
            lines = file.read(_LIMIT_BYTES).splitlines()
    except OSError:
        return told
    for line in lines:
        try:
            told.add(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return told


def read_all(home: Home) -> list[tuple[str, Told]]:
    """Return each run of which there is a journal, and what it comes to; the oldest first."""
    try:
        names = os.listdir(home.runs)
    except OSError:
        return []
    found = [(run_id, told) for run_id in names if (told := read(home, run_id)).run or told.rows]
    return sorted(found, key=lambda each: (float(each[1].run.get("created") or 0), each[0]))
