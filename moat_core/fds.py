"""Standard streams that are there: the first thing that each program of ours sees to; and how many files there may be.

Whoever starts us with a closed stdout (``>&-``) leaves descriptor 1 free for the next file to be opened, the
database for one, and what the container prints would then be written into that. The C library does the same for
set-user-id programs. Stdlib only, and little of it.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["fill_standard_fds", "raise_file_limit", "with_old_limit"]

_PLENTY = 1 << 20
_LIMIT_BEFORE: list[int] = []
"""The soft limit that this process was started with, once it was raised: as little ours as the limit itself is."""


def fill_standard_fds() -> None:
    """Open the null device for each closed descriptor of 0 to 2, for us, for children, and as ``sys.std*``."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004 - open(2) gives the lowest that is free
        os.set_inheritable(fd, True)
    os.close(fd)
    # Python has None for a stream whose descriptor was closed.
    for name, fd, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, mode, encoding="utf-8", closefd=False))


def raise_file_limit() -> int:
    """Let this process open as many files as it may, and return how many that is.

    The soft limit is low for the sake of programs that use select(2), which takes no descriptor above 1023; we do not.
    Go's runtime does the same. Programs of others that we start get the old one back, see `with_old_limit`.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not _LIMIT_BEFORE:
        _LIMIT_BEFORE.append(soft)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS has a lower limit than it tells
            hard = soft
    return _PLENTY if hard == resource.RLIM_INFINITY else hard


def with_old_limit(argv: Sequence[str]) -> list[str]:
    """Return ARGV with what it takes to run it under the limit of files that this process was started with."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not _LIMIT_BEFORE or _LIMIT_BEFORE[0] == soft:
        return list(argv)
    return ["/bin/sh", "-c", 'ulimit -S -n "$0" && exec "$@"', str(_LIMIT_BEFORE[0]), *argv]
