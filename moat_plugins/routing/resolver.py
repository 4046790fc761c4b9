"""Whether this machine knows that every name under ``localhost`` is itself (RFC 6761, 6.3). Browsers know anyway."""

from __future__ import annotations

import socket

import anyio

from moat_core.types import Check

__all__ = ["check_resolver"]

_NAME = "web.agent.localhost"
_LIMIT_S = 3.0
_LOOPBACK = ("127.", "::1")


async def check_resolver() -> Check:
    """Look a name up as any program would."""
    try:
        with anyio.fail_after(_LIMIT_S):
            found = await anyio.getaddrinfo(_NAME, 80, type=socket.SOCK_STREAM)
    except TimeoutError:
        return Check(
            "names",
            "warning",
            f"Whether this machine knows names under localhost is unknown: its resolver did not answer in "
            f"{_LIMIT_S:.0f} s.",
            "Look at this machine's name servers: `resolvectl query web.agent.localhost`.",
        )
    except OSError:
        found = []
    addresses = sorted({str(each[4][0]) for each in found})
    if addresses and all(address.startswith(_LOOPBACK) for address in addresses):
        return Check("names", "ok", f"Names under localhost are this machine: {_NAME} is {', '.join(addresses)}.")
    said = f"is {', '.join(addresses)}" if addresses else "is not known"
    return Check(
        "names",
        "warning",
        f"This machine's resolver does not take names under localhost for itself: {_NAME} {said}. Browsers do without "
        "it; other programs do not.",
        "Install nss-myhostname (on Debian and Ubuntu: sudo apt install libnss-myhostname), or use systemd-resolved.",
    )
