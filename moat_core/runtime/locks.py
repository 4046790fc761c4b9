"""Whose a kept `Volume` is: one run's at a time. ``flock(2)``: it ends with its holder."""

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
def hold_cache(folder: Path, what: str, name: str) -> Iterator[bool]:
    """Hold what is kept for the agent NAME; yield whether we have it, or another run has.

    Args:
        folder: ``run.locks``.
        what: The kind of cache, a DNS label.
    """
    descriptor = os.open(folder / f"{what}-{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
