"""What a container on this machine's own kernel really has mounted, seen from outside through /proc.

In gVisor the mounts are not the sandbox's, which sees the host through descriptors only, but those of the process
beside it that opens files for it (runsc's gofer; a child of the same shim). Whose processes these are is told by their
control group or by the shim's command line; where neither names the container (an engine in a virtual machine, or in a
container) its pids are not ours, and nothing is seen.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from moat_core.host_path import open_below, read_mounts
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
        here = _look(process, targets)
        if here:
            return {target: here.get(target, seen.get(target, MountSeen())) for target in targets}
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


def _look(pid: int, targets: Sequence[str]) -> dict[str, MountSeen]:
    """Return what process PID has at TARGETS; nothing if it has a mount at none of them."""
    try:
        places = {point: (device, root) for _, device, root, point in read_mounts(pid)}  # the last one is on top
    except OSError:
        return {}
    if not places.keys() & set(targets):
        return {}
    seen = {target: MountSeen(place=places[target]) for target in targets if target in places}
    with suppress(OSError):  # only root may look through another user's /proc/PID/root
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            seen |= {target: MountSeen(identity=_identity(root, target)) for target in targets}
        finally:
            os.close(root)
    return seen


def _identity(root: int, target: str) -> tuple[int, int]:
    """Return device and inode of TARGET below ROOT, out of which no link of the image's or the run's leads."""
    there = open_below(root, target, as_root=True)
    try:
        status = os.fstat(there)
    finally:
        os.close(there)
    return status.st_dev, status.st_ino


def _parent(pid: int) -> int:
    return int(_read(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
