"""A session: the services that a build may call back for, on one connection that lives as long as the build.

The connection is an upgraded one where the engine takes those, else a tunnel in ``Control.Session``. Either way the
other side is the HTTP/2 client in it. There is no second connection: when it ends, the build has failed.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import ByteStream
from grpclib.const import Cardinality
from grpclib.exceptions import GRPCError, StreamTerminatedError

from moat_plugins.buildkit.dial import open_session
from moat_plugins.buildkit.errors import BuildKitUnavailable
from moat_plugins.buildkit.h2 import Server
from moat_plugins.buildkit.wire.control import BytesMessage

if TYPE_CHECKING:
    from moat_plugins.buildkit.h2 import BuildKitChannel, Method

__all__ = ["Session"]

_PREFIX = "X-Docker-Expose-Session-"
_CONTROL_SESSION = "/moby.buildkit.v1.Control/Session"


class Session:
    """One build's services.

    Args:
        methods: ``/package.Service/Method`` -> handler and message classes.
        shared_key: What stands for the context's folder in the daemon's cache of it; never empty, since everybody
            who sends none shares one.
        name: For the daemon's logs.
    """

    def __init__(self, methods: Mapping[str, Method], *, shared_key: str, name: str = "moat") -> None:
        self.id = secrets.token_hex(12) + "m"
        self.lost = anyio.Event()
        self.failure: Exception | None = None
        self._methods, self._shared_key, self._name = methods, shared_key, name

    def fail(self, error: Exception) -> None:
        """Remember why our side could not serve: the daemon's own words for it are poor."""
        self.failure = self.failure or error

    @asynccontextmanager
    async def opened(self, channel: BuildKitChannel) -> AsyncIterator[None]:
        """Serve while the context lasts. The daemon knows the session when it is entered.

        Raises:
            BuildKitUnavailable: It was refused.
        """
        server = Server(self._methods)
        headers = [
            (f"{_PREFIX}Uuid", self.id),
            (f"{_PREFIX}Name", self._name),
            (f"{_PREFIX}Sharedkey", self._shared_key),
            *((f"{_PREFIX}Grpc-Method", path) for path in self._methods),
        ]
        async with AsyncExitStack() as stack:
            upgraded = await open_session(channel.endpoint, headers)
            if upgraded is None:
                upgraded = await stack.enter_async_context(_tunnel(channel, headers)), b""
            server.start(*upgraded, on_lost=self.lost.set)
            try:
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    await server.aclose()


@asynccontextmanager
async def _tunnel(channel: BuildKitChannel, headers: list[tuple[str, str]]) -> AsyncIterator[ByteStream]:
    metadata = [(key.lower(), value) for key, value in headers]
    call = channel.request(_CONTROL_SESSION, Cardinality.STREAM_STREAM, BytesMessage, BytesMessage, metadata=metadata)
    # What is raised once it is open is the body's: that the tunnel broke, `Session.lost` tells.
    with suppress(StreamTerminatedError):
        async with call as stream:
            try:
                await stream.send_request()
            except (GRPCError, StreamTerminatedError) as error:
                raise BuildKitUnavailable(f"The BuildKit took no session: {error}.") from error
            try:
                yield _Tunnel(stream)
            finally:
                with anyio.CancelScope(shield=True), suppress(GRPCError, StreamTerminatedError):
                    await stream.cancel()


class _Tunnel(ByteStream):
    """The bytes inside a bidirectional call. Its flow control bounds what is buffered."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def send(self, item: bytes) -> None:
        try:
            await self._stream.send_message(BytesMessage(item))
        except (GRPCError, StreamTerminatedError) as error:
            raise anyio.BrokenResourceError from error

    async def receive(self, max_bytes: int = 65536) -> bytes:  # noqa: ARG002 - whole messages come
        try:
            message = await self._stream.recv_message()
        except (GRPCError, StreamTerminatedError) as error:
            raise anyio.BrokenResourceError from error
        if message is None:
            raise anyio.EndOfStream
        data: bytes = message.data
        return data or await self.receive()

    async def send_eof(self) -> None:
        await self._stream.end()

    async def aclose(self) -> None:
        """Nothing: the call is ended by whoever opened it."""
