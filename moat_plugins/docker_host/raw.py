"""``access: raw``: the engine's own socket in the run, and its group for the run's user."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import attrs

from moat_core.errors import HostError
from moat_core.types import Mount, Problem
from moat_plugins.docker_host.contribute import RAW_SOCKET

if TYPE_CHECKING:
    from moat_core.lifecycle import Run
    from moat_core.plan import Plan
    from moat_core.runtime.facets import EngineApi

__all__ = ["add_socket", "judge"]

_USUAL = {0o660, 0o600}


async def add_socket(run: Run, api: EngineApi) -> Plan:
    """Return RUN's plan with the engine's socket at its usual place, warning of odd permissions.

    Raises:
        HostError: The engine has no socket on this machine.
    """
    if not api.address.startswith("unix://"):
        raise HostError(
            f"docker:host with 'access: raw' needs an engine with a Unix socket, and this one is at {api.address}.",
            hint="Use docker:dind, or an engine on this machine.",
        )
    path = os.path.realpath(api.address.removeprefix("unix://"))
    try:
        found = os.stat(path)
    except OSError as error:
        raise HostError(f"The engine's socket {path} cannot be looked at: {error.strerror}.") from error
    for message in judge(path, found):
        await run.warn(Problem(message, f"Look at it: ls -l {path}", where="docker_host"))
    plan = run.plan
    groups = plan.groups
    if plan.user.uid != 0 and found.st_gid not in {plan.user.gid, *groups}:
        groups = (*groups, found.st_gid)
    return attrs.evolve(plan, groups=groups, mounts=(*plan.mounts, Mount(path, RAW_SOCKET)))


def judge(path: str, found: os.stat_result) -> list[str]:
    """Return what is unexpected about the owner and permissions of the engine's socket."""
    problems = []
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISSOCK(found.st_mode):
        problems.append(f"The engine's address {path} is no socket.")
    elif mode & stat.S_IWOTH:
        problems.append(f"Everybody on this machine may use the engine's socket {path} (mode {mode:04o}).")
    elif mode not in _USUAL:
        problems.append(f"The engine's socket {path} has the unexpected mode {mode:04o} instead of 0660.")
    elif not mode & stat.S_IWGRP:
        problems.append(f"Only its owner may use the engine's socket {path} (mode {mode:04o}); a group is of no use.")
    return problems
