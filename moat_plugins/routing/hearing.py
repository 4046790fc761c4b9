"""Hearing whoever starts the proxy say that it is ready; one that takes longer is slow, not dead."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import anyio

from moat_core.errors import HostError

if TYPE_CHECKING:
    import subprocess

__all__ = ["ProxySlow", "converse", "make_slow"]


class ProxySlow(HostError):
    """The proxy is being started, and has not said within its time that it is ready. It may be so any moment."""

    code = "proxy-slow"


def make_slow(limit_s: float) -> ProxySlow:
    """Return the error for a proxy that has said nothing in LIMIT_S seconds."""
    return ProxySlow(
        f"The proxy is being started, and did not say within {limit_s:.0f} s that it is ready.",
        hint="`moat proxy status` tells whether it is by now.",
    )


async def converse(process: subprocess.Popen[bytes], task: bytes, limit_s: float) -> bytes:
    """Give the process its task and return its first line; ``b""`` if it ends without one.

    Raises:
        ProxySlow: It has said nothing yet. It goes on, and is heard out for as long as we live.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    said = b""
    is_slow = False
    try:
        try:
            with process.stdin:
                process.stdin.write(task)
        except OSError:
            pass  # it has died; that it says nothing tells
        with anyio.move_on_after(limit_s) as waiting:
            while not said.endswith(b"\n"):
                await anyio.wait_readable(process.stdout)
                data = os.read(process.stdout.fileno(), 4096)
                if not data:
                    break
                said += data
        is_slow = waiting.cancelled_caught
    finally:
        if is_slow:
            threading.Thread(target=_hear_out, args=(process,), daemon=True).start()
        else:
            process.kill()  # it has left a child to do the work, which ends itself when nobody hears it
            process.wait()
            process.stdout.close()
    if is_slow:
        raise make_slow(limit_s)
    return said if said.endswith(b"\n") else b""


def _hear_out(process: subprocess.Popen[bytes]) -> None:
    """Be there when it says that it is ready: it ends itself when nobody hears it."""
    assert process.stdout is not None
    with process.stdout:
        process.stdout.read()
    process.wait()
