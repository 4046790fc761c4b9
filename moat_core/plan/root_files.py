"""What root reads and runs in a container, and so may not be covered by what a run could have written.

`moat-init` and its helpers come from the image. A folder of the host's, a kept volume or scratch space over one of
these places would put other files there: those of an earlier run, if it could write them.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from moat_core.types import Problem

if TYPE_CHECKING:
    from moat_core.plan.plan import Plan

__all__ = ["find_covered"]

_PLACES = (
    # programs: `environment.ROOT_PATH`
    "/bin",
    "/sbin",
    "/usr/bin",
    "/usr/sbin",
    # what they are linked with and load (ld.so(8)); moat's own texts are below /usr/local/lib
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libx32",
    "/usr/libexec",
    "/usr/local/lib",
    "/usr/local/lib64",
    # what loaders and the C library read, and who is who
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/group",
    # where programs are found again behind links (Debian), and the kernel's word
    "/etc/alternatives",
    "/proc",
    "/sys",
)


def find_covered(plan: Plan) -> list[Problem]:
    """Return a problem for each mount, volume and tmpfs of PLAN over a place that root needs, or over a part of one.

    Where the run's user is root nothing is to be gained, and everything is allowed.
    """
    if plan.user.uid == 0:
        return []
    targets = [
        *(mount.target for mount in plan.mounts),
        *(volume.target for volume in plan.volumes),
        *(tmpfs.target for tmpfs in plan.tmpfs),
    ]
    return [
        Problem(
            f"Nothing can be mounted at {target}: root needs {place} of the image until the command starts.",
            "Mount it elsewhere, below /opt or /usr/local/bin for programs, and name the place in PATH.",
            where="mounts",
        )
        for target in targets
        if (place := _find_place(posixpath.normpath("/" + target.lstrip("/")))) is not None
    ]


def _find_place(target: str) -> str | None:
    for place in _PLACES:
        if target in {"/", place} or place.startswith(target + "/") or target.startswith(place + "/"):
            return place
    return None
