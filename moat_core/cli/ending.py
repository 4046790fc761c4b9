"""Ending runs of other processes: `stop` and `destroy` share it.

Nothing is undone here that a living owner would undo: its container is stopped, and it does the rest.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import anyio

from moat_core.api.runs import match_run
from moat_core.cli.render import print_error, say
from moat_core.errors import MoatError, RunError, TeardownError, UnknownName
from moat_core.store.state import OVER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moat_core.api import Moat, RunInfo

__all__ = ["UNDO_S", "choose", "end_run", "owner_is_alive"]

UNDO_S = 40.0
"""How long an owner may take to undo everything once its container has ended."""
_POLL_S = 0.05
_SAY_AFTER_S = 2.0


async def choose(
    moat: Moat, references: Iterable[str], *, every: bool = False
) -> tuple[list[RunInfo], list[UnknownName]]:
    """Return the runs that REFERENCES mean, each once (or EVERY live one), and what could not be found."""
    infos = await moat.list(over=True)
    chosen: dict[str, RunInfo] = {}
    errors: list[UnknownName] = []
    for reference in references:
        try:
            info = match_run(infos, reference)
            chosen[info.id] = info
        except UnknownName as error:
            errors.append(error)
    if every:
        chosen |= {info.id: info for info in infos if info.state not in OVER}
    return list(chosen.values()), errors


async def end_run(moat: Moat, info: RunInfo, *, grace_s: float) -> None:
    """Stop a live run and wait until its owner has undone everything.

    Args:
        grace_s: Between SIGTERM and SIGKILL for the main process.

    Raises:
        MoatError: The engine does not answer, or the owner does not do its part; the hint names what is left.
    """
    if info.engine_error:
        await moat.attach(info.id)  # raises the engine's error, with its hint
    deadline = time.monotonic() + grace_s + UNDO_S
    if info.sandbox is not None and info.state != "stopping":
        run = await moat.attach(info.id) if info.state != "starting" else None
        if run is not None:
            await run.sandbox.stop(grace_s)
    if info.state == "starting":
        _ask_owner(info)
    await _wait_for_owner(moat, info, deadline)


def _ask_owner(info: RunInfo) -> None:
    """Ask the owner of a run that has no container yet to give it up."""
    if info.owner_kind not in {"foreground", "detached"} or info.owner_pid is None:
        raise RunError(
            f"The run {info.name} ({info.id}) is only starting, and a program owns it that cannot be asked to stop.",
            hint=f"Wait until it is running, or end that program (process {info.owner_pid}).",
        )
    if not owner_is_alive(info.owner_pid, info.created):
        return  # its lock is a reaper's
    try:
        os.kill(info.owner_pid, signal.SIGTERM)
    except ProcessLookupError:
        pass  # gone meanwhile
    except PermissionError as error:
        raise RunError(
            f"The owner of {info.name} ({info.id}), process {info.owner_pid}, is somebody else's.",
            hint="Stop it as the user who started it.",
        ) from error


async def _wait_for_owner(moat: Moat, info: RunInfo, deadline: float) -> None:
    upkeep = moat.upkeep()
    said, tell_at = False, time.monotonic() + _SAY_AFTER_S
    while upkeep.is_live(info.id):
        now = time.monotonic()
        if now > deadline:
            rows = moat.store.resources(info.id, kept=False)
            left = [f"{row.kind} {row.data.get('name', '')}".strip() for row in rows]
            raise TeardownError(
                f"The owner of {info.name} ({info.id}), process {info.owner_pid}, has not undone everything "
                f"in {UNDO_S:.0f} s.",
                hint=(f"Left: {', '.join(left)}.\n" if left else "")
                + f"End the process (kill {info.owner_pid}), then run `moat clean`.",
            )
        if now > tell_at and not said:
            said = True
            say(f"{info.name}: waiting for its owner (process {info.owner_pid}) to undo everything …")
        await anyio.sleep(_POLL_S)


def owner_is_alive(pid: int, created: float | None) -> bool:
    """Tell whether process PID is the one that owned a run made at CREATED, not a later one of the same number.

    The owner was there before its run; whoever has its number now without being it began later.
    """
    started = _started(pid)
    return started is not None and (created is None or started <= created + 1)


def _started(pid: int) -> float | None:
    """Return when a process began, in seconds since 1970; ``None`` if there is none."""
    if os.path.exists("/proc/uptime"):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                # proc_pid_stat(5): field 22, counted after the name, which may hold anything but is in parentheses.
                ticks = int(file.read().rpartition(b")")[2].split()[19])
            with open("/proc/uptime", "rb") as file:
                uptime = float(file.read().split()[0])
        except (OSError, ValueError, IndexError):
            return None
        return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
    # POSIX ps: [[dd-]hh:]mm:ss
    ps = subprocess.run(["ps", "-o", "etime=", "-p", str(pid)], capture_output=True, text=True, check=False, timeout=5)
    days, _, clock = ps.stdout.strip().rpartition("-")
    if not clock:
        return None
    seconds = 0
    for part in clock.split(":"):
        seconds = seconds * 60 + int(part)
    return time.time() - seconds - int(days or 0) * 86400


def report(errors: Iterable[MoatError]) -> int:
    """Tell every error; return the exit status: that of the worst, 0 if there is none."""
    status = 0
    for error in errors:
        print_error(error)
        status = max(status, error.exit_code)
    return status
