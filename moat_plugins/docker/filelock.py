"""A lock between processes, for what must be done once: a network, an image. ``flock(2)``: it dies with its holder."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from moat_core.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["hold_lock"]

_POLL_S = 0.05


@asynccontextmanager
async def hold_lock(folder: Path, what: str, limit_s: float) -> AsyncIterator[None]:
    """Hold the lock called WHAT (any text) in FOLDER.

    Args:
        limit_s: How long to wait for another holder, in seconds.

    Raises:
        HostError: It was not to be had in that time, or FOLDER cannot be written.
    """
    path = folder / f"docker-{hashlib.sha256(what.encode()).hexdigest()[:16]}.lock"
    try:
        descriptor = _open(path)
    except OSError as error:
        raise HostError(f"The lock {path} cannot be opened: {error.strerror}.", hint="Free some disk space.") from error
    try:
        # Polled, because a thread blocked in flock could not be cancelled.
        with anyio.move_on_after(limit_s) as scope:
            while not _try_lock(descriptor):  # noqa: ASYNC110 - the kernel has no event for it
                await anyio.sleep(_POLL_S)
        if scope.cancelled_caught:
            raise HostError(
                f"Another moat has been busy with {what} for {limit_s:.0f} s.", hint=f"`fuser {path}` tells which."
            )
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
