"""The turn of a service: one request is passed on to it, and its response back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from moat_core.http.body import BadBody, Chunked, Length
from moat_core.http.head import (
    CHUNKED,
    MAX_HEAD,
    NO_BODY,
    UNTIL_EOF,
    BadHead,
    Request,
    Response,
)
from moat_core.http.splice import Splice
from moat_core.http.upstream import SMALL

if TYPE_CHECKING:
    from moat_core.http.answer import Said
    from moat_core.http.body import Data
    from moat_core.http.client import Client
    from moat_core.http.upstream import Address, Upstream

__all__ = ["Exchange"]

_SWITCHING, _CONTINUE, _OK = 101, 100, 200
_REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_MOST_MOVES = 3
_LEAD = 8192
"""In how much of a long piece a response's head is looked for first, in bytes."""


class Exchange:
    """See the module. A `Turn`, and the `Owner` of its upstream.

    Args:
        client: Who asks.
        request: What.
    """

    __slots__ = (
        "_body", "_client", "_has_begun", "_is_stuck", "_keep", "_lead", "_pending", "_request", "_response",
        "_response_body", "_task", "_upstream", "is_endless", "takes",
    )  # fmt: skip

    def __init__(self, client: Client, request: Request) -> None:
        self._client, self._request = client, request
        self._body: Length | Chunked | None = None
        self._pending = b""
        """What is sent once there is an upstream."""
        self._task: asyncio.Task[None] | None = None
        self._upstream: Upstream | None = None
        self._is_stuck = False
        """The service takes nothing more for now."""
        self._has_begun = False
        """It has said something."""
        self._lead = b""
        self._keep = False
        self._response: Response | None = None
        self._response_body: Length | Chunked | None = None
        self.takes = self.is_endless = False

    def begin(self, place: Address) -> None:
        """Ask the service at PLACE."""
        client, request = self._client, self._request
        proxy = client.proxy
        proxy.requests += 1
        self._pending = b"%b%b\r\n" % (request.head, proxy.lines_for(request, client.peer, client.scheme))
        client.deadline = proxy.now + proxy.answer_s
        if request.body != NO_BODY:
            self._body = Chunked() if request.body == CHUNKED else Length(request.body)
            self.takes = True
            early, client.buffer = client.buffer, b""
            if early:
                self.take(early)
                if client.turn is not self:
                    return
        self._find_upstream(place)

    def _find_upstream(self, place: Address) -> None:
        proxy, request = self._client.proxy, self._request
        is_repeatable = request.body == NO_BODY and request.method in _REPEATABLE
        upstream = proxy.pool.take(place, self, proxy.now, is_repeatable=is_repeatable)
        if upstream is not None:
            self._send_to(upstream)
        else:
            self._connect(place)

    def _connect(self, place: Address) -> None:
        if self.takes:
            self._client.pause_reading()
        self._task = self._client.proxy.spawn(self._find_new(place))

    async def _find_new(self, place: Address) -> None:
        try:
            said = await self._try(place)
            self._task = None
            if said is not None:
                self._say(said)
        except Exception as error:  # noqa: BLE001 - it is another's, and the client waits for an answer
            self._client.proxy.report(error)
            self._client.reset()

    async def _try(self, place: Address) -> Said | None:
        """Connect and send; or return what is said instead.

        Who listens at an address may have changed since it was looked up: the routes as they are once the connection
        stands decide whether it is used.
        """
        client, request = self._client, self._request
        proxy = client.proxy
        error: Exception = ConnectionError("its address keeps changing")
        for _ in range(_MOST_MOVES):
            upstream: Upstream | None = None
            try:
                upstream = await proxy.pool.connect(place, self)
            except (OSError, TimeoutError) as failed:
                error = failed
            found = proxy.find(request, client, fresh=True)
            if found == place:
                if upstream is None:
                    break
                self._send_to(upstream)
                return None
            if upstream is not None:
                upstream.drop()
            if not isinstance(found, tuple):
                return found
            place = found
        return proxy.unreachable(request, client, error)

    def _send_to(self, upstream: Upstream) -> None:
        self._upstream = upstream
        upstream.transport.write(self._pending)
        if self.takes:
            self._pending = b""
            if not self._is_stuck:
                self._client.resume_reading()

    def take(self, data: bytes) -> None:
        """See `Turn`: pass on what has come of the request's body."""
        client, body = self._client, self._body
        assert body is not None
        try:
            passed, rest = body.feed(data)
        except BadBody as error:
            if self._response is None:
                self._say(client.proxy.refuse(BadHead(400, str(error))))
            else:
                client.reset()
            return
        if self._upstream is None:
            self._pending += passed
        elif passed:
            self._upstream.transport.write(passed)
        proxy = client.proxy
        if body.done:
            self._body, self.takes = None, False
            client.buffer = bytes(rest)
        elif body.is_laborious:
            client.pause_reading()
            asyncio.get_running_loop().call_soon(self._take_on)
        if self._response is None and not self._is_stuck:
            client.deadline = proxy.now + (proxy.stall_s if self.takes else proxy.answer_s)

    def _take_on(self) -> None:
        """Others have had their turn, see `_let_others`."""
        if self._client.turn is self and self._upstream is not None and not self._is_stuck:
            self._client.resume_reading()

    def client_ended(self) -> bool:
        """See `Turn`. In the middle of a request it goes, and its upstream with it."""
        return self._body is None

    def client_lost(self) -> None:
        """See `Turn`."""
        if self._task is not None:
            self._task.cancel()
        self._drop_upstream()

    def pause(self) -> None:
        """See `Turn`."""
        client = self._client
        if self._upstream is not None:
            self._upstream.pause()
        if self._response is not None:
            client.deadline = client.proxy.now + client.proxy.stall_s

    def resume(self) -> None:
        """See `Turn`."""
        if self._upstream is not None:
            self._upstream.resume()
        if self._response is not None:
            self._client.wait()

    def expired(self) -> None:
        """See `Turn`: the client is gone, takes nothing or sends nothing; or the service does not answer."""
        client, proxy = self._client, self._client.proxy
        if client.has_ended or self._response is not None:
            client.reset()
        elif self._body is not None and not (self._is_stuck or self._upstream is None or self._request.expects):
            self._say(proxy.refuse(BadHead(408, "The request's body did not come in time.")))
        else:
            self._say(proxy.unreachable(self._request, client, TimeoutError("it did not answer in time")))

    def pause_sending(self) -> None:
        """See `Owner`: from here on it is the service that is waited for."""
        client, proxy = self._client, self._client.proxy
        self._is_stuck = True
        client.pause_reading()
        if self._response is None:
            client.deadline = proxy.now + proxy.answer_s

    def resume_sending(self) -> None:
        """See `Owner`."""
        client, proxy = self._client, self._client.proxy
        self._is_stuck = False
        client.resume_reading()
        if self._response is None and self.takes:
            client.deadline = proxy.now + proxy.stall_s

    def upstream_data(self, data: Data) -> None:
        """See `Owner`."""
        client = self._client
        if client.has_ended:
            client.wait()
        if self._response is None:
            self._has_begun = True
            self._read_response(data)
        else:
            self._pass_on(b"", data, b"")

    def upstream_ended(self) -> None:
        """See `Owner`: the end of a body that had no other, or too early."""
        if self._response is not None and self._response.body == UNTIL_EOF:
            self._drop_upstream()
            self._client.next_turn(keep=False)
        else:
            self._fail(None)

    def upstream_lost(self, error: Exception | None) -> None:
        """See `Owner`."""
        if self._response is not None and self._response.body == UNTIL_EOF and error is None:
            self.upstream_ended()
        else:
            self._fail(error)

    def _fail(self, error: Exception | None) -> None:
        """The service went away. What has begun cannot be taken back: it must not look complete."""
        upstream, request = self._upstream, self._request
        assert upstream is not None
        if self._response is not None:
            self._client.reset()
        elif upstream.is_used and not self._has_begun and request.method in _REPEATABLE and request.body == NO_BODY:
            self._drop_upstream()
            self._connect(upstream.address)
        else:
            error = error or ConnectionResetError("it hung up")
            self._say(self._client.proxy.unreachable(request, self._client, error))

    def _say(self, said: Said) -> None:
        self._drop_upstream()
        if self._task is not None:
            self._task.cancel()
        self._client.say(said, self._request)

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.drop()

    def _read_response(self, data: Data) -> None:
        """Pass on the heads of early responses, and begin with that of the last one."""
        client, request = self._client, self._request
        cut = len(data) if len(data) <= SMALL else _LEAD
        lead, rest = self._lead + bytes(data[:cut]), data[cut:]
        try:
            while (end := lead.find(b"\r\n\r\n")) >= 0 or rest:
                if end < 0:
                    lead, rest = lead + bytes(rest), b""
                    continue
                head, lead = lead[: end + 4], lead[end + 4 :]
                response = client.proxy.heads.response(head, request.method)
                if response.status >= _OK or response.status == _SWITCHING:
                    self._respond(response, lead, rest)
                    return
                if request.minor and (response.status != _CONTINUE or request.expects):
                    client.transport.write(response.head + b"\r\n")
        except BadHead as error:
            self._say(client.proxy.bad_response(request, client, error.reason))
            return
        if len(lead) > MAX_HEAD or b"\n\n" in lead:
            self._say(client.proxy.bad_response(request, client, "The head is malformed."))
            return
        self._lead = lead

    def _splice(self, response: Response, data: bytes) -> None:
        """From here on both sides speak another protocol, and end as they like."""
        client, request, upstream = self._client, self._request, self._upstream
        assert upstream is not None
        if not request.upgrade or response.upgrade.lower() != request.upgrade.lower():
            self._say(client.proxy.bad_response(request, client, "The protocol was changed without being asked for."))
            return
        client.transport.write(response.head + b"\r\n" + data)
        self._upstream = None
        client.turn = Splice(client, upstream, is_stuck=self._is_stuck)

    def _respond(self, response: Response, lead: bytes, rest: Data) -> None:
        if response.status == _SWITCHING:
            self._splice(response, lead + bytes(rest))
            return
        client, request = self._client, self._request
        self._response = response
        size, head, is_old = response.body, response.head, not request.minor
        client.wait()
        is_endless = size == UNTIL_EOF or (size == CHUNKED and is_old)
        self._keep = keep = not is_endless and self._body is None and client.keeps(request)
        if size == CHUNKED:
            self._response_body = Chunked(bare=is_old)
            if is_old:
                head = head.replace(b"Transfer-Encoding: chunked\r\n", b"")
        if not keep:
            head += b"Connection: close\r\n"
        elif is_old:
            head += b"Connection: keep-alive\r\n"
        if size == len(lead) and not rest:
            client.transport.write(b"%b\r\n%b" % (head, lead))
            self._finish(response, has_more=False)
            return
        if size > 0:
            self._response_body = Length(size)
        self._pass_on(head + b"\r\n", lead, rest)

    def _pass_on(self, head: bytes, data: Data, rest: Data) -> None:
        """Pass on what has come of the body, with HEAD before it."""
        response, body = self._response, self._response_body
        assert response is not None
        after: Data = b""
        if body is not None:
            try:
                data, after = body.feed(data)
            except BadBody:
                self._client.reset()
                return
        elif response.body == NO_BODY:
            data, after = b"", data
        self._write(head, data)
        if response.body == UNTIL_EOF or (body is not None and not body.done):
            if rest:
                self._pass_on(b"", rest, b"")
            elif body is not None and body.is_laborious:
                self._let_others()
            return
        self._finish(response, has_more=bool(after) or bool(rest))

    def _let_others(self) -> None:
        """Read no more until all others have had their turn: megabytes of tiny chunks would keep them waiting."""
        upstream = self._upstream
        assert upstream is not None
        upstream.is_laborious = True
        upstream.pause()

        def read_on() -> None:
            if self._upstream is upstream and not self._client.is_full:
                upstream.resume()

        asyncio.get_running_loop().call_soon(read_on)

    def _write(self, head: bytes, data: Data) -> None:
        client, upstream = self._client, self._upstream
        if len(data) <= SMALL:
            client.transport.write(head + data if head else bytes(data))
            return
        if head:
            client.transport.write(head)
        client.transport.write(data)
        is_copied = client.scheme == "https" or not isinstance(data, memoryview)
        if not is_copied and upstream is not None and client.transport.get_write_buffer_size():
            upstream.keep_view()

    def _finish(self, response: Response, *, has_more: bool) -> None:
        """The response is complete. Its connection is used again if both sides have said all that they had to."""
        client = self._client
        upstream, self._upstream = self._upstream, None
        assert upstream is not None
        all_sent = self._body is None
        # One that is stuck has told us so, and would not tell the next one.
        if response.keep_alive and all_sent and not self._is_stuck and not has_more:
            client.proxy.pool.give_back(upstream, client.proxy.now)
        else:
            upstream.drop()
        # What was said of the connection in the head stays true.
        client.next_turn(keep=self._keep, all_read=all_sent)
