"""TLS between a connection and its client: a protocol towards the socket, a transport towards the client.

It runs on the socket's own transport, so that one listener serves both; and it holds less for a connection that waits
than an event loop's own TLS does (docs/adr has the figures). A peer that goes without a word of TLS has gone, no more:
what it was told is framed by HTTP.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from moat_core.http.body import Data

__all__ = ["Secure"]

_PIECE = 16 * 1024
"""A record's worth, in bytes: what OpenSSL's buffers have grown to they keep."""


class Secure(asyncio.Protocol, asyncio.Transport):
    """See the module.

    Args:
        context: Chooses the certificate.
        transport: Of the socket.
        upper: What is spoken inside.
        ready: Called when the handshake is done.
    """

    __slots__ = (
        "_has_said_all",
        "_incoming",
        "_is_closing",
        "_is_heard",
        "_outgoing",
        "_ready",
        "_tls",
        "_transport",
        "_upper",
    )

    def __init__(
        self, context: ssl.SSLContext, transport: asyncio.Transport, upper: asyncio.Protocol, ready: Callable[[], None]
    ) -> None:
        super().__init__()
        self._transport, self._upper = transport, upper
        self._ready: Callable[[], None] | None = ready
        self._is_closing = self._has_said_all = False
        self._is_heard: bool | None = None
        """Whether it is heard out, once it has said all; by TLS, or by closing its side."""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        transport.set_protocol(self)

    # What the socket's transport calls.

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        try:
            for at in range(0, len(data), _PIECE):
                self._incoming.write(data[at : at + _PIECE] if len(data) > _PIECE else data)
                if self._ready is not None and not self._shake():
                    continue
                self._read()
                if self._is_closing:
                    return
        except ssl.SSLError:
            # An alert may say why.
            self._flush()
            self._is_closing = True
            self._transport.close()

    def _shake(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        self._flush()
        ready, self._ready = self._ready, None
        if ready is not None:
            ready()
        return True

    def _read(self) -> None:
        """Pass on what can be read; what TLS itself has to say about it is sent."""
        pieces: list[bytes] = []
        tls, incoming, has_ended = self._tls, self._incoming, False
        try:
            while piece := tls.read(_PIECE):
                pieces.append(piece)
                # To be told by an error that there is nothing more would take longer.
                if not incoming.pending and not tls.pending():
                    break
            else:
                has_ended = True
        except ssl.SSLZeroReturnError:  # the same, after a farewell of our own
            has_ended = True
        except ssl.SSLWantReadError:
            pass
        self._flush()
        if pieces:
            self._upper.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if has_ended and not self._is_closing and not self.eof_received():
            self.close()

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`."""
        if self._is_heard is None:
            self._is_heard = self._ready is None and bool(self._upper.eof_received())
        return self._is_heard

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._is_closing, self._ready = True, None
        self._upper.connection_lost(exc)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._upper.pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._upper.resume_writing()

    # What the client calls.

    def write(self, data: Data | bytearray) -> None:
        """See `asyncio.Transport`. A view is not needed any more afterwards."""
        if self._is_closing or self._has_said_all or not data:
            return
        tls, outgoing = self._tls, self._outgoing
        if len(data) <= _PIECE:
            tls.write(data)
            self._transport.write(outgoing.read())
            return
        view, out = memoryview(data), []
        for at in range(0, len(view), _PIECE):
            tls.write(view[at : at + _PIECE])
            out.append(outgoing.read())
        self._transport.writelines(out)

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())

    def write_eof(self) -> None:
        """See `asyncio.Transport`."""
        self._say_goodbye()
        self._transport.write_eof()

    def _say_goodbye(self) -> None:
        if self._ready is None and not self._has_said_all:
            self._has_said_all = True
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # it wants the other side's, for which nobody waits
            self._flush()

    def close(self) -> None:
        """See `asyncio.BaseTransport`."""
        if not self._is_closing:
            self._is_closing = True
            self._say_goodbye()
            self._transport.close()

    def abort(self) -> None:
        """See `asyncio.WriteTransport`."""
        self._is_closing = True
        self._transport.abort()

    def is_closing(self) -> bool:
        """See `asyncio.BaseTransport`."""
        return self._is_closing or self._transport.is_closing()

    def can_write_eof(self) -> bool:
        """See `asyncio.WriteTransport`."""
        return True

    def get_write_buffer_size(self) -> int:
        """See `asyncio.WriteTransport`."""
        return self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        """See `asyncio.ReadTransport`; what has been read already still comes."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """See `asyncio.ReadTransport`."""
        self._transport.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """See `asyncio.BaseTransport`."""
        self._upper = cast("asyncio.Protocol", protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See `asyncio.BaseTransport`."""
        return self._tls if name == "ssl_object" else self._transport.get_extra_info(name, default)
