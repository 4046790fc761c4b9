"""HTTP/1.1 on streams: heads and bodies in pieces, their limits, and what comes after them."""

from __future__ import annotations

import anyio
import pytest

from moat_core.http.body import BadBody
from moat_core.http.head import CHUNKED, NO_BODY, UNTIL_EOF, BadHead
from moat_core.http.message import read_request, read_response, write_head
from moat_core.http.streams import Incoming

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


class Pieces:
    """A stream of what it is given, then its end, or silence."""

    def __init__(self, *pieces, ends=True):
        self.pieces, self.ends = list(pieces), ends

    async def receive(self, max_bytes=65536):
        if self.pieces:
            return self.pieces.pop(0)
        if not self.ends:
            await anyio.sleep_forever()
        raise anyio.EndOfStream


def cut(data, size):
    return [data[at : at + size] for at in range(0, len(data), size)]


async def read_all(incoming):
    out = b""
    while piece := await incoming.read_piece():
        out += piece
    return out


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
async def test_messages_in_pieces(size):
    """One after the other, whatever the cut; what is behind them is left alone."""
    data = b"\r\n" + GET + b"5;x=y\r\nhello\r\n0\r\nx: y\r\n\r\n" + GET + b"12" + GET + b"raw"
    incoming = Incoming(Pieces(*cut(data, size), ends=False))
    for framing, body in ((CHUNKED, b"hello"), (2, b"12"), (NO_BODY, b"")):
        assert await incoming.read_head(1000) == GET
        incoming.begin_body(framing)
        assert await read_all(incoming) == body
        assert incoming.body_over
    rest = incoming.take_rest()
    while len(rest) < 3:
        await incoming.receive()
        rest += incoming.take_rest()
    assert rest == b"raw"


async def test_a_body_without_a_length_ends_with_the_stream():
    """As an old engine's answers do."""
    incoming = Incoming(Pieces(b"a", b"b"))
    incoming.begin_body(UNTIL_EOF)
    assert await read_all(incoming) == b"ab"
    assert incoming.body_over


@pytest.mark.parametrize(("framing", "sent"), [(5, b"abc"), (CHUNKED, b"5\r\nabc"), (CHUNKED, b"1\r\na\r\n")])
async def test_a_body_that_breaks_off_does_not_look_whole(framing, sent):
    """It is an error, and no end."""
    incoming = Incoming(Pieces(sent))
    incoming.begin_body(framing)
    with pytest.raises(BadBody):
        await read_all(incoming)


@pytest.mark.parametrize(
    ("pieces", "status"),
    [((b"GET / HT",), 400), ((b"a" * 3000,), 431), ((b"GET / HTTP/1.1\nHost: x\n\n",), 400), ((b"GET",), 400)],
)
async def test_what_is_no_head(pieces, status):
    """Too long, broken off, or of bare line feeds."""
    with pytest.raises(BadHead) as caught:
        await Incoming(Pieces(*pieces)).read_head(2000)
    assert caught.value.status == status


async def test_who_says_nothing_is_given_up_and_who_is_slow_is_told():
    """Two limits: for the first byte, and from there to the last."""
    assert await Incoming(Pieces(ends=False)).read_head(1000, idle_s=0.01) == b""
    with pytest.raises(BadHead) as caught:
        await Incoming(Pieces(b"GET", ends=False)).read_head(1000, head_s=0.01)
    assert caught.value.status == 408


def test_a_request_is_told_whole():
    """All of its headers, those that a proxy keeps for itself included."""
    data = b"POST /x?y HTTP/1.1\r\nHost: %2Frun\r\nUpgrade: h2c\r\nX-A: 1\r\nExpect: 100-continue\r\n"
    asked = read_request(data + b"Content-Length: 3\r\nConnection: close\r\n\r\n")
    assert (asked.method, asked.target, asked.body, asked.keep_alive, asked.expects) == (
        b"POST",
        b"/x?y",
        3,
        False,
        True,
    )
    assert dict(asked.headers)[b"x-a"] == b"1"
    assert dict(asked.headers)[b"upgrade"] == b"h2c"


@pytest.mark.parametrize(
    ("lines", "method", "body"),
    [
        (b"Content-Length: 3\r\n", b"GET", 3),
        (b"Content-Length: 3\r\n", b"HEAD", NO_BODY),
        (b"Transfer-Encoding: chunked\r\n", b"GET", CHUNKED),
        (b"", b"GET", UNTIL_EOF),
    ],
)
def test_a_response_ends_where_rfc_9112_says(lines, method, body):
    """By its method, too."""
    assert read_response(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n", method).body == body


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\0b"])
def test_no_header_is_two(value):
    """Whoever writes one is told."""
    with pytest.raises(ValueError, match="line's end"):
        write_head("GET / HTTP/1.1", [("A", value)])
