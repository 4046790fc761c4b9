"""``Secrets/GetSecret``: ``RUN --mount=type=secret``. A secret is read when it is asked for, and kept nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from moat_plugins.buildkit.wire.session import GetSecretRequest, GetSecretResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moat_plugins.buildkit.h2 import Method

__all__ = ["Secret", "methods"]

Secret = bytes | str | Path
"""The secret itself, or the file that holds it."""
_LIMIT = 500 * 1024


def methods(secrets: Mapping[str, Secret]) -> dict[str, Method]:
    """Return the service for SECRETS by id. One that is not there is NOT_FOUND: an optional mount then goes without."""

    async def get(stream: Any) -> None:
        request = await stream.recv_message()
        if request is None or request.id not in secrets:
            raise GRPCError(Status.NOT_FOUND, f"there is no secret {request.id if request else ''!r}")
        await stream.send_message(GetSecretResponse(await _read(request.id, secrets[request.id])))

    return {"/moby.buildkit.secrets.v1.Secrets/GetSecret": (get, GetSecretRequest, GetSecretResponse)}


async def _read(name: str, secret: Secret) -> bytes:
    if isinstance(secret, Path):
        try:
            data = await anyio.Path(secret).read_bytes()
        except OSError as error:
            raise GRPCError(Status.UNKNOWN, f"the secret {name!r} cannot be read: {error.strerror}") from None
    else:
        data = secret.encode() if isinstance(secret, str) else secret
    if len(data) > _LIMIT:  # BuildKit's own limit
        raise GRPCError(Status.INVALID_ARGUMENT, f"the secret {name!r} is larger than {_LIMIT} bytes")
    return data
