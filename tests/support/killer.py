"""A plugin that kills its own process at a step of the ledger: how the chaos tests reach every one of them.

``CHAOS_LOG`` names a file that gets a line for each step of every owner. ``CHAOS_KILL_AT`` is the number of the step
(1 is the first) after which the owner dies; with ``CHAOS_KILL_WATCHDOG=1`` its watchdog dies just before. At the step
``CHAOS_STOP_AT``, a number or a step's name, the owner stands still (SIGSTOP) until somebody wakes or kills it.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from moat_core import hookimpl


@hookimpl
async def moat_on_ledger_step(step):
    log = Path(os.environ["CHAOS_LOG"])
    kind = step.resource.kind if step.resource is not None else "run"
    with log.open("a") as file:
        file.write(f"{step.step} {kind}\n")
    at = len(log.read_text().splitlines())
    if os.environ.get("CHAOS_STOP_AT") in {str(at), f"{step.step} {kind}"}:
        os.kill(os.getpid(), signal.SIGSTOP)
    if at == int(os.environ.get("CHAOS_KILL_AT", "0")):
        if os.environ.get("CHAOS_KILL_WATCHDOG"):
            for pid in watchdogs(os.getpid()):
                os.kill(pid, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def watchdogs(owner: int) -> list[int]:
    """Find the watchdog of the process OWNER."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            command = status.with_name("cmdline").read_bytes()
        except (OSError, IndexError, ValueError):
            continue
        if parent == owner and b"moat-watchdog" in command:
            found.append(int(status.parent.name))
    return found
