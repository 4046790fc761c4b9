"""gRPC between the run and BuildKit: HTTP/2 ended on both sides by h2, so that single messages can be looked at.

Streams are mapped one to one. What is received is acknowledged when it has been sent on, so a slow reader slows its
writer, and no more than the windows of HTTP/2 is held here.
"""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import anyio
import attrs
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes

from moat_core.http.streams import PIECE_BYTES
from moat_plugins.docker_host.policy.builds import CHECKED, PASSED, check_message, why_refused
from moat_plugins.docker_host.policy.verdict import Refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import ByteStream

    from moat_plugins.docker_host.budget import Account
    from moat_plugins.docker_host.engine import Engine
    from moat_plugins.docker_host.images import Making

__all__ = ["filter_grpc"]

_HEADERS_BYTES = 1024 * 1024
"""An error's details, the Dockerfile among them, come in a trailer; who has more there to say is told of an error."""
_ASKED_HEADERS_BYTES = 64 * 1024
"""What a request may have of them: their small size on the wire says nothing of that in memory."""
_MESSAGE_BYTES = 1024 * 1024
_MOST_HELD = 8
_FIELDS = 48
"""What a byte of a message takes as fields at the most; an empty one is two bytes long and 100 in memory."""
_DENIED, _EXHAUSTED, _UNIMPLEMENTED = 7, 8, 12
_Headers = Any
"""What h2 gives and takes: pairs of bytes, some of them marked as secret."""
_BROKEN = (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


@attrs.define(eq=False)
class _Side:
    """One end: its connection, and what waits for room in each stream's window.

    An item that waits is ``(data, ends the stream, how much to acknowledge on the other side)``, or trailers.
    """

    stream: ByteStream
    http: H2Connection
    peers: dict[int, int] = attrs.field(factory=dict)
    waiting: dict[int, deque[tuple[bytes, bool, int]]] = attrs.field(factory=dict)
    trailers: dict[int, _Headers] = attrs.field(factory=dict)
    ended: set[int] = attrs.field(factory=set)
    lock: anyio.Lock = attrs.field(factory=anyio.Lock)

    async def flush(self) -> None:
        async with self.lock:
            if data := self.http.data_to_send():
                await self.stream.send(data)


async def filter_grpc(client: ByteStream, upstream: ByteStream, engine: Engine, early: bytes, rest: bytes) -> None:
    """Pass gRPC between the run and BuildKit until either side ends.

    Args:
        client: The run's side, switched to HTTP/2.
        upstream: The engine's side, likewise.
        engine: For what has to be looked up.
        early: What the run sent already.
        rest: What the engine sent already.
    """
    down = _Side(client, _connection(client_side=False))
    up = _Side(upstream, _connection(client_side=True))
    for side in (down, up):
        await side.flush()
    async with _hold(engine) as account, anyio.create_task_group() as group:
        bridge = _Bridge(down, up, engine, account)

        async def run(side: _Side, first: bytes) -> None:
            try:
                await bridge.read(side, first)
            except (*_BROKEN, ProtocolError, Refused):
                pass
            group.cancel_scope.cancel()

        group.start_soon(run, up, rest)
        await run(down, early)


@asynccontextmanager
async def _hold(engine: Engine) -> AsyncIterator[Account]:
    with engine.budget.open() as account:
        yield account


def _connection(*, client_side: bool) -> H2Connection:
    http = H2Connection(H2Configuration(client_side=client_side, header_encoding=None))
    http.initiate_connection()
    limit = _HEADERS_BYTES if client_side else _ASKED_HEADERS_BYTES
    http.update_settings({SettingCodes.MAX_HEADER_LIST_SIZE: limit})
    http.decoder.max_header_list_size = limit
    return http


class _Bridge:
    def __init__(self, down: _Side, up: _Side, engine: Engine, account: Account) -> None:
        self._down, self._up, self._engine, self._account = down, up, engine, account
        self._held: dict[int, bytearray] = {}
        self._methods: dict[int, tuple[str, _Headers]] = {}
        self._makings: dict[int, list[Making]] = {}
        """What is to be adopted when a call to BuildKit, by its number there, is answered."""

    async def read(self, side: _Side, first: bytes) -> None:
        """Handle what comes on SIDE until it ends."""
        other = self._up if side is self._down else self._down
        data = first or await side.stream.receive(PIECE_BYTES)
        while True:
            for event in side.http.receive_data(data):
                if isinstance(event, ConnectionTerminated):
                    return
                try:
                    await self._handle(side, other, event)
                except StreamClosedError:
                    pass  # the other side has given this call up
            for each in (self._down, self._up):
                self._push(each)
                await each.flush()
            data = await side.stream.receive(PIECE_BYTES)

    async def _handle(self, side: _Side, other: _Side, event: Any) -> None:
        if isinstance(event, RequestReceived):
            await self._begin(event.stream_id, event.headers)
        elif isinstance(event, ResponseReceived | TrailersReceived):
            await self._headers(side, other, event)
        elif isinstance(event, DataReceived):
            await self._data(side, other, event)
        elif isinstance(event, StreamEnded):
            await self._end(side, other, event.stream_id)
        elif isinstance(event, StreamReset):
            self._forget(side, other, event.stream_id, event.error_code)
        elif isinstance(event, WindowUpdated):
            self._push(side)

    async def _headers(self, side: _Side, other: _Side, event: ResponseReceived | TrailersReceived) -> None:
        peer = side.peers.get(event.stream_id)
        if peer is None:
            return  # of a call that is held, or was refused or given up: what they say is for nobody
        if isinstance(event, TrailersReceived):
            side.ended.add(event.stream_id)
            other.trailers[peer] = await self._adopt(event.stream_id, event.headers)
            await self._charge()
            self._queue(other, peer, b"", 0, ends=True)
            return
        only = event.stream_ended is not None  # gRPC calls it Trailers-Only: an error, mostly
        if only:
            side.ended.add(event.stream_id)
        other.http.send_headers(peer, event.headers, end_stream=only)
        if only:
            self._finish(peer)

    async def _begin(self, number: int, headers: _Headers) -> None:
        method = next((bytes(value).decode("ascii", "replace") for name, value in headers if name == b":path"), "")
        if method in CHECKED and len(self._held) >= _MOST_HELD:
            self._deny(number, _EXHAUSTED, "moat: too many builds at once on one connection.")
        elif method in CHECKED:
            self._held[number] = bytearray()
            self._methods[number] = (method, headers)
        elif method in PASSED:
            self._open(number, headers)
        else:
            message, known = why_refused(method)
            self._deny(number, _DENIED if known else _UNIMPLEMENTED, message)

    def _open(self, number: int, headers: _Headers) -> int:
        peer = self._up.http.get_next_available_stream_id()
        self._up.http.send_headers(peer, headers)
        self._down.peers[number], self._up.peers[peer] = peer, number
        return peer

    def _deny(self, number: int, status: int, message: str) -> None:
        """Answer with an error, as gRPC has it: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md."""
        self._down.http.send_headers(
            number,
            [
                (":status", "200"),
                ("content-type", "application/grpc"),
                ("grpc-status", str(status)),
                ("grpc-message", _quote(message)),
            ],
            end_stream=True,
        )

    async def _data(self, side: _Side, other: _Side, event: DataReceived) -> None:
        number, size = event.stream_id, event.flow_controlled_length
        if side is self._down and number in self._held:
            self._held[number] += event.data
            side.http.acknowledge_received_data(size, number)
            if len(self._held[number]) > _MESSAGE_BYTES:
                await self._refuse(number, "moat: the message is too long.")
                return
            try:
                await self._charge()
            except Refused as refused:
                await self._refuse(number, refused.message)
        elif number in side.peers:
            self._queue(other, side.peers[number], event.data, size)
        else:
            side.http.acknowledge_received_data(size, number)

    async def _end(self, side: _Side, other: _Side, number: int) -> None:
        if side is self._down and number in self._held:
            method, headers = self._methods[number]
            try:
                await self._charge(len(self._held[number]) * _FIELDS)
                message, makings = await check_message(method, _unframe(bytes(self._held[number])), self._engine)
            except Refused as refused:
                await self._refuse(number, refused.message)
                return
            del self._methods[number], self._held[number]
            peer = self._open(number, headers)
            self._makings[peer] = makings
            self._queue(self._up, peer, _frame(message), 0, ends=True)
            await self._charge()
        elif number in side.peers and number not in side.ended:
            self._queue(other, side.peers[number], b"", 0, ends=True)

    async def _adopt(self, number: int, trailers: _Headers) -> _Headers:
        """Give what a build made its names; return the trailers of the answer, which say it if that may not be."""
        try:
            for making in self._makings.pop(number, ()):
                await making.adopt(self._engine)
        except Refused as refused:
            return [("grpc-status", str(_DENIED)), ("grpc-message", _quote(refused.message))]
        return trailers

    async def _refuse(self, number: int, message: str) -> None:
        """Answer a call that was held with an error."""
        del self._held[number], self._methods[number]
        self._deny(number, _DENIED, message)
        await self._charge()

    async def _charge(self, more: int = 0) -> None:
        """Hold what there is of messages, and MORE.

        Raises:
            Refused: There is no room for it.
        """
        held = sum(map(len, self._held.values())) * 2
        held += sum(len(value) for each in self._down.trailers.values() for _, value in each)
        await self._account.hold(held + more)

    def _forget(self, side: _Side, other: _Side, number: int, code: Any) -> None:
        self._held.pop(number, None)
        self._methods.pop(number, None)
        side.ended.discard(number)
        peer = side.peers.pop(number, None)
        if peer is not None:
            other.peers.pop(peer, None)
            other.ended.discard(peer)
            other.trailers.pop(peer, None)
            other.waiting.pop(peer, None)
            other.http.reset_stream(peer, code)

    def _finish(self, number: int) -> None:
        """Forget a call whose answer has been sent: nothing of it is left, however many there are of them."""
        peer = self._down.peers.pop(number, None)
        self._down.ended.discard(number)
        if peer is not None:
            self._up.peers.pop(peer, None)
            self._up.ended.discard(peer)
            try:
                self._up.http.reset_stream(peer)  # the engine has said all; the client may have gone on
            except ProtocolError:
                pass

    def _queue(self, side: _Side, number: int, data: bytes, size: int, *, ends: bool = False) -> None:
        side.waiting.setdefault(number, deque()).append((data, ends, size))
        self._push(side)

    def _push(self, side: _Side) -> None:
        """Send what there is room for, and acknowledge it where it came from."""
        source = self._up if side is self._down else self._down
        for number, queue in list(side.waiting.items()):
            try:
                while queue and self._push_one(side, source, number, queue):
                    pass
            except StreamClosedError:
                queue.clear()
            if not queue:
                del side.waiting[number]

    def _push_one(self, side: _Side, source: _Side, number: int, queue: deque[tuple[bytes, bool, int]]) -> bool:
        data, ends, size = queue[0]
        room = min(side.http.local_flow_control_window(number), side.http.max_outbound_frame_size)
        if data and room <= 0:
            return False
        if len(data) > room:
            side.http.send_data(number, data[:room])
            queue[0] = (data[room:], ends, size)
            return True
        queue.popleft()
        if ends and (trailers := side.trailers.pop(number, None)) is not None:
            side.http.send_headers(number, trailers, end_stream=True)
        elif data or ends:
            side.http.send_data(number, data, end_stream=ends)
        if size and number in side.peers:
            source.http.acknowledge_received_data(size, side.peers[number])
        if ends and side is self._down:
            self._finish(number)
        return True


def _quote(message: str) -> str:
    return quote(message, safe=" :,.'()[]")


def _unframe(data: bytes) -> bytes:
    """Return the only message of a call: a flag, a length of four bytes, the message."""
    if len(data) < 5 or data[0] != 0 or int.from_bytes(data[1:5], "big") != len(data) - 5:  # noqa: PLR2004 - as above
        raise Refused("moat: the guard takes one message that is not compressed.", status=400)
    return data[5:]


def _frame(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message
