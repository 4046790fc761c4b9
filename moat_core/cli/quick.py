"""Answers that must be instant: no click, no plugins, no event loop.

``moat version`` reads a constant. ``moat list [-a] [--json]`` reads the store and asks each engine of a live run by
the probe that its runtime registered (stdlib only, a few ms). Whatever is out of the ordinary (other options, a
dead owner, a rebuilt store, an engine that does not answer) is left to the full command, which says the same.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from moat_core.store.db import RunRow, Store

__all__ = ["answer"]

_PROBE_S = 5.0


def answer(arguments: list[str]) -> int | None:
    """Return the exit status if ARGUMENTS could be answered here, ``None`` to go the long way."""
    if os.environ.get("MOAT_TRACE_HOOKS"):
        return None
    if arguments in (["version"], ["--version"]):
        from moat_core import __version__

        print("moat", __version__)
        return 0
    if arguments[:1] == ["list"] and set(arguments[1:]) <= {"-a", "--all", "--json"}:
        return _list(over="-a" in arguments or "--all" in arguments, as_json="--json" in arguments)
    return None


def _list(*, over: bool, as_json: bool) -> int | None:
    from moat_core.cli.listing import print_runs
    from moat_core.cli.render import warn
    from moat_core.store import Home, Store, default_home

    store = Store(Home(default_home()), warn)
    try:
        entries = _entries(store, over=over)
    finally:
        store.close()
    if entries is None:
        return None

    print_runs(entries, as_json=as_json)
    return 0


def _entries(store: Store, *, over: bool) -> list[dict[str, Any]] | None:
    """Return what the full command would show, or ``None`` if there is something for it to do or to explain."""
    from moat_core.store.paths import is_locked
    from moat_core.store.state import entry, is_over, kept_runs, needs_engine

    rows = store.runs() if over else store.present_runs()
    if store.is_unsure():
        return None  # asked after the first reading, which notices a broken file
    locked = {row.id: is_locked(store.home.run_lock(row.id)) for row in rows}
    if not all(locked.get(run_id) or is_locked(store.home.run_lock(run_id)) for run_id in store.unfinished()):
        return None  # its owner is dead: what it left has to be undone
    has_say = needs_engine(store)
    sandboxes = _probe([row for row in rows if has_say(row)], store.home.path)
    if sandboxes is None:
        return None
    kept = kept_runs(store)
    entries = [
        entry(row, sandboxes.get(row.id) if has_say(row) else None, locked=locked[row.id], kept=row.id in kept)
        for row in rows
    ]
    return [run for run in entries if over or not is_over(run["state"])]


def _probe(rows: list[RunRow], home: str) -> dict[str, dict[str, Any]] | None:
    """Ask each engine of ROWS once; return the main containers by run, ``None`` if one cannot be asked here."""
    from moat_core.store.probing import FAILURES, call_probe, is_probe

    sandboxes: dict[str, dict[str, Any]] = {}
    for probe, address in sorted({(row.probe, row.address) for row in rows}):
        if not is_probe(probe):
            return None  # its runtime has none
        try:
            found = call_probe(probe, address, _PROBE_S, home)
        except FAILURES:
            return None
        sandboxes |= {each["run_id"]: each for each in found if each["role"] == "main"}
    return sandboxes
