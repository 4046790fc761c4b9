"""What is mounted into a run is what was meant: held from the moment it is looked at, compared before anything begins.

An engine is given a path, and opens it later, as root. Between our look and its own, another run may have put
something else there. So every source is held by descriptor, and what the engine really mounted is compared with that
while the container's main process still waits to be admitted.

Where it is mounted is a path, too: in a folder that a run could write to, a link at a target would put it elsewhere in
the container, over what root runs there. None is followed.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import attrs

from moat_core.errors import HostPathError
from moat_core.host_path import hold, holder_of, nobody, place_of
from moat_core.types import Mount

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

    from moat_core.host_path import HeldPath, IsShared
    from moat_core.lifecycle.run import Run
    from moat_core.plan import Plan
    from moat_core.runtime.base import MountSeen, Sandbox

__all__ = ["check_mounts", "hold_again", "hold_mounts", "is_same"]

_HINT = "Somebody, perhaps another run, changes what is to be mounted. See who, and start again."


async def hold_mounts(run: Run, give: Callable[[Iterable[tuple[tuple[int, int], str]]], None]) -> None:
    """Hold what RUN's plan mounts until its end, and put paths without links in the plan.

    Args:
        give: Remembers which folders this run is given to write to.

    Raises:
        HostPathError: One of them is not what it was when the run was planned, or leads where no run may be led.
        OSError: One is not there any more.
    """
    held = run.held_mounts
    run.undo.push("moat", "held mounts", _let_go(held))
    for mount in run.plan.mounts:
        held[mount.target] = _hold(mount, run.given)
    _check_targets(run.plan, held)
    mounts = tuple(
        attrs.evolve(mount, source=held[mount.target].path, identity=held[mount.target].identity)
        for mount in run.plan.mounts
    )
    run.replace_plan(attrs.evolve(run.plan, mounts=mounts))
    give((mount.identity, mount.source) for mount in mounts if not mount.read_only and mount.identity is not None)


def _hold(mount: Mount, given: IsShared) -> HeldPath:
    try:
        found = hold(mount.source, given, follow=mount.identity is None)
    except HostPathError:
        raise
    except OSError as error:
        raise HostPathError(f"{mount.source} cannot be mounted at {mount.target}: {error.strerror}.") from error
    if mount.identity not in {None, found.identity}:
        found.close()
        raise HostPathError(f"{mount.source} is not what it was when the run was planned.", hint=_HINT)
    return found


def _check_targets(plan: Plan, held: Mapping[str, HeldPath]) -> None:
    """See that what is mounted inside of another mount will be there, and not where a link in that one leads.

    Raises:
        HostPathError: There is a link.
    """
    targets = [
        *(mount.target for mount in plan.mounts),
        *(volume.target for volume in plan.volumes),
        *(tmpfs.target for tmpfs in plan.tmpfs),
    ]
    for target in targets:
        outer = holder_of(target, held)
        if outer is not None and _has_link(held[outer].path + target[len(outer.rstrip("/")) :]):
            raise HostPathError(
                f"Nothing can be mounted at {target}: there is a link on the way, below {held[outer].path}.",
                hint="Take the link away, or name the place in the container that is meant.",
                target=target,
            )


def _has_link(path: str) -> bool:
    """Tell whether there is a link on PATH; what is not there the engine makes, or says why it cannot."""
    try:
        with hold(path, follow=False) as found:
            return found.path != path  # as where nothing is held
    except HostPathError:
        return True
    except OSError:
        return False


def _let_go(held: Mapping[str, HeldPath]) -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        for each in held.values():
            each.close()

    return close


@contextmanager
def hold_again(mounts: Iterable[tuple[str, str, int, int]]) -> Iterator[dict[str, HeldPath]]:
    """Hold what another process held: MOUNTS are target, real path, device and inode.

    Raises:
        HostPathError: Something else is there by now.
    """
    with ExitStack() as stack:
        yield {
            target: stack.enter_context(_hold(Mount(path, target, identity=(device, inode)), nobody))
            for target, path, device, inode in mounts
        }


async def check_mounts(held: Mapping[str, HeldPath], sandbox: Sandbox) -> None:
    """Compare what SANDBOX really has mounted with what is HELD; where nothing can be seen there is nothing to compare.

    Raises:
        HostPathError: They differ.
    """
    if not held:
        return
    seen = await sandbox.mounted(tuple(held))
    for target, meant in held.items() if seen else ():
        if target not in seen or not is_same(meant, seen[target]):
            raise HostPathError(
                f"The engine mounted something else at {target} than {meant.path}, which was looked at before.",
                hint=_HINT,
                target=target,
                source=meant.path,
            )


def is_same(meant: HeldPath, seen: MountSeen) -> bool:
    """Tell whether SEEN is what was MEANT, by the strongest that is known of it."""
    if seen.identity is not None:
        return seen.identity == meant.identity
    place = place_of(meant.fd) if seen.place is not None and meant.fd >= 0 else None
    if place is not None:
        return seen.place == place
    # An engine in a virtual machine may put a word of its own before the path.
    return seen.source is None or seen.source == meant.path or seen.source.endswith(meant.path)
