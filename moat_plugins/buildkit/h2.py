"""gRPC over connections of our own: grpclib's channel and server, with what BuildKit needs mended.

All use of grpclib's inside is here, covered by tests, and its version is pinned. Mended are: the limit of headers
(BuildKit's error details carry the whole Dockerfile, and an overrun would end every call of the connection), the codec
(ours), the decoding of error details, and the answer to an unknown method (grpclib's lacks a content type, and the
engine then fails the build rather than going without an optional service).
"""

from __future__ import annotations

import asyncio
import functools
import struct
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from grpclib.client import Channel
from grpclib.config import Configuration
from grpclib.const import Cardinality, Handler, Status
from grpclib.encoding.base import CodecBase, StatusDetailsCodecBase
from grpclib.events import _DispatchServerEvents
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.protocol import AbstractHandler, H2Protocol
from grpclib.server import Handler as ServerHandler
from h2.config import H2Configuration
from h2.settings import SettingCodes

from moat_plugins.buildkit.dial import Endpoint, open_grpc
from moat_plugins.buildkit.transport import StreamTransport
from moat_plugins.buildkit.wire.codec import Message, WireError
from moat_plugins.buildkit.wire.session import RpcStatus

if TYPE_CHECKING:
    from anyio.abc import ByteStream

__all__ = ["BuildKitChannel", "Method", "Serve", "Server", "isolated", "send_many"]

T = TypeVar("T")

_HEADERS_LIMIT = 16 * 1024 * 1024
_FRAME = 1024 * 1024
_WINDOW = 8 * 1024 * 1024
_BATCH = 64 * 1024
_MESSAGE_LIMIT = 32 * 1024 * 1024
"""How long a message to us may be, in bytes: twice what BuildKit's own side takes."""
_CONFIG = Configuration(http2_connection_window_size=_WINDOW, http2_stream_window_size=_WINDOW)

Serve = Callable[[Any], Awaitable[None]]
"""Handles one call: it is given a stream with ``metadata``, ``recv_message`` and ``send_message``."""
Method = tuple[Serve, type[Message], type[Message]]
"""A handler, and the classes of what it receives and sends."""


class _Codec(CodecBase):
    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:  # noqa: ARG002 - grpclib's signature
        data: bytes = message.encode()
        return data

    def decode(self, data: bytes, message_type: Any) -> Any:
        try:
            return message_type.decode(data)
        except WireError as error:
            raise GRPCError(Status.INTERNAL, f"malformed message: {error}") from error


class _DetailsCodec(StatusDetailsCodecBase):
    """``grpc-status-details-bin``; the values in it are JSON, see `errors`."""

    def encode(self, status: Status, message: str | None, details: Any) -> bytes:
        data: bytes = RpcStatus(status.value, message or "", details).encode()
        return data

    def decode(self, status: Status, message: str | None, data: bytes) -> Any:  # noqa: ARG002
        try:
            return RpcStatus.decode(data).details
        except WireError:
            return None


class _Protocol(H2Protocol):
    """HTTP/2 with room for BuildKit's trailers."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        connection = self.connection._connection  # noqa: SLF001 - there is no other way to it
        connection.decoder.max_header_list_size = _HEADERS_LIMIT
        # Large frames, since a header block may only have 64 of them.
        connection.update_settings(
            {SettingCodes.MAX_HEADER_LIST_SIZE: _HEADERS_LIMIT, SettingCodes.MAX_FRAME_SIZE: _FRAME}
        )
        self.connection.flush()
        self.connection.create_stream = functools.partial(  # type: ignore[method-assign]
            _bounded, self.connection.create_stream
        )


def _bounded(create: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Make a stream that reads no endless message into memory: grpclib believes whatever length it is told."""
    stream = create(*args, **options)
    receive = stream.recv_data

    async def recv_data(size: int) -> bytes:
        if size > _MESSAGE_LIMIT:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, f"a message of {size} bytes is too large")
        data: bytes = await receive(size)
        return data

    stream.recv_data = recv_data
    return stream


class BuildKitChannel(Channel):
    """A gRPC channel to an endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(codec=_Codec(), status_details_codec=_DetailsCodec(), config=_CONFIG)
        self.endpoint = endpoint
        self._transport: StreamTransport | None = None

    async def _create_connection(self) -> H2Protocol:
        stream, first = await open_grpc(self.endpoint)
        protocol: H2Protocol = self._protocol_factory()
        self._transport = StreamTransport(stream, protocol, first)
        return protocol

    def _protocol_factory(self) -> H2Protocol:
        made: H2Protocol = super()._protocol_factory()
        return _Protocol(made.handler, made.config, made.h2_config)

    async def unary(self, path: str, message: Message, reply: type[Message], *, timeout_s: float | None = None) -> Any:
        """Make one call and return its answer.

        Raises:
            GRPCError: It failed.
        """

        async def ask() -> Any:
            call = self.request(path, Cardinality.UNARY_UNARY, type(message), reply, timeout=timeout_s)
            async with call as stream:
                await stream.send_message(message, end=True)
                return await stream.recv_message()

        return await isolated(ask())

    async def aclose(self) -> None:
        """Close the connection and wait for its end."""
        self.close()
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None


async def isolated(call: Coroutine[Any, Any, T]) -> T:
    """Await CALL in a task of its own: grpclib ends a call by cancelling its task, which a cancel scope may not see.

    Raises:
        StreamTerminatedError: The connection ended.
    """
    task = asyncio.create_task(call)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # it is of no interest any more, but must be looked at
        raise
    try:
        return task.result()
    except asyncio.CancelledError:
        raise StreamTerminatedError("Connection lost") from None


class _Methods(dict[str, Handler]):
    """Knows every method; those that are not served answer so in a way that the engine understands."""

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ARG002 - grpclib's handler asks with one argument
        return super().get(key) or Handler(_unimplemented, Cardinality.STREAM_STREAM, Message, Message)


async def _unimplemented(_stream: Any) -> None:
    raise GRPCError(Status.UNIMPLEMENTED, "not served by this session")


class Server:
    """Serves METHODS on one connection, on which the other side is the client."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        known = _Methods(
            {path: Handler(serve, Cardinality.STREAM_STREAM, *types) for path, (serve, *types) in methods.items()}
        )
        self._handler = ServerHandler(known, _Codec(), _DetailsCodec(), _DispatchServerEvents())
        self._transport: StreamTransport | None = None

    def start(self, stream: ByteStream, first: bytes = b"", on_lost: Callable[[], None] | None = None) -> None:
        """Serve what comes on STREAM, of which FIRST was read already; ON_LOST is called when it ends."""
        config = H2Configuration(
            client_side=False,
            header_encoding="utf-8",
            validate_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_inbound_headers=False,
            normalize_outbound_headers=False,
        )
        protocol = _Served(self._handler, _CONFIG.__for_server__(), config)
        protocol.on_lost = on_lost
        self._transport = StreamTransport(stream, protocol, first)

    async def aclose(self) -> None:
        """Close the connection; calls that are being handled are cancelled."""
        self._handler.close()
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None
        await self._handler.wait_closed()


class _Served(_Protocol):
    on_lost: Callable[[], None] | None = None

    def __init__(self, handler: AbstractHandler, config: Configuration, h2_config: H2Configuration) -> None:
        super().__init__(handler, config, h2_config)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()


async def send_many(stream: Any, messages: Iterable[bytes]) -> None:
    """Send encoded messages of a streaming call together: thousands of small ones cost less than half so."""
    if not stream._send_initial_metadata_done:  # noqa: SLF001 - see the module
        await stream.send_initial_metadata()
    batch = bytearray()
    for data in messages:
        batch += struct.pack(">BI", 0, len(data))
        batch += data
        if len(batch) >= _BATCH:
            await stream._stream.send_data(bytes(batch))  # noqa: SLF001
            batch.clear()
    if batch:
        await stream._stream.send_data(bytes(batch))  # noqa: SLF001
