"""What ``moat list`` prints, for its quick way and for the full command. Stdlib only.

The fields of ``--json`` are stable; they are those of `moat_core.api.RunInfo`:

============  ==================================================================================
field         meaning
============  ==================================================================================
id            ``run-`` and 8 hex digits
name          the agent's name
state         starting, running, paused, stopping, kept, gone (it was kept, and removed from outside), exited,
              failed, unknown
runtime       what makes its containers: ``docker``
oci_runtime   what the container was really started with (``runsc`` is gVisor); ``""`` before
workspace     the folder on the host
command       its own command, a list of strings; null: it waits for ``moat exec``
ports         endpoint -> port in the container
urls          endpoint -> where a browser finds it; empty before the run is up
created       seconds since 1970, UTC; null for a container that the store has lost
ended         likewise; null while it is alive
exit_code     of its own command; null if there is none
owner_kind    foreground, detached, library; lost when the store does not know the container
owner_pid     null when the owner is gone
error         why it failed, or that what was kept is gone
address       where its engine answers
engine_error  why the engine could not be asked; ``""``
============  ==================================================================================
"""

from __future__ import annotations

import shlex

from moat_core.cli.render import age, print_json, print_table, warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["print_runs"]

_HEADERS = ("NAME", "RUN ID", "STATE", "ISOLATION", "AGE", "COMMAND")


def print_runs(entries: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print runs (see `moat_core.store.state.entry`), as a table or as JSON; engines' errors go to stderr."""
    if as_json:
        print_json(entries)
    else:
        below = [[f"{endpoint}: {url}" for endpoint, url in _live_urls(run).items()] for run in entries]
        print_table(_HEADERS, [_cells(run) for run in entries], shrink=len(_HEADERS) - 1, below=below)
    for error in dict.fromkeys(run["engine_error"] for run in entries if run["engine_error"]):
        warn(f"{error} What it runs is shown as unknown.")


def _live_urls(run: dict[str, Any]) -> dict[str, str]:
    return run["urls"] if run["ended"] is None else {}


def _cells(run: dict[str, Any]) -> list[str]:
    command = run["command"]
    code = run["exit_code"]
    state = str(run["state"]) if code is None else f"{run['state']} ({code})"
    return [
        run["name"],
        run["id"],
        state,
        run["oci_runtime"] or "-",
        age(run["created"]),
        "-" if command is None else shlex.join(command),
    ]
