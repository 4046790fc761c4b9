"""Whose a kept `Volume` is: one agent's in one folder, and one run's at a time.

A name alone would not do: ``agent.yaml`` chooses it, and a stranger's repository could choose yours. ``flock(2)``: the
lock ends with its holder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["hold_cache", "make_cache_key"]


def make_cache_key(name: str, workspace: str | os.PathLike[str]) -> str:
    """Return what is kept for the agent NAME in WORKSPACE by: the name, and digits that tell the folder.

    The folder is told by its real path and its inode: another one in its place is another one. One that is moved
    loses what was kept for it. Not by its device, whose number changes with the next start of some machines.
    """
    path = os.path.realpath(workspace)
    try:
        inode = os.stat(path).st_ino
    except OSError:
        inode = 0  # whoever mounts it will say so
    digits = hashlib.sha256(f"{inode}\0{path}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{name}-{digits}"


@contextmanager
def hold_cache(folder: Path, what: str, name: str, workspace: str | os.PathLike[str]) -> Iterator[bool]:
    """Hold what is kept for the agent NAME in WORKSPACE; yield whether we have it, or another run has.

    Args:
        folder: ``run.locks``.
        what: The kind of cache, a DNS label.
    """
    path = folder / f"{what}-{make_cache_key(name, workspace)}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
