"""What is only known when the run opens: where moat's own state is, and how the engine maps user ids.

A run that could write to the state folder could forge the ledger, by which moat removes things on the host.
"""

from __future__ import annotations

import os
import posixpath
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from moat_core.errors import WorkspaceError
from moat_core.types import EnvValue, Tmpfs, User

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from moat_core.lifecycle import Run
    from moat_core.plan import Plan

__all__ = ["fit_user", "hide", "shield"]

_EMPTY_BYTES = 64 * 1024


@asynccontextmanager
async def shield(run: Run) -> AsyncIterator[None]:
    """Change the plan of RUN before anything is made from it.

    Raises:
        WorkspaceError: The workspace is a part of moat's own state.
    """
    plan = hide(run.plan, run.locks.parent)
    if plan.user.uid != 0:
        known = await (await run.runtime()).oci_runtimes()
        if known is not None and known.maps_users:
            plan = fit_user(plan)
    if plan is not run.plan:
        run.replace_plan(plan)
    yield


def hide(plan: Plan, state: Path) -> Plan:
    """Return PLAN with an empty folder over STATE, wherever a mount would show it.

    Raises:
        WorkspaceError: The workspace is STATE or in it.
    """
    real = Path(os.path.realpath(state))
    if Path(os.path.realpath(plan.workspace)).is_relative_to(real):
        raise WorkspaceError(
            f"The workspace {plan.workspace} is in moat's own state folder.", hint="Name another folder."
        )
    covers = tuple(Tmpfs(target, _EMPTY_BYTES, ("mode=0700",)) for target in _places(plan, real))
    return attrs.evolve(plan, tmpfs=(*plan.tmpfs, *covers)) if covers else plan


def _places(plan: Plan, real: Path) -> Iterator[str]:
    for mount in plan.mounts:
        source = Path(os.path.realpath(mount.source))
        if real != source and real.is_relative_to(source) and real.is_dir():
            yield posixpath.join(mount.target, *real.relative_to(source).parts)


def fit_user(plan: Plan) -> Plan:
    """Return PLAN for a rootless engine: root inside is its own user outside (user_namespaces(7))."""
    user = User()
    home = EnvValue(user.home, "workspace")
    env = dict(plan.env)
    for key, value in (("HOME", home), ("USER", EnvValue(user.name, "workspace"))):
        if key in env and env[key].value in {plan.user.home, plan.user.name}:
            env[key] = value
    return attrs.evolve(plan, user=user, env=env)
