"""``grpc.health.v1``: the daemon asks every five seconds whether the session lives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moat_plugins.buildkit.wire.session import HealthCheckRequest, HealthCheckResponse

if TYPE_CHECKING:
    from moat_plugins.buildkit.h2 import Method

__all__ = ["methods"]

_SERVING = 1


def methods() -> dict[str, Method]:
    """Return the service."""
    return {"/grpc.health.v1.Health/Check": (_check, HealthCheckRequest, HealthCheckResponse)}


async def _check(stream: Any) -> None:
    await stream.recv_message()
    await stream.send_message(HealthCheckResponse(_SERVING))
