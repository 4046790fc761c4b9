"""Whose an agent's kept images are: one run's at a time. ``flock(2)``: it ends with its holder."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["hold_cache"]


@contextmanager
def hold_cache(folder: Path, name: str) -> Iterator[bool]:
    """Hold the images of the agent NAME by a lock in FOLDER; yield whether we have it, or another run has."""
    descriptor = os.open(folder / f"docker-dind-{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
