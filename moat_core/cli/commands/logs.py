"""``moat logs``: the kept output of a run's own command. It needs no engine, and survives the container."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from moat_core.cli.options import json_option, run_argument
from moat_core.cli.output import OutputLost
from moat_core.cli.render import say, warn
from moat_core.errors import StoreError, UnknownName
from moat_core.store import Home, Store, default_home
from moat_core.store.log import LogFollower, read_log
from moat_core.store.paths import is_locked
from moat_core.store.state import match
from moat_core.types import RUN_ID_RE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moat_core.store import RunRow
    from moat_core.store.log import LogRecord

__all__ = ["logs"]

_POLL_S = 0.05


def _parse_lines(_ctx: click.Context, _param: click.Parameter, value: str) -> int | None:
    if value == "all":
        return None
    if not (value.isascii() and value.isdigit()):
        raise click.BadParameter(f"{value!r} is neither a number of lines nor 'all'.")
    return int(value)


@click.command("logs")
@run_argument(required=False)
@click.option(
    "-n",
    "--lines",
    metavar="N",
    callback=_parse_lines,
    default="100",
    show_default=True,
    help="The last N lines, or all.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on until the run is over.")
@click.option("-t", "--timestamps", is_flag=True, help="Begin each line with when it was written, in UTC.")
@json_option
def logs(*, reference: str | None, lines: int | None, follow: bool, timestamps: bool, as_json: bool) -> None:
    """Show the output of a run's own command; of the newest run if none is named.

    Every byte comes out as it was written, to stdout or stderr as it was. What is kept is bounded: when a run
    writes more than 32 MB, its oldest output goes. With --json each piece is an object on a line of its own:
    time (seconds since 1970), stream, encoding (utf-8 or base64), data.

    \b
    moat logs              the last 100 lines of the newest run
    moat logs -f web       what the run "web" writes, until it ends
    moat logs -n all run-3f9c11a2 2>/dev/null
    """
    home = Home(default_home())
    run_id = _find(home, reference)
    folder, lock = home.run_folder(run_id), home.run_lock(run_id)
    printer = _Printer(timestamps=timestamps, as_json=as_json)
    try:
        if not follow:
            printer.print(read_log(folder, tail=lines))
        else:
            _follow(folder, lock, lines, printer)
    except OSError as error:
        if isinstance(error, (BrokenPipeError, OutputLost)):
            raise
        raise StoreError(f"The log of {run_id} cannot be read: {error.strerror or error}.") from error
    if not (follow or os.path.isdir(folder)):
        say(f"{run_id} has written nothing yet.")


def _find(home: Home, reference: str | None) -> str:
    """Return the id of the run that is meant."""
    store = Store(home, warn)
    try:
        rows = store.runs()
    finally:
        store.close()
    if reference is None:
        if not rows:
            raise UnknownName("There is no run yet.", hint="Start one: moat run -- COMMAND")
        return rows[0].id
    if RUN_ID_RE.fullmatch(reference) and os.path.isdir(home.run_folder(reference)):
        return reference  # also one that a broken store has forgotten
    found: RunRow = match(
        rows, reference, key=lambda row: (row.id, row.name), is_live=lambda row: is_locked(home.run_lock(row.id))
    )
    return found.id


def _follow(folder: str, lock: str, tail: int | None, printer: _Printer) -> None:
    follower = LogFollower(folder, tail=tail)
    try:
        while True:
            alive = is_locked(lock)  # before the reading: what is written before the end is read after it
            records = follower.read()
            printer.print(records)
            if follower.missed:
                follower.missed = False
                warn("The run writes faster than it can be followed; some of its output was dropped.")
            if not records:
                if not alive:
                    return
                time.sleep(_POLL_S)
    finally:
        follower.close()


class _Printer:
    """Writes records: bytes to the stream that they came from, or JSON."""

    def __init__(self, *, timestamps: bool, as_json: bool) -> None:
        self._timestamps = timestamps
        self._as_json = as_json
        self._inside = {"stdout": False, "stderr": False}

    def print(self, records: Iterable[LogRecord]) -> None:
        last = None
        for record in records:
            stream = "stdout" if self._as_json else record.stream
            if last is not None and stream != last:
                _stream(last).flush()
            _stream(stream).write(self._format(record))
            last = stream
        if last is not None:
            _stream(last).flush()

    def _format(self, record: LogRecord) -> bytes:
        if self._as_json:
            return _to_json(record)
        if not self._timestamps:
            return record.data
        inside, self._inside[record.stream] = self._inside[record.stream], not record.is_complete
        return record.data if inside else _stamp(record.time) + record.data


def _stream(name: str) -> Any:
    return (sys.stderr if name == "stderr" else sys.stdout).buffer


def _stamp(seconds: float) -> bytes:
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{int(seconds % 1 * 1000):03d}Z ".encode()


def _to_json(record: LogRecord) -> bytes:
    try:
        encoding, data = "utf-8", record.data.decode()
    except UnicodeDecodeError:
        encoding, data = "base64", base64.b64encode(record.data).decode()
    value = {"time": record.time, "stream": record.stream, "encoding": encoding, "data": data}
    return json.dumps(value).encode() + b"\n"
