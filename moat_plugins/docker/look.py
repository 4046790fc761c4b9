"""What a container on this machine's own kernel really has mounted, seen from outside through /proc.

In gVisor the mounts are not the sandbox's, which sees the host through descriptors only, but those of the process
beside it that opens files for it (runsc's gofer; a child of the same shim). Whose processes these are is told by their
control group or by the shim's command line; where neither names the container (an engine in a virtual machine, or in a
container) its pids are not ours, and nothing is seen.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from moat_core.host_path import holder_of, open_below, read_mounts
from moat_core.runtime.base import MountSeen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

__all__ = ["look_at_mounts"]


def look_at_mounts(found: Mapping[str, Any], targets: Sequence[str]) -> dict[str, MountSeen]:
    """Return what is at TARGETS of the running container that the engine said FOUND of.

    Args:
        found: The answer of GET /containers/{id}/json.
    """
    said = {mount["Destination"]: str(mount.get("Source", "")) for mount in found.get("Mounts") or []}
    seen = {target: MountSeen(source=said[target]) for target in targets if target in said}
    pid = int(found["State"].get("Pid") or 0)
    for process in _processes(pid, found["Id"]) if pid else ():
        here, astray = _look(process, targets)
        if here:
            return {
                target: here.get(target, seen.get(target, MountSeen())) for target in targets if target not in astray
            }
    return seen


def _processes(pid: int, container: str) -> list[int]:
    """Return the processes that may have the container's mounts; none if PID is not the container's."""
    try:
        parent = _parent(pid)
        if container not in _read(f"/proc/{pid}/cgroup") and container not in _read(f"/proc/{parent}/cmdline"):
            return []
    except (OSError, ValueError, IndexError):
        return []
    beside: list[int] = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{parent}/task"):
            beside += [int(child) for child in _read(f"/proc/{parent}/task/{task}/children").split()]
    return [pid, *(child for child in beside if child != pid)]


def _look(pid: int, targets: Sequence[str]) -> tuple[dict[str, MountSeen], set[str]]:
    """Return what process PID has at TARGETS, nothing if it has a mount at none of them; and which are not in place.

    A link of the image's may lead to another name. One in a mounted folder is not followed: what is to be mounted in
    there is a mount by that very name, or it is somewhere else.
    """
    try:
        places = {point: (device, root) for _, device, root, point in read_mounts(pid)}  # the last one is on top
    except OSError:
        return {}, set()
    if not places.keys() & set(targets):
        return {}, set()
    astray = {target for target in targets if target not in places and holder_of(target, targets) in places}
    seen = {target: MountSeen(place=places[target]) for target in targets if target in places}
    with suppress(OSError):  # only root may look through another user's /proc/PID/root
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for target in targets:
                seen[target] = MountSeen(identity=_identity(root, target, holder_of(target, targets)))
        finally:
            os.close(root)
    return seen, astray


def _identity(root: int, target: str, outer: str | None) -> tuple[int, int]:
    """Return device and inode of TARGET below ROOT, out of which no link leads; in OUTER, a mount, none is followed.

    A link where none is followed leads to nothing that could be meant: the identity is nobody's.
    """
    with ExitStack() as opened:
        there = open_below(root, outer or target, as_root=True)
        opened.callback(os.close, there)
        if outer is not None:
            try:
                there = open_below(there, target[len(outer.rstrip("/")) :], links=False)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                return _NOBODYS
            opened.callback(os.close, there)
        status = os.fstat(there)
    return status.st_dev, status.st_ino


_NOBODYS = (-1, -1)


def _parent(pid: int) -> int:
    return int(_read(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
