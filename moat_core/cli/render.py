"""Writing for people and for programs: tables, JSON, errors. stdout is for results, stderr for everything else.

Stdlib only, and little of it: ``moat list`` imports this.
"""

from __future__ import annotations

import json
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from moat_core.errors import MoatError

__all__ = [
    "age",
    "format_size",
    "print_error",
    "print_json",
    "print_problem",
    "print_table",
    "printable",
    "say",
    "style",
    "warn",
]

_COLUMNS = 80
_STYLES = {"bold": "1", "red": "31", "green": "32", "yellow": "33", "dim": "2"}


def printable(text: str) -> str:
    """Return TEXT with control characters escaped: names and commands may come from hostile code."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def style(text: str, *names: str, stream: Any = None) -> str:
    """Return TEXT in colour, if STREAM (stdout) is a terminal and ``NO_COLOR`` is not set (no-color.org)."""
    stream = stream or sys.stdout
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return f"\x1b[{';'.join(_STYLES[name] for name in names)}m{text}\x1b[0m"


def say(text: str) -> None:
    """Tell something on stderr."""
    print(printable(text), file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Tell a warning on stderr."""
    print(style("warning:", "yellow", stream=sys.stderr), printable(text), file=sys.stderr, flush=True)


def print_problem(problem: Any) -> None:
    """Tell a `Problem`: its sentence, then what to do."""
    label, colour = ("warning:", "yellow") if problem.severity == "warning" else ("problem:", "red")
    where = f"{problem.where}: " if problem.where else ""
    print(style(label, colour, stream=sys.stderr), printable(where + problem.message), file=sys.stderr)
    _print_hint(problem.hint)


def print_error(error: MoatError, *, as_json: bool = False) -> None:
    """Tell an error: one sentence, then what to do; with ``--json`` an object on stderr."""
    if as_json:
        print(json.dumps({"error": error.to_json()}), file=sys.stderr)
        return
    problems = getattr(error, "problems", None)
    if problems:
        for problem in problems:
            where = f"{problem.where}: " if problem.where else ""
            print(
                style("error:", "red", "bold", stream=sys.stderr), printable(where + problem.message), file=sys.stderr
            )
            _print_hint(problem.hint)
    else:
        print(style("error:", "red", "bold", stream=sys.stderr), printable(error.message), file=sys.stderr)
    _print_hint(error.hint)


def _print_hint(hint: str) -> None:
    for line in printable(hint).splitlines():
        print(f"  {line}", file=sys.stderr)


def print_json(value: Any) -> None:
    """Print VALUE alone on stdout."""
    print(json.dumps(value, indent=2, default=str))


def print_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    shrink: int | None = None,
    below: Sequence[Sequence[str]] = (),
) -> None:
    """Print a table that fits the terminal.

    Args:
        shrink: The column that is cut first when the terminal is narrow; without a terminal nothing is cut.
        below: For each row, what stands under it, a line each.
    """
    table = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max([len(header), *(len(row[i]) for row in table)]) for i, header in enumerate(headers)]
    if sys.stdout.isatty() and shrink is not None:
        room = _columns() - sum(widths) - 2 * (len(widths) - 1)
        if room < 0:
            widths[shrink] = max(len(headers[shrink]), widths[shrink] + room, 8)
    print(style("  ".join(h.ljust(w) for h, w in zip(headers, widths, strict=True)).rstrip(), "bold"))
    for number, row in enumerate(table):
        cells = [cell if len(cell) <= w else cell[: w - 1] + "…" for cell, w in zip(row, widths, strict=True)]
        print("  ".join(cell.ljust(w) for cell, w in zip(cells, widths, strict=True)).rstrip())
        for line in below[number] if below else ():
            print(f"  {printable(line)}")


def _columns() -> int:
    """Return the width of the terminal, which ``COLUMNS`` overrides, as the shutil module (slow to import) does."""
    try:
        return int(os.environ["COLUMNS"]) or os.get_terminal_size(sys.stdout.fileno()).columns
    except (KeyError, ValueError, OSError):
        pass
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _COLUMNS
    except (ValueError, OSError):
        return _COLUMNS


def age(stamp: float | None) -> str:
    """Return how long ago STAMP (seconds since 1970) was: ``12s``, ``5m``, ``3h``, ``2d``."""
    if stamp is None:
        return "?"
    seconds = max(0, int(time.time() - stamp))
    for limit, unit, size in ((60, "s", 1), (3600, "m", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds // size}{unit}"
    return f"{seconds // 86400}d"


def format_size(size: float | None) -> str:
    """Return a size in bytes for people: ``12.3 MB`` (powers of 1000, as the docker CLI does)."""
    if size is None:
        return "?"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:  # noqa: PLR2004
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
