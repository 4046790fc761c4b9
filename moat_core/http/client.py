"""A connection from a client: its requests, one after the other, each a turn of a service's or of our own.

No task and no timer for each request: what comes in is passed on where it arrives, and one tick a second looks for
those whose deadline has passed. Either side is read only as fast as the other one takes it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Protocol, cast

from moat_core.http.answer import Answer
from moat_core.http.exchange import Exchange
from moat_core.http.head import MAX_HEAD, NO_BODY, BadHead, Request
from moat_core.http.speech import Speech
from moat_core.tls.secure import Secure

if TYPE_CHECKING:
    from moat_core.http.answer import Said
    from moat_core.http.proxy import Proxy

__all__ = ["NEVER", "Client", "Turn"]

NEVER = float("inf")
_MOST_WAITING = 64 * 1024
_HANDSHAKE = b"\x16"
"""The first byte of TLS (RFC 8446, 5.1), and of no head."""
_LINGER_S = 2.0
_MOST_REFUSED = 64
"""How many are told at once that there are too many; the rest is hung up on."""


class Turn(Protocol):
    """Who is answering the client: a service, ourselves, or nobody any more."""

    takes: bool
    """What the client sends is for `take`; otherwise it is kept for the next request."""
    is_endless: bool
    """It ends when somebody goes, and not before."""

    def take(self, data: bytes) -> None:
        """The client has sent DATA."""

    def client_ended(self) -> bool:
        """The client will send nothing more. Tell whether it is to be heard out."""

    def client_lost(self) -> None:
        """The client has gone."""

    def pause(self) -> None:
        """The client takes nothing more for now."""

    def resume(self) -> None:
        """It does again."""

    def expired(self) -> None:
        """The client's deadline has passed."""


class Client(asyncio.Protocol):
    """See the module.

    Args:
        proxy: Routes, connects, and answers where no service does.
        scheme: ``http`` or ``https``.
    """

    __slots__ = (
        "_is_new", "_is_paused", "_searched", "_unsent", "buffer", "deadline", "has_ended", "is_full", "peer", "proxy",
        "scheme", "transport", "turn", "user",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, proxy: Proxy, scheme: str) -> None:
        self.proxy, self.scheme = proxy, scheme
        self.peer = b""
        self.buffer = b""
        """What has come and belongs to no request yet."""
        self.has_ended = False
        self.is_full = False
        """It takes nothing more for now: nor does the next of its requests begin."""
        self.turn: Turn | None = None
        self.user: int | None = None
        """Another user of this machine, if it is theirs and that was asked; see `Proxy.is_greedy`."""
        self.deadline = NEVER
        self._is_new, self._is_paused = True, False
        self._searched = 0
        self._unsent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.peer = peer[0].encode() if peer else b"unknown"
        self.deadline = self.proxy.now + self.proxy.idle_s
        self.proxy.clients.add(self)
        if len(self.proxy.clients) > self.proxy.most_clients // 4 and self.proxy.is_greedy(self):
            self._refuse()
        elif len(self.proxy.clients) > self.proxy.most_clients:
            self._squeeze_in()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        turn = self.turn
        if turn is not None and turn.takes:
            turn.take(data)
            return
        self.buffer = self.buffer + data if self.buffer else data
        if turn is None and not self.is_full:
            self._read_head()
        elif len(self.buffer) > _MOST_WAITING:
            self.pause_reading()

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`. Who has said all may still listen."""
        self.has_ended = True
        if self.turn is None:
            return self.is_full and bool(self.buffer)
        self.deadline = min(self.deadline, self.proxy.now + self.proxy.gone_s)
        return self.turn.client_ended()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """See `asyncio.Protocol`."""
        self.proxy.forget(self)
        turn, self.turn = self.turn, None
        if turn is not None:
            turn.client_lost()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self.is_full, self._unsent = True, self.transport.get_write_buffer_size()
        if self.turn is None:
            self.deadline = self.proxy.now + self.proxy.stall_s
        else:
            self.turn.pause()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self.is_full = False
        if self.turn is None:
            self.deadline = self.proxy.now + self.proxy.idle_s
            self._go_on()
        else:
            self.turn.resume()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way for it: it has asked for nothing, or has its answer and is only being heard."""
        return not self.is_full and (self.turn is None or isinstance(self.turn, _Deaf))

    def _squeeze_in(self) -> None:
        """There are too many: others that ask for nothing go, or this one has to."""
        if not self.proxy.make_room(self):
            self._refuse()

    def _refuse(self) -> None:
        proxy = self.proxy
        if len(proxy.clients) > proxy.most_clients + _MOST_REFUSED:
            self.transport.abort()
        else:
            self.say(proxy.refuse(BadHead(503, "There are too many connections.")))

    def expired(self) -> None:
        """The deadline has passed."""
        unsent = self.transport.get_write_buffer_size()
        if self.is_full and unsent < self._unsent:  # it reads slowly, but it does
            self._unsent, self.deadline = unsent, self.proxy.now + self.proxy.stall_s
        elif self.turn is not None:
            self.turn.expired()
        elif self.buffer and not self.is_full:
            self.deadline = self.proxy.now + _LINGER_S
            self.say(self.proxy.refuse(BadHead(408, "The request's head did not come in time.")))
        elif self.is_full:
            self.reset()
        else:
            self.transport.close()

    def say(self, said: Said, request: Request | None = None) -> None:
        """Answer it ourselves. Who has not said all, or was not understood, is hung up on afterwards."""
        keep = request is not None and request.body == NO_BODY and self.keeps(request)
        if isinstance(said, Answer):
            is_head = request is not None and request.method == b"HEAD"
            self.transport.write(said.encode(keep_alive=keep, is_head=is_head))
            self.next_turn(keep=keep, all_read=request is not None and request.body == NO_BODY)
        else:
            assert request is not None
            self.turn = speech = Speech(self, request, keep=keep)
            speech.begin(said)

    def keeps(self, request: Request) -> bool:
        """Tell whether the connection may be used on after REQUEST."""
        return request.keep_alive and not self.proxy.is_draining

    def next_turn(self, *, keep: bool, all_read: bool = True) -> None:
        """A response is complete: go on with the next request, or hang up."""
        self.turn = None
        proxy = self.proxy
        self.deadline = proxy.now + (proxy.stall_s if self.is_full else proxy.idle_s)
        if not keep or (self.has_ended and not self.buffer):
            self._hang_up(all_read=all_read and not self.buffer)
            return
        self.resume_reading()
        if self.buffer:
            # Not at once: many requests that came together would be so many calls deep.
            asyncio.get_running_loop().call_soon(self._go_on)

    def wait(self) -> None:
        """A response is under way, and takes as long as it takes; whoever has closed its side may have gone."""
        proxy = self.proxy
        if self.is_full:
            self.deadline = proxy.now + proxy.stall_s
        else:
            self.deadline = proxy.now + proxy.gone_s if self.has_ended else NEVER

    def pause_reading(self) -> None:
        """Read nothing more for now."""
        if not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on, if it was paused."""
        if self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()

    def reset(self) -> None:
        """Reset the connection: what ends in order would be taken for the whole."""
        socket_ = self.transport.get_extra_info("socket")
        if socket_ is not None:
            socket_.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _hang_up(self, *, all_read: bool) -> None:
        """Close it: not at once if it has said more, for the kernel would reset it before it has read the answer."""
        self.buffer = b""
        if all_read or self.has_ended or self.transport.is_closing():
            self.transport.close()
            return
        self.turn = _Deaf(self)
        self.deadline = self.proxy.now + _LINGER_S
        self.transport.write_eof()
        self.resume_reading()

    def _go_on(self) -> None:
        if self.turn is None and self.buffer and not self.is_full and not self.transport.is_closing():
            self._read_head()

    def _take_head(self) -> bytes:
        """Take a head out of the buffer; empty while there is none."""
        data = self.buffer
        if data[:1] < b" ":
            if self._is_new and data[:1] == _HANDSHAKE:
                self._secure()
                return b""
            if data.startswith(b"\r\n"):  # RFC 9112, 2.2: one empty line before a request is forgiven
                self.buffer = data = data[2:]
        end = data.find(b"\r\n\r\n", self._searched)
        if end >= 0:
            self._searched = 0
            self._is_new = False
            self.buffer = data[end + 4 :]
            return data[: end + 4]
        if not self._searched:
            self.deadline = self.proxy.now + self.proxy.head_s
        self._searched = max(1, len(data) - 3)
        if len(data) > MAX_HEAD:
            self.say(self.proxy.refuse(BadHead(431, f"The head is longer than {MAX_HEAD} bytes.")))
        elif b"\n\n" in data or b"\n\r\n" in data:
            self.say(self.proxy.refuse(BadHead(400, "The head's lines end in bare LFs.")))
        elif self.has_ended:
            self.transport.close()
        return b""

    def _secure(self) -> None:
        """It speaks TLS. The first byte decides: the rest of the connection is one or the other."""
        data, self.buffer, self._is_new = self.buffer, b"", False
        proxy = self.proxy
        if proxy.tls is None:
            self.say(proxy.refuse(BadHead(400, "There is no HTTPS here.")))
            return
        self.deadline = proxy.now + proxy.head_s
        self.scheme = "https"
        self.transport = secure = Secure(proxy.tls, self.transport, self, self._is_secure)
        secure.data_received(data)

    def _is_secure(self) -> None:
        self.deadline = self.proxy.now + self.proxy.idle_s

    def _read_head(self) -> None:
        head = self._take_head()
        if not head:
            return
        proxy = self.proxy
        try:
            request = proxy.heads.request(head)
        except BadHead as error:
            self.say(proxy.refuse(error))
            return
        if proxy.name in request.via:
            self.say(proxy.refuse(BadHead(508, "The request came from here: it goes round in a circle.")), request)
            return
        place = proxy.find(request, self, fresh=False)
        if isinstance(place, tuple):
            self.turn = exchange = Exchange(self, request)
            exchange.begin(place)
        else:
            self.say(place, request)


class _Deaf:
    """The turn of nobody: all is said, and what the client still sends is not heard."""

    __slots__ = ("_client", "is_endless", "takes")

    def __init__(self, client: Client) -> None:
        self._client = client
        self.takes, self.is_endless = True, False

    def take(self, data: bytes) -> None:
        """See `Turn`."""

    def client_ended(self) -> bool:
        """See `Turn`."""
        return False

    def client_lost(self) -> None:
        """See `Turn`."""

    def pause(self) -> None:
        """See `Turn`."""

    def resume(self) -> None:
        """See `Turn`."""

    def expired(self) -> None:
        """See `Turn`."""
        self._client.transport.abort()
