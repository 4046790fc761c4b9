"""Standard streams that are there: the first thing that each program of ours sees to.

Whoever starts us with a closed stdout (``>&-``) leaves descriptor 1 free for the next file to be opened, the
database for one, and what the container prints would then be written into that. The C library does the same for
set-user-id programs. Stdlib only, and little of it.
"""

from __future__ import annotations

import os
import sys

__all__ = ["fill_standard_fds"]


def fill_standard_fds() -> None:
    """Open the null device for each closed descriptor of 0 to 2, for us, for children, and as ``sys.std*``."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004 - open(2) gives the lowest that is free
        os.set_inheritable(fd, True)
    os.close(fd)
    # Python has None for a stream whose descriptor was closed.
    for name, fd, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, mode, encoding="utf-8", closefd=False))
