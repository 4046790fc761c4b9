"""From a path that the run sees to the folder of the host behind it.

A guest sees what the run sees: a bind's source is looked for in the run's own mounts, and nothing outside of them can
be named. What lies on top of a mount there (a read-only part, a cover over moat's state) is so by its path, in folders
that the run may rename: nothing is shown of a mount that has such parts, or it is shown read-only.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs

from moat_core.host_path import hold, open_below
from moat_plugins.docker_host.policy.verdict import Refused, refuse

if TYPE_CHECKING:
    from moat_core.host_path import HeldPath
    from moat_core.types import Mount
    from moat_plugins.docker_host.scope import Scope

__all__ = ["Bind", "find_folder"]

_SOCKETS = ("/var/run/docker.sock", "/run/docker.sock", "/run/moat")


@attrs.frozen
class Bind:
    """What a guest is to see at TARGET.

    Args:
        root: A folder of the host that the run was given; nobody inside can put anything else in its place.
        pinned: How to name it so that nobody else can, either; ``""`` if no other run can write above it.
        below: The path below it, without symbolic links when it was looked at; ``""`` is all of it.
        target: Where the guest sees it.
        read_only: It may not be written to.
        is_file: It is no folder.
    """

    root: str
    below: str
    target: str
    read_only: bool
    is_file: bool = False
    pinned: str = ""


def find_folder(source: str, target: str, scope: Scope, *, read_only: bool, make: bool) -> Bind:
    """Return the bind that shows the run's SOURCE at TARGET of a guest.

    Args:
        source: Absolute path as the run sees it.
        target: Absolute path in the guest.
        read_only: The run wants it so.
        make: Make a folder where nothing is, as ``docker run -v`` does.

    Raises:
        Refused: It is not in any mount of the run, leads out of it, or to what the run itself does not reach.
    """
    path = posixpath.normpath("/" + source.lstrip("/"))
    if path != "/" and any(_within(path, each) is not None or _within(each, path) is not None for each in _SOCKETS):
        raise refuse(f"mounting {path}", "the engine's socket would not be guarded in there")
    plan = scope.plan
    mounts = [mount for mount in plan.mounts if mount.target not in scope.hidden]
    own, below = _find(path, mounts)
    if own is None or any(_within(path, other.target) is not None for other in plan.tmpfs):
        raise refuse(f"mounting {path}", "only the workspace and what else is mounted into this run can be", "binds")
    outer, inside = _anchor(own, mounts)
    root = outer.source
    _check_root(root, path, scope, mounts, writes=not (read_only or own.read_only))
    with _hold(outer, scope) as held:
        rest, is_file = _look(held, posixpath.join(inside, below).rstrip("/"), path, make=make and not own.read_only)
        pinned = _pin(outer, held, scope)
    inner = _within(rest, inside) if inside else rest
    if inner is None:
        raise refuse(f"mounting {path}", "a symbolic link in it leads out of the mount")
    canonical = posixpath.normpath(posixpath.join(own.target, inner))
    if _find(canonical, mounts)[0] is not own:
        raise refuse(f"mounting {path}", "a symbolic link in it leads to another mount")
    return Bind(root, rest, target, read_only or own.read_only, is_file, pinned)


def _find(path: str, mounts: list[Mount]) -> tuple[Mount | None, str]:
    found, rest = None, ""
    for mount in mounts:
        below = _within(path, mount.target)
        if below is not None and (found is None or len(mount.target) > len(found.target)):
            found, rest = mount, below
    return found, rest


def _within(path: str, folder: str) -> str | None:
    """Return what leads from FOLDER to PATH, ``""`` if they are one; ``None`` if PATH is not in it."""
    if path == folder:
        return ""
    prefix = folder.rstrip("/") + "/"
    return path.removeprefix(prefix) if path.startswith(prefix) else None


def _anchor(mount: Mount, mounts: list[Mount]) -> tuple[Mount, str]:
    """Return the outermost mount by which MOUNT's source can be changed, and the path from there.

    The source of a mount that is in another one's can be replaced by a link from inside that other one if that may be
    written to, so it is a path below it like any other. Sources are without links since the run opened.
    """
    holding = [each for each in mounts if _within(mount.source, each.source) is not None]
    outer = min((each for each in holding if each is mount or not each.read_only), key=lambda m: len(m.source))
    return outer, _within(mount.source, outer.source) or ""


def _check_root(root: str, path: str, scope: Scope, mounts: list[Mount], *, writes: bool) -> None:
    """See that everything in ROOT is for the run to see, and to write to if the guest WRITES.

    What is read-only or hidden in it is so by its path, and the run can rename folders: a guest that is shown ROOT, or
    a path in it, could be led to what the run itself does not reach.

    Raises:
        Refused: It is not.
    """
    plan = scope.plan
    targets = [each.target for each in mounts] + [each.target for each in plan.tmpfs]
    for target in targets + [each.target for each in plan.volumes]:
        below = [each for each in mounts if _within(target, each.target)]
        if not below:
            continue
        under = max(below, key=lambda each: len(each.target))
        place = posixpath.join(under.source, _within(target, under.target) or "")
        is_shown = any(each.target == target and each.source == place for each in mounts)
        if not is_shown and _within(place, root) is not None:
            raise refuse(f"mounting {path}", f"{target} hides a part of it, which a guest could be led to")
    if writes and any(each.read_only and _within(each.source, root) is not None for each in mounts):
        raise refuse(f"mounting {path} to be written to", "a part of it is read-only for the run; mount it with :ro")


def _hold(mount: Mount, scope: Scope) -> HeldPath:
    """Hold the source of MOUNT once more, and see that it is what it was.

    Raises:
        Refused: Another run, perhaps, has put something else there.
    """
    try:
        found = hold(mount.source, scope.given, follow=False)
    except OSError as error:
        raise refuse(f"mounting {mount.target}", "what the run was given there is not in its place any more") from error
    if mount.target in scope.held and found.identity != scope.held[mount.target].identity:
        found.close()
        raise refuse(f"mounting {mount.target}", "something else is in the place of what the run was given there")
    return found


def _pin(mount: Mount, held: HeldPath, scope: Scope) -> str:
    """Return a path to what is HELD that only this process can change: its own descriptor, open as long as the run."""
    if not held.shared or mount.target not in scope.held:
        return ""
    return f"/proc/{os.getpid()}/fd/{scope.held[mount.target].fd}"


def _look(base: HeldPath, below: str, shown: str, *, make: bool) -> tuple[str, bool]:
    """Return the path BELOW the folder BASE without links, and whether it is a file.

    The engine looks again, from BASE on, and lets no link lead out (`Bind.root`): what changes in between can change
    which folder of the mount it is, not that it is one.
    """
    if not below:
        return "", not base.is_folder
    try:
        there = open_below(base.fd, below)
    except FileNotFoundError as error:
        if not make:
            raise Refused(f"bind source path does not exist: {shown}", status=400) from error
        there = _make_below(base, below, shown)
    except OSError as error:
        raise refuse(f"mounting {shown}", _WHY.get(error.errno or 0, str(error.strerror))) from error
    try:
        mode = os.fstat(there).st_mode
        rest = _within(os.readlink(f"/proc/self/fd/{there}"), os.readlink(f"/proc/self/fd/{base.fd}"))
    finally:
        os.close(there)
    if rest is None:
        raise refuse(f"mounting {shown}", "it leads out of the mount")
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise refuse(f"mounting {shown}", "it is neither a folder nor a file")
    return rest, not stat.S_ISDIR(mode)


_WHY = {
    errno.EXDEV: "a symbolic link in it leads out of the mount",
    errno.ENOSYS: "this machine's kernel is older than Linux 5.6, and links could lead out of it",
}


def _make_below(base: HeldPath, below: str, shown: str) -> int:
    """Make what is missing of the folders of BELOW, following no link there, for the owner of the mount; return it."""
    names = below.split("/")
    here = -1
    try:
        for count in range(len(names) - 1, -1, -1):  # the longest part that is there; it may have links
            with suppress(FileNotFoundError):
                here = open_below(base.fd, "/".join(names[:count]))
                break
        for name in names[count:]:
            here = _make_one(here, name, base.status)
    except OSError as error:
        if here >= 0:
            os.close(here)
        raise Refused(f"error while creating mount source path '{shown}': {error.strerror}", status=400) from error
    return here


def _make_one(folder: int, name: str, owner: os.stat_result) -> int:
    """Make NAME in an open FOLDER, which is closed if that goes well, and return it."""
    made = True
    try:
        os.mkdir(name, 0o755, dir_fd=folder)
    except FileExistsError:
        made = False
    there = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    if made and os.geteuid() == 0:
        os.chown(f"/proc/self/fd/{there}", owner.st_uid, owner.st_gid)
    os.close(folder)
    return there
