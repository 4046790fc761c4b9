"""Whose a BuildKit's kept files are: one run's at a time. ``flock(2)``: it ends with its holder."""

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
def hold_cache(folder: Path, name: str) -> Iterator[str]:
    """Hold the cache of the agent NAME by a lock in FOLDER; yield NAME, or ``""`` if another run has it."""
    descriptor = os.open(folder / f"buildkit-{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield ""
        else:
            yield name
    finally:
        os.close(descriptor)
