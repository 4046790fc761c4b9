"""POST /images/load: an archive into an engine, over a plain connection of its own. Docker Engine API v1.45."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

import anyio
import anyio.to_thread

from moat_plugins.buildkit.errors import ExportError

if TYPE_CHECKING:
    from moat_core.runtime.facets import EngineApi

__all__ = ["load_image"]

_PIECE = 1024 * 1024
_ANSWER_LIMIT = 1024 * 1024


async def load_image(api: EngineApi, archive: BinaryIO) -> None:
    """Load ARCHIVE, as `docker save` makes them.

    Raises:
        ExportError: The engine refused it.
    """
    size = archive.seek(0, os.SEEK_END)
    archive.seek(0)
    async with await api.connect() as stream:
        await stream.send(
            f"POST /v{api.version}/images/load?quiet=1 HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n"
            f"Content-Type: application/x-tar\r\nContent-Length: {size}\r\n\r\n".encode()
        )
        while data := await anyio.to_thread.run_sync(archive.read, _PIECE):
            await stream.send(data)
        answer = b""
        try:
            while len(answer) < _ANSWER_LIMIT:
                answer += await stream.receive()
        except anyio.EndOfStream:
            pass
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0] + b" " or b'"error"' in body:
        text = " ".join(body.decode("utf-8", "replace").split())
        raise ExportError(f"The engine did not take the image that was built: {text[:300]}")
