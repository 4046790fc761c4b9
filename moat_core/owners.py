"""Who beside us may write to a file or folder of ours, or put another one in its place.

What decides about runs (the user's config, the state folder) must be nobody else's to change. Root is trusted, as it
is everywhere. Stdlib only, and little of it: ``moat list`` imports this.
"""

from __future__ import annotations

import functools
import os
import stat

__all__ = ["mend", "others_may_write", "unsafe_way"]

_MOST_LINKS = 40
"""As many as the kernel follows; path_resolution(7)."""


def others_may_write(found: os.stat_result, path: str | os.PathLike[str], *, strict: bool = False) -> str:
    """Return how others may write to what `os.stat` FOUND at PATH, as a sentence without its dot; ``""``: not.

    Args:
        strict: A group that has only us in it (the usual one of many distributions, with umask 002) counts, too.
    """
    if not _is_trusted(found.st_uid):
        return f"It belongs to {_name(found.st_uid)}"
    if found.st_mode & stat.S_IWOTH:
        return f"Everybody may write to it (mode {stat.S_IMODE(found.st_mode):04o})"
    if found.st_mode & stat.S_IWGRP and (strict or not _is_private(found.st_gid, path)):
        return f"The group {found.st_gid} may write to it (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""


def mend(found: os.stat_result, path: str | os.PathLike[str]) -> str:
    """Return the command that makes it ours alone."""
    import shlex  # for this mistake only

    command = f"chmod {'700' if stat.S_ISDIR(found.st_mode) else 'go-w'}"
    if not _is_trusted(found.st_uid):
        command = f"sudo chown {os.geteuid()}"
    return f"{command} {shlex.quote(os.fspath(path))}"


def unsafe_way(path: str) -> tuple[str, os.stat_result, str] | None:
    """Return what on the way to PATH lets others put something else there: its path, its stat, and how; or ``None``.

    That is a folder, or a link in the path, which is another's, or a folder that others may write to. In one with the
    sticky bit (``/tmp``) only its owner renames an entry (unlink(2), EPERM), and the entry is looked at in its turn.
    """
    here, rest, links = "/", list(reversed(os.path.abspath(path).split("/"))), 0
    while rest:
        name = rest.pop()
        if name in {"", "."}:
            continue
        if name == "..":
            here = os.path.dirname(here)
            continue
        above = os.lstat(here)
        why = others_may_write(above, here)
        if why and not (above.st_mode & stat.S_ISVTX and _is_trusted(above.st_uid)):
            return here, above, why
        entry = os.path.join(here, name)
        try:
            found = os.lstat(entry)
        except FileNotFoundError:
            return None  # not made yet, and then by us
        if not _is_trusted(found.st_uid):
            return entry, found, f"It belongs to {_name(found.st_uid)}"
        if not stat.S_ISLNK(found.st_mode):
            here = entry
            continue
        links += 1
        if links > _MOST_LINKS:
            return None  # whoever opens it says so
        target = os.readlink(entry)
        here = "/" if target.startswith("/") else here
        rest += reversed(target.split("/"))
    return None


def _is_trusted(uid: int) -> bool:
    return uid in {0, os.geteuid()} or uid in _unmapped()


@functools.cache
def _unmapped() -> tuple[int, ...]:
    """Return what uid stands for all that a user namespace does not map: root of the machine among them.

    user_namespaces(7), "Unmapped user and group IDs". In a container without root of its own ``/`` belongs to it.
    """
    try:
        with open("/proc/self/uid_map") as file:
            is_whole = file.read().split() == ["0", "0", "4294967295"]
        if is_whole:
            return ()
        with open("/proc/sys/kernel/overflowuid") as file:
            return (int(file.read()),)
    except (OSError, ValueError):
        return ()  # no Linux


def _is_private(gid: int, path: str | os.PathLike[str]) -> bool:
    """Whether a group has nobody in it but us (or root), as Debian's OpenSSH asks (``user-group-modes.patch``)."""
    import grp
    import pwd

    try:
        if hasattr(os, "listxattr") and "system.posix_acl_access" in os.listxattr(path):
            return False  # the group's bits are the mask of what others were given; acl(5)
        me, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except (KeyError, OSError):
        return False
    if gid == 0:
        return set(group.gr_mem) <= {"root", me.pw_name}
    return me.pw_gid == gid and group.gr_name == me.pw_name and set(group.gr_mem) <= {me.pw_name}


def _name(uid: int) -> str:
    import pwd

    try:
        return f"the user {pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return f"the user {uid}"
