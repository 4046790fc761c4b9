"""Streams that begin as HTTP and go on as raw bytes: attach, and the start of an exec.

Own code on a plain socket, because aiodocker's stream has no half-close and reads ahead. Bytes are read from the
kernel only when somebody asks for them, at most 64 KiB at a time, so that a slow reader slows the writer inside down
and memory stays flat. Source: Docker Engine API v1.45, POST /containers/{id}/attach, "Hijacking"; RFC 9110 §7.8.
"""

from __future__ import annotations

import json
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream

from moat_core.errors import EngineError
from moat_plugins.docker.endpoint import make_tls
from moat_plugins.docker.errors import engine_error, map_errors
from moat_plugins.docker.frames import Demultiplexer

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from moat_core.types import Output
    from moat_plugins.docker.client import Engine
    from moat_plugins.docker.endpoint import Endpoint

__all__ = ["PIECE_BYTES", "HijackedStream", "connect", "hijack"]

PIECE_BYTES = 64 * 1024
_HEAD_LIMIT_BYTES = 64 * 1024
_CLOSE_S = 2.0


class HijackedStream:
    """Both directions of an attached process. Make it with `hijack`. One reader, any number of writers."""

    def __init__(self, socket: ByteStream, endpoint: Endpoint, first: bytes, *, raw: bool) -> None:
        self._socket = socket
        self._endpoint = endpoint
        self._demultiplexer = Demultiplexer(raw=raw)
        self._pieces: deque[Output] = deque(self._demultiplexer.feed(first))
        self._writing = anyio.Lock()
        self._input_closed = False
        self._ended = False
        self._sending: anyio.CancelScope | None = None

    async def receive(self) -> Output | None:
        """Return the next piece of output, ``None`` at its end.

        Raises:
            RuntimeUnavailable: The connection broke.
            EngineError: It ended in the middle of a frame, or is garbled.
        """
        while not self._pieces:
            try:
                with map_errors("pass the output on", self._endpoint):
                    data = await self._receive()
            except anyio.ClosedResourceError:
                return None
            if not data:
                self._end_input()
                if self._demultiplexer.is_inside:
                    raise EngineError("The Docker engine broke off in the middle of the output.")
                return None
            self._pieces.extend(self._demultiplexer.feed(data))
        return self._pieces.popleft()

    async def _receive(self) -> bytes:
        try:
            return await self._socket.receive(PIECE_BYTES)
        except anyio.EndOfStream:
            return b""

    async def write(self, data: bytes) -> None:
        """Send DATA; returns when the kernel has taken it all.

        Raises:
            BrokenPipeError: Nobody reads it any more, or `close_input` was called.
        """
        async with self._writing:
            if self._input_closed:
                raise BrokenPipeError("standard input was closed")
            with anyio.CancelScope() as self._sending:
                try:
                    if not self._ended:
                        await self._socket.send(data)
                        return
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass
            raise BrokenPipeError("the process does not read its standard input any more")

    def _end_input(self) -> None:
        """The engine has ended the stream, so the process has: it leaves a writer waiting for ever."""
        self._ended = True
        if self._sending is not None:
            self._sending.cancel()

    async def close_input(self) -> None:
        """Half-close: the process reads end-of-file, its output goes on. Twice is fine.

        Raises:
            EngineError: The connection is TLS, which has no half-close in Python's ssl module.
        """
        async with self._writing:
            if self._input_closed:
                return
            if isinstance(self._socket, TLSStream):
                raise EngineError(
                    "Standard input cannot be closed over a TLS connection to the engine.",
                    hint="Forward the engine's socket instead: ssh -nNT -L /tmp/docker.sock:/var/run/docker.sock HOST",
                )
            self._input_closed = True
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                await self._socket.send_eof()

    async def aclose(self) -> None:
        """Close the connection; what is not read yet is gone."""
        with anyio.move_on_after(_CLOSE_S, shield=True), suppress(anyio.BrokenResourceError, OSError):
            await self._socket.aclose()


async def hijack(
    engine: Engine, doing: str, path: str, *, body: dict[str, Any] | None = None, raw: bool
) -> HijackedStream:
    """POST to PATH and take the connection over.

    Args:
        doing: What it is for, after "cannot" in messages.
        body: Sent as JSON.
        raw: The process has a terminal: the stream is not framed.

    Raises:
        EngineError: The engine refused.
        EngineTimeout: It did not answer in time.
        RuntimeUnavailable: Nothing answers.
    """
    content = json.dumps(body or {}).encode()
    head = (
        f"POST /{engine.version}{path} HTTP/1.1\r\n"
        "Host: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with engine.calling(doing):
        socket = await connect(engine.endpoint)
        try:
            await socket.send(head.encode() + content)
            rest = await _read_answer(socket, doing)
        except BaseException:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await socket.aclose()
            raise
    return HijackedStream(socket, engine.endpoint, rest, raw=raw)


async def connect(endpoint: Endpoint) -> ByteStream:
    """Open a plain connection to the engine."""
    if endpoint.path:
        return await anyio.connect_unix(endpoint.path)
    if endpoint.tls:
        return await anyio.connect_tcp(
            endpoint.host,
            endpoint.port,
            ssl_context=make_tls(endpoint),
            tls_hostname=endpoint.host,
            tls_standard_compatible=False,
        )
    socket: SocketStream = await anyio.connect_tcp(endpoint.host, endpoint.port)
    _keep_alive(socket)
    return socket


def _keep_alive(socket: SocketStream) -> None:
    import socket as sockets

    # An attach may be silent for hours; without this a router between forgets it.
    raw = socket.extra(SocketAttribute.raw_socket)  # noqa: S610 - this is anyio's, not Django's
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)


async def _read_answer(socket: ByteStream, doing: str) -> bytes:
    """Return what already came of the stream itself."""
    status, headers, rest = await _read_head(socket)
    if status not in (101, 200):
        raise engine_error(doing, status, _message(await _read_body(socket, headers, rest)))
    return rest


async def _read_head(socket: ByteStream) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers in lower case, and what came after them."""
    data = b""
    while b"\r\n\r\n" not in data:
        if len(data) > _HEAD_LIMIT_BYTES:
            raise EngineError(f"The Docker engine sent more than {_HEAD_LIMIT_BYTES} bytes of headers.")
        data += await socket.receive(PIECE_BYTES)
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = first.split(" ", 2)
    if len(fields) < 2 or not fields[0].startswith("HTTP/1.") or not fields[1].isdecimal():  # noqa: PLR2004
        raise EngineError("What answers as the Docker engine does not speak HTTP.", engine_message=first[:200])
    pairs = (line.partition(":") for line in lines)
    return int(fields[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}, rest


async def _read_body(socket: ByteStream, headers: dict[str, str], rest: bytes) -> bytes:
    """Return the body of a refusal, as far as it comes; it is only for a message."""
    wanted = headers.get("content-length", "")
    limit = min(int(wanted), _HEAD_LIMIT_BYTES) if wanted.isdecimal() else _HEAD_LIMIT_BYTES
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError), anyio.move_on_after(_CLOSE_S):
        while len(rest) < limit and not (not wanted and rest.endswith(b"\r\n0\r\n\r\n")):
            rest += await socket.receive(PIECE_BYTES)
    return rest[:limit]


def _message(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    start, end = text.find("{"), text.rfind("}")  # a chunked body has its lengths around the JSON
    try:
        return str(json.loads(text[start : end + 1])["message"])
    except (ValueError, KeyError, TypeError):
        return text
