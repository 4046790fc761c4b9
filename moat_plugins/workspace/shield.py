"""What is only known when the run opens: where moat's own state is, and how the engine maps user ids.

A run that could write to the state folder could forge the ledger, by which moat removes things on the host; one that
could write the user's own config could trust itself, and lift the ceiling. A cover
over the folder does not help where the run can write: it renames a folder above (rename(2) refuses only what is a
mount point itself) and makes another of the same name.
"""

from __future__ import annotations

import os
import posixpath
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from moat_core.config import user_config_path
from moat_core.errors import WorkspaceError
from moat_core.imports import own_code
from moat_core.types import EnvValue, Mount, Problem, Tmpfs, User

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from moat_core.lifecycle import Run
    from moat_core.plan import Plan

__all__ = ["fit_user", "hide", "protect_code", "shield"]

_EMPTY_BYTES = 64 * 1024
_MOST_LINKS = 40
"""As many as the kernel follows; path_resolution(7)."""


@asynccontextmanager
async def shield(run: Run) -> AsyncIterator[None]:
    """Change the plan of RUN before anything is made from it.

    Raises:
        WorkspaceError: The workspace is a part of moat's own state.
    """
    plan = hide(run.plan, run.locks.parent)
    own = user_config_path(os.environ)
    if own is not None:
        plan = hide(plan, own.parent, "the folder of your own config")
    plan, exposed = protect_code(plan)
    for place in exposed:
        await run.warn(_exposed(place))
    if plan.user.uid != 0:
        known = await (await run.runtime()).oci_runtimes()
        if known is not None and known.maps_users:
            plan = fit_user(plan)
    if plan is not run.plan:
        run.replace_plan(plan)
    yield


def hide(plan: Plan, state: Path, name: str = "moat's own state folder") -> Plan:
    """Return PLAN with an empty folder over STATE, wherever a mount that cannot be written to would show it.

    Args:
        plan: What is to be made.
        state: A folder of whose content no run may decide.
        name: What it is called.

    Raises:
        WorkspaceError: A mount that can be written to holds STATE, is in it, or holds something that leads to it.
    """
    ways = [*_ways(state), str(state)]
    for mount in plan.mounts:
        if mount.read_only:
            continue
        if _within(mount.source, str(state)) is not None:
            what = f"is in {name}"
        elif any(_within(way, mount.source) is not None for way in ways):
            what = f"holds {name}, {state}, or what leads to it: the run could forge it"
        else:
            continue
        where = "workspace" if mount.source == str(plan.workspace) else "mounted folder"
        raise WorkspaceError(
            f"The {where} {mount.source} {what}.",
            hint="Name another folder, or set MOAT_HOME, or XDG_CONFIG_HOME, to one that no run is given.",
        )
    covers = tuple(Tmpfs(target, _EMPTY_BYTES, ("mode=0700",)) for target in _places(plan, state))
    return attrs.evolve(plan, tmpfs=(*plan.tmpfs, *covers)) if covers else plan


def protect_code(plan: Plan) -> tuple[Plan, list[str]]:
    """Return PLAN with what moat itself runs from shown read-only, and what of that a run could write to all the same.

    A mount at the top of another one stays where it is; further down a run renames a folder above it.
    """
    covers: list[Mount] = []
    exposed: list[str] = []
    taken = {mount.target for mount in plan.mounts}
    for place in own_code():
        for mount in plan.mounts:
            rest = None if mount.read_only else _within(place, mount.source)
            if rest is None:
                continue
            target = posixpath.join(mount.target, *rest.parts)
            if len(rest.parts) != 1:
                exposed.append(place)
            elif target not in taken:
                covers.append(Mount(place, target, read_only=True))
    return (attrs.evolve(plan, mounts=(*plan.mounts, *covers)) if covers else plan), exposed


def _exposed(place: str) -> Problem:
    return Problem(
        f"moat itself runs from {place}, which this run can write to: what it puts there would run on this machine.",
        "Install moat elsewhere (`pipx install moat-core`), or give the run another folder.",
    )


def _places(plan: Plan, state: Path) -> Iterator[str]:
    """Yield where STATE would be seen inside."""
    for mount in plan.mounts:
        rest = _within(str(state), mount.source)
        if rest is not None and rest.parts and state.is_dir():
            yield posixpath.join(mount.target, *rest.parts)


def _within(path: str, folder: str) -> Path | None:
    """Return what leads from FOLDER to PATH, ``None`` if PATH is not in it.

    The folders are compared by identity: bind mounts, and systems that ignore case, give one folder many names.
    """
    real = Path(os.path.realpath(path))
    for above in (real, *real.parents):
        try:
            if os.path.samefile(above, folder):
                return real.relative_to(above)
        except OSError:
            continue  # not there yet, or not for us to see
    return None


def _ways(path: Path) -> set[str]:
    """Return every folder with an entry that decides where PATH leads, those behind symbolic links included."""
    ways, here = set[str](), "/"
    rest, links = list(reversed(path.parts)), 0
    while rest:
        name = rest.pop()
        if name in {"", ".", "/"}:
            continue
        ways.add(here)
        if name == "..":
            here = os.path.dirname(here)
            continue
        entry = os.path.join(here, name)
        if not os.path.islink(entry):
            here = entry
            continue
        links += 1
        if links > _MOST_LINKS:
            break
        target = os.readlink(entry)
        here = "/" if target.startswith("/") else here
        rest += reversed(target.split("/"))
    return ways


def fit_user(plan: Plan) -> Plan:
    """Return PLAN for a rootless engine: root inside is its own user outside (user_namespaces(7))."""
    user = User()
    home = EnvValue(user.home, "workspace")
    env = dict(plan.env)
    for key, value in (("HOME", home), ("USER", EnvValue(user.name, "workspace"))):
        if key in env and env[key].value in {plan.user.home, plan.user.name}:
            env[key] = value
    return attrs.evolve(plan, user=user, env=env)
