"""The run's side of a connection: HTTP/1.1 by h11, read strictly, written by us."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anyio
import h11

from moat_plugins.docker_host.budget import weigh
from moat_plugins.docker_host.policy.verdict import Refused
from moat_plugins.docker_host.upstream import PIECE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyio.abc import ByteStream

    from moat_plugins.docker_host.budget import Account
    from moat_plugins.docker_host.upstream import Head

__all__ = ["Client", "Gone", "read_headers"]

JSON_BYTES = 1024 * 1024
"""The longest body that is looked at."""
_HEAD_BYTES = 64 * 1024
_MOST_HEADERS = 100
_BODY_S = 60.0
"""What a body that is looked at may take to come."""
_SEND_S = 30.0
"""What a client may take for an answer that is in memory whole."""
_LINGER_BYTES = 8 * 1024 * 1024
_LINGER_S = 5.0
_ONCE = {b"host", b"content-length", b"transfer-encoding", b"upgrade", b"expect"}
_OURS = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "proxy-connection"}


class Gone(Exception):
    """The client has left, or speaks no HTTP any more."""


def read_headers(request: h11.Request) -> dict[str, str]:
    """Return the headers of REQUEST by lower-case name; of those that come several times, all with ``, ``.

    Raises:
        Refused: Two of them disagree on what the request is.
    """
    # Where the body ends h11 alone decides (chunks go before a length, RFC 9112 section 6.3); what is sent on to the
    # engine is framed anew, so that nobody else reads these headers.
    made: dict[str, str] = {}
    for name, value in request.headers:
        key = name.decode("ascii")
        if name in _ONCE and key in made:
            raise Refused(f"moat: the request has two headers {key}.", status=400)
        text = value.decode("latin-1")
        made[key] = f"{made[key]}, {text}" if key in made else text
    if request.http_version != b"1.1":
        raise Refused("moat: the guard speaks HTTP/1.1.", status=505)
    return made


class Client:
    """A connection, one request after the other."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_BYTES)
        self._body_over = False
        self._is_head = False

    async def next_request(self) -> h11.Request | None:
        """Wait for a request; ``None`` when there will be none.

        Raises:
            Gone: What comes is no HTTP; it was told.
        """
        event = await self._next()
        if not isinstance(event, h11.Request):
            return None
        if len(event.headers) > _MOST_HEADERS:
            del event  # it may be large, and who sent it may be slow to take the answer
            await self.answer(431, {"message": "moat: the request has too many headers."}, {"Connection": "close"})
            raise Gone
        self._body_over = False
        self._is_head = event.method == b"HEAD"
        return event

    async def read_piece(self) -> bytes:
        """Return the next piece of the request's body; empty at its end."""
        while not self._body_over:
            event = await self._next()
            if isinstance(event, h11.Data):
                if event.data:
                    return bytes(event.data)
            elif isinstance(event, h11.EndOfMessage) or event is h11.PAUSED:
                self._body_over = True
            else:
                raise Gone
        return b""

    async def read_body(self, account: Account) -> bytes:
        """Return the request's whole body, charged to ACCOUNT by what it weighs once it is parsed.

        Raises:
            Refused: It is too long to be looked at, or takes too long to come.
        """
        data = bytearray()
        with anyio.move_on_after(_BODY_S):
            while piece := await self.read_piece():
                data += piece
                if len(data) > JSON_BYTES:
                    raise Refused("moat: the body is too long.", status=413)
                await account.hold(len(data))
            await account.hold(weigh(data))
            return bytes(data)
        raise Refused("moat: the body does not come.", status=408)

    async def watch(self) -> None:
        """Wait until the client leaves; return early when it says something."""
        try:
            self._http.receive_data(await self.stream.receive(PIECE_BYTES))
        except (anyio.EndOfStream, anyio.BrokenResourceError, OSError) as error:
            raise Gone from error

    async def answer(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        """Send a whole answer; ``None`` is an empty body."""
        data = b"" if body is None or self._is_head else json.dumps(body).encode() + b"\n"
        lines = [*(headers or {}).items(), ("Content-Length", str(len(data)))]
        if data:
            lines.append(("Content-Type", "application/json"))
        out = self._made(h11.Response(status_code=status, headers=lines))
        await self._write_soon(out + self._made(h11.Data(data=data)) + self._made(h11.EndOfMessage()))

    async def begin_list(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin an answer of JSON whose length is not known yet."""
        lines = [*headers.items(), ("Content-Type", "application/json")]
        await self._write(self._made(h11.Response(status_code=status, headers=lines)))

    async def send_soon(self, piece: bytes) -> None:
        """Pass on a piece of the body; who does not take it in time has gone.

        Raises:
            Gone: It was not taken.
        """
        await self._write_soon(self._made(h11.Data(data=piece)))

    async def _write_soon(self, data: bytes) -> None:
        with anyio.move_on_after(_SEND_S) as scope:
            await self._write(data)
        if scope.cancelled_caught:
            raise Gone

    async def begin(self, head: Head, *, is_whole: bool = True) -> None:
        """Begin to pass an answer of the engine on.

        Args:
            is_whole: Its body is passed on as it is; else it may become longer or shorter.
        """
        ours = _OURS if is_whole else _OURS | {"content-length"}
        lines = [(name, value) for name, value in head.headers if name not in ours]
        await self._write(self._made(h11.Response(status_code=head.status, headers=lines)))

    async def send(self, piece: bytes) -> None:
        """Pass on a piece of its body."""
        await self._write(self._made(h11.Data(data=piece)))

    async def end(self) -> None:
        """Say that it is over."""
        await self._write(self._made(h11.EndOfMessage()))

    async def switch(self, head: Head, protocol: str, *, asked: bool) -> bytes:
        """Tell the client that bytes flow both ways now, and return those that it sent already."""
        kind = head.get("content-type")
        lines = [f"Content-Type: {kind}"] if kind else []
        if asked:
            lines = ["HTTP/1.1 101 UPGRADED", *lines, "Connection: Upgrade", f"Upgrade: {protocol}"]
        else:
            lines = ["HTTP/1.1 200 OK", "Content-Type: application/vnd.docker.raw-stream"]
        await self._write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        return bytes(self._http.trailing_data[0])

    async def finish(self) -> bool:
        """Get ready for the next request; return whether there can be one.

        What is left of a refused request's body is read for a while: closing at once would take the answer back.
        """
        if self._http.they_are_waiting_for_100_continue:
            return False
        read = 0
        with anyio.move_on_after(_LINGER_S):
            while not self._body_over and read < _LINGER_BYTES:
                read += len(await self.read_piece())
        if not self._body_over or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def _next(self) -> Any:
        try:
            while True:
                event = self._http.next_event()
                if event is not h11.NEED_DATA:
                    return event
                if self._http.they_are_waiting_for_100_continue:
                    await self._write(self._made(h11.InformationalResponse(status_code=100, headers=[])))
                try:
                    self._http.receive_data(await self.stream.receive(PIECE_BYTES))
                except anyio.EndOfStream:
                    self._http.receive_data(b"")
        except h11.RemoteProtocolError as error:
            if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                await self.answer(error.error_status_hint, {"message": f"moat: {error}."}, {"Connection": "close"})
            raise Gone from error
        except (OSError, anyio.BrokenResourceError) as error:
            raise Gone from error

    def _made(self, event: h11.Event) -> bytes:
        return self._http.send(event) or b""

    async def _write(self, data: bytes) -> None:
        try:
            await self.stream.send(data)
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise Gone from error
