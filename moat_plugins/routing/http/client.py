"""A connection from a client: its requests, one after the other, each an exchange with a service.

No task and no timer for each request: what comes in is passed on where it arrives, and one tick a second looks for what
takes too long. Either side is read only as fast as the other one takes it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, cast

from moat_plugins.routing.http.answer import Answer
from moat_plugins.routing.http.body import BadBody, Chunked, Length
from moat_plugins.routing.http.head import (
    CHUNKED,
    MAX_HEAD,
    NO_BODY,
    UNTIL_EOF,
    BadHead,
    Request,
    Response,
    parse_request,
    parse_response,
)

if TYPE_CHECKING:
    from moat_plugins.routing.http.proxy import Proxy
    from moat_plugins.routing.http.upstream import Upstream

__all__ = ["Client"]

_MOST_WAITING = 64 * 1024
_SWITCHING, _CONTINUE, _OK = 101, 100, 200
_REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS"})


class Client(asyncio.Protocol):
    """See the module. Also the `Owner` of its upstream.

    Args:
        proxy: Routes, connects, and answers where no service does.
        scheme: ``http`` or ``https``.
    """

    __slots__ = (
        "_body", "_buffer", "_has_ended", "_is_first", "_peer", "_pending", "_proxy", "_request",
        "_response", "_response_body", "_response_data", "_scheme", "_searched", "_spliced", "_task", "_upstream",
        "since", "transport",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, proxy: Proxy, scheme: str) -> None:
        self._proxy, self._scheme = proxy, scheme
        self._peer = b""
        self._buffer = b""  # what has come and belongs to no request yet
        self._searched = 0
        self._has_ended = False
        self._task: asyncio.Task[None] | None = None
        self.since = 0.0
        self._reset()

    def _reset(self) -> None:
        self._request: Request | None = None
        self._body: Length | Chunked | None = None
        self._pending: list[bytes] = []  # what is sent once there is an upstream
        self._upstream: Upstream | None = None
        self._response: Response | None = None
        self._response_body: Length | Chunked | None = None
        self._response_data = b""
        self._is_first = True
        self._spliced = False

    def is_stale(self, idle_s: float, gone_s: float) -> bool:
        """Tell whether it has waited for IDLE_S between requests, or for GONE_S on an answer after it said its last."""
        waited = self._proxy.now - self.since
        if self._spliced:
            return False
        return waited > (idle_s if self._request is None else gone_s if self._has_ended else waited)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0].encode() if peer else b"unknown"
        self.since = self._proxy.now
        self._proxy.clients.add(self)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.since = self._proxy.now
        if self._spliced and self._upstream is not None:
            self._upstream.transport.write(data)
        elif self._body is not None:
            self._pass_body(data)
        else:
            self._buffer += data
            if self._request is None:
                self._read_head()
            elif len(self._buffer) > _MOST_WAITING:
                self.transport.pause_reading()

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`. Who has said all may still listen."""
        self._has_ended = True
        if self._spliced and self._upstream is not None:
            if self._upstream.transport.can_write_eof():
                self._upstream.transport.write_eof()
            return True
        # Between requests, or in the middle of one, it goes, and its upstream with it.
        return self._request is not None and self._body is None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """See `asyncio.Protocol`."""
        self._proxy.clients.discard(self)
        if self._task is not None:
            self._task.cancel()
        self._drop_upstream()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`: the client takes nothing more for now."""
        if self._upstream is not None:
            self._upstream.transport.pause_reading()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        if self._upstream is not None:
            self._upstream.transport.resume_reading()

    def _take_head(self) -> bytes:
        """Take a head out of the buffer; empty while there is none."""
        data = self._buffer
        if data.startswith(b"\r\n"):  # RFC 9112, 2.2: one empty line before a request is forgiven
            self._buffer = data = data[2:]
        end = data.find(b"\r\n\r\n", self._searched)
        if end >= 0:
            self._searched = 0
            self._buffer = data[end + 4 :]
            return data[: end + 4]
        self._searched = max(0, len(data) - 3)
        if len(data) > MAX_HEAD:
            self._answer(self._proxy.refuse(BadHead(431, f"The head is longer than {MAX_HEAD} bytes.")))
        elif b"\n\n" in data or b"\n\r\n" in data:
            self._answer(self._proxy.refuse(BadHead(400, "The head's lines end in bare LFs.")))
        elif self._has_ended:
            self.transport.close()
        return b""

    def _read_head(self) -> None:
        head = self._take_head()
        if not head:
            return
        try:
            self._request = request = parse_request(head)
        except BadHead as error:
            self._answer(self._proxy.refuse(error))
            return
        place = self._proxy.route(request, self._scheme)
        if isinstance(place, Answer):
            self._answer(place)
            return
        self._pending = [request.head, self._proxy.forwarded(request, self._peer, self._scheme), b"\r\n"]
        if request.body != NO_BODY:
            self._body = Chunked() if request.body == CHUNKED else Length(request.body)
            early, self._buffer = self._buffer, b""
            if early:
                self._pass_body(early)
        if self._request is request:
            self._find_upstream(place)

    def _find_upstream(self, place: tuple[str, int], *, anew: bool = False) -> None:
        upstream = None if anew else self._proxy.pool.take(place, self)
        if upstream is not None:
            self._begin(upstream)
            return
        self.transport.pause_reading()
        self._task = asyncio.get_running_loop().create_task(self._connect(place))

    async def _connect(self, place: tuple[str, int]) -> None:
        try:
            upstream = await self._proxy.pool.connect(place, self)
        except (OSError, TimeoutError) as error:
            self._task = None
            assert self._request is not None
            self._answer(self._proxy.unreachable(self._request, error))
            return
        self._task = None
        self._begin(upstream)
        self.transport.resume_reading()

    def _begin(self, upstream: Upstream) -> None:
        self._upstream = upstream
        upstream.transport.write(b"".join(self._pending))

    def _pass_body(self, data: bytes) -> None:
        assert self._body is not None
        try:
            passed, self._buffer = self._body.feed(data)
        except BadBody as error:
            if self._response is None:
                self._answer(self._proxy.refuse(BadHead(400, str(error))))
            else:
                self._break()
            return
        if self._upstream is None:
            self._pending.append(passed)
        elif passed:
            self._upstream.transport.write(passed)
        if self._body.done:
            self._body = None

    def _answer(self, answer: Answer) -> None:
        """Say something ourselves. Whoever has not said all, or was not understood, is hung up on afterwards."""
        request = self._request
        keep = request is not None and request.keep_alive and request.body == NO_BODY
        self._drop_upstream()
        is_head = request is not None and request.method == b"HEAD"
        self.transport.write(answer.encode(keep_alive=keep, is_head=is_head))
        self._end_exchange(keep=keep)

    def _end_exchange(self, *, keep: bool) -> None:
        self._reset()
        self.since = self._proxy.now
        if not keep or (self._has_ended and not self._buffer):
            self._buffer = b""
            self.transport.close()
            return
        self.transport.resume_reading()
        if self._buffer:
            # Not at once: many requests that came together would be so many calls deep.
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._request is None and self._buffer and not self.transport.is_closing():
            self._read_head()

    def _break(self) -> None:
        """Reset the connection: what ends in order would be taken for the whole."""
        socket_ = self.transport.get_extra_info("socket")
        if socket_ is not None:
            socket_.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.owner = None
            upstream.transport.abort()

    def upstream_data(self, data: bytes) -> None:
        """See `Owner`."""
        self.since = self._proxy.now
        if self._spliced:
            self.transport.write(data)
        elif self._response is None:
            self._is_first = False
            self._read_response(self._response_data + data)
        else:
            self._pass_response(b"", data)

    def upstream_ended(self) -> None:
        """See `Owner`: the end of a body that had no other, of one half of a splice, or too early."""
        if self._spliced:
            if self.transport.can_write_eof():
                self.transport.write_eof()
            else:
                self.transport.close()
        elif self._response is not None and self._response.body == UNTIL_EOF:
            self._drop_upstream()
            self._end_exchange(keep=False)
        else:
            self._fail(None)

    def upstream_lost(self, error: Exception | None) -> None:
        """See `Owner`."""
        self._upstream_gone()
        if self._spliced or (self._response is not None and self._response.body == UNTIL_EOF and error is None):
            self.transport.close()
        else:
            self._fail(error)

    def pause_sending(self) -> None:
        """See `Owner`."""
        self.transport.pause_reading()

    def resume_sending(self) -> None:
        """See `Owner`."""
        self.transport.resume_reading()

    def _upstream_gone(self) -> None:
        if self._upstream is not None:
            self._upstream.owner = None

    def _fail(self, error: Exception | None) -> None:
        """The service went away. What has begun cannot be taken back: it must not look complete."""
        upstream, request = self._upstream, self._request
        assert upstream is not None
        assert request is not None
        if self._response is not None:
            self._break()
        elif upstream.is_used and self._is_first and request.method in _REPEATABLE and request.body == NO_BODY:
            self._drop_upstream()
            self._find_upstream(upstream.address, anew=True)
        else:
            self._answer(self._proxy.unreachable(request, error or ConnectionResetError("it hung up")))

    def _read_response(self, data: bytes) -> None:
        request = self._request
        assert request is not None
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._response_data = data
                if len(data) > MAX_HEAD or b"\n\n" in data:
                    self._answer(self._proxy.bad_response(request, "its head is malformed"))
                return
            head, data = data[: end + 4], data[end + 4 :]
            try:
                response = parse_response(head, request.method)
            except BadHead as error:
                self._answer(self._proxy.bad_response(request, error.reason))
                return
            if response.status >= _OK or response.status == _SWITCHING:
                break
            if request.minor and (response.status != _CONTINUE or request.expects):
                self.transport.write(response.head + b"\r\n")
        if response.status == _SWITCHING:
            self._splice(request, response, data)
        else:
            self._respond(request, response, data)

    def _splice(self, request: Request, response: Response, data: bytes) -> None:
        """From here on both sides speak another protocol, and end as they like."""
        if not request.upgrade or response.upgrade.lower() != request.upgrade.lower():
            self._answer(self._proxy.bad_response(request, "it changed the protocol without being asked"))
            return
        assert self._upstream is not None
        self._response, self._spliced = response, True
        self.transport.write(response.head + b"\r\n" + data)
        early, self._buffer = self._buffer, b""
        if early:
            self._upstream.transport.write(early)
        self.transport.resume_reading()

    def _respond(self, request: Request, response: Response, data: bytes) -> None:
        self._response = response
        is_bare = response.body == CHUNKED and not request.minor
        head = response.head
        if is_bare:
            head = head.replace(b"Transfer-Encoding: chunked\r\n", b"")
        if response.body == CHUNKED:
            self._response_body = Chunked(bare=is_bare)
        elif response.body > 0:
            self._response_body = Length(response.body)
        keeps = request.keep_alive and response.body != UNTIL_EOF and not is_bare and self._body is None
        if not keeps:
            head += b"Connection: close\r\n"
        elif not request.minor:
            head += b"Connection: keep-alive\r\n"
        self._pass_response(head + b"\r\n", data, keeps=keeps)

    def _pass_response(self, head: bytes, data: bytes, *, keeps: bool | None = None) -> None:
        """Pass on what has come of the body, with HEAD before it."""
        request, response, body = self._request, self._response, self._response_body
        assert request is not None
        assert response is not None
        rest = b""
        if body is not None:
            try:
                data, rest = body.feed(data)
            except BadBody:
                self._break()
                return
        elif response.body == NO_BODY:
            data, rest = b"", data
        if head or data:
            self.transport.write(head + data)
        if response.body == UNTIL_EOF or (body is not None and not body.done):
            return
        self._finish(request, response, has_more=bool(rest), keeps=keeps)

    def _finish(self, request: Request, response: Response, *, has_more: bool, keeps: bool | None) -> None:
        """The response is complete. Its connection is used again if both sides have said all that they had to."""
        upstream, self._upstream = self._upstream, None
        assert upstream is not None
        all_sent = self._body is None
        if response.keep_alive and all_sent and not has_more:
            upstream.transport.resume_reading()
            self._proxy.pool.give_back(upstream, self._proxy.now)
        else:
            upstream.owner = None
            upstream.transport.abort()
        if keeps is None:
            keeps = request.keep_alive and (request.minor == 1 or response.body != CHUNKED)
        self._end_exchange(keep=keeps and all_sent)
