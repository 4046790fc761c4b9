"""Requests that two parties could read in two ways: what a service sees of them, read by another parser than ours."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager

import h11
import pytest
from proxied import OneService

EVIL = b"GET /evil HTTP/1.1\r\nHost: a.localhost\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: a.localhost\r\n\r\n"


class Recorder(asyncio.Protocol):
    """A service that reads with h11, keeps what it read, and takes nothing that h11 does not."""

    def __init__(self, seen):
        self.seen, self.http = seen, h11.Connection(h11.SERVER)

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        try:
            self.http.receive_data(data)
            self.read()
        except h11.RemoteProtocolError as error:
            self.seen.append(error)
            self.transport.abort()

    def read(self):
        while True:
            event = self.http.next_event()
            if isinstance(event, h11.Request):
                self.seen.append([event.method, event.target, b""])
            elif isinstance(event, h11.Data):
                self.seen[-1][2] += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                body = self.seen[-1][1]
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                self.http.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                self.http.send(h11.EndOfMessage())
                if self.http.our_state is h11.MUST_CLOSE:
                    self.transport.close()
                    return
                self.http.start_next_cycle()
            else:
                return


@asynccontextmanager
async def recorded():
    """A proxy before a `Recorder`; yields how to say something to it, and what was seen."""
    seen = []
    loop = asyncio.get_running_loop()
    service = await loop.create_server(lambda: Recorder(seen), "127.0.0.1", 0)
    proxy = OneService(service.sockets[0].getsockname()[1])
    server = await loop.create_server(proxy.accept, "127.0.0.1", 0)

    async def say(data, size=1_000_000):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            async with asyncio.timeout(20):
                for at in range(0, len(data), size):
                    writer.write(data[at : at + size])
                    await asyncio.sleep(0)
                writer.write_eof()
                return await reader.read()
        finally:
            writer.close()

    try:
        yield say, seen
    finally:
        proxy.close()
        server.close()
        service.close()


def post(*lines, body=b"", start=b"POST /first HTTP/1.1"):
    """A request with LINES, and behind it one that must be seen as the body it is, as itself, or not at all."""
    return start + b"\r\nHost: a.localhost\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body + EVIL


# Each alone, and each together with a length in both orders.
CODINGS = {
    "chunked": b"Transfer-Encoding: chunked",
    "no blank": b"Transfer-Encoding:chunked",
    "case": b"tRANSFER-eNCODING: CHUNKED",
}
BAD_CODINGS = {
    "tab": b"Transfer-Encoding:\tchunked\t",  # allowed, and llhttp takes offence
    "identity": b"Transfer-Encoding: identity",
    "gzip": b"Transfer-Encoding: gzip",
    "gzip, chunked": b"Transfer-Encoding: gzip, chunked",
    "chunked, gzip": b"Transfer-Encoding: chunked, gzip",
    "chunked, chunked": b"Transfer-Encoding: chunked, chunked",
    "chunked, identity": b"Transfer-Encoding: chunked, identity",
    "two lines": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "identity, then chunked": b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    "chunked, then identity": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "chunked, then x": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    "empty": b"Transfer-Encoding:",
    "empty, then chunked": b"Transfer-Encoding:\r\nTransfer-Encoding: chunked",
    "comma": b"Transfer-Encoding: ,chunked",
    "comma after": b"Transfer-Encoding: chunked,",
    "xchunked": b"Transfer-Encoding: xchunked",
    "chunkedx": b"Transfer-Encoding: chunkedx",
    "chunk": b"Transfer-Encoding: chunk",
    "quoted": b'Transfer-Encoding: "chunked"',
    "parameter": b"Transfer-Encoding: chunked;a=b",
    "semicolon": b"Transfer-Encoding: chunked;",
    "vertical tab": b"Transfer-Encoding: \x0bchunked",
    "form feed": b"Transfer-Encoding: \x0cchunked",
    "no-break space": b"Transfer-Encoding: \xa0chunked",
    "NUL": b"Transfer-Encoding: chunked\0",
    "bare CR before": b"Transfer-Encoding: \rchunked",
    "bare CR after": b"Transfer-Encoding: chunked\r",
    "bare LF before": b"A: b\nTransfer-Encoding: chunked",
    "bare LF after": b"Transfer-Encoding: chunked\nA: b",
    "folded": b"Transfer-Encoding:\r\n chunked",
    "folded tab": b"Transfer-Encoding:\r\n\tchunked",
    "folded into another": b"A: b\r\n Transfer-Encoding: chunked",
    "blank before the colon": b"Transfer-Encoding : chunked",
    "tab before the colon": b"Transfer-Encoding\t: chunked",
    "blank before the name": b" Transfer-Encoding: chunked",
    "no colon": b"Transfer-Encoding chunked",
    "underscore and space": b"Transfer Encoding: chunked",
    "NUL in the name": b"Transfer\0-Encoding: chunked",
    "high bit": b"Transfer-Encoding\x80: chunked",
}
LENGTHS = {"plain": b"Content-Length: 5", "zeros": b"Content-Length: 0005", "blanks": b"content-length:  5 \t"}
BAD_LENGTHS = {
    "two": b"Content-Length: 5\r\nContent-Length: 5",
    "two that differ": b"Content-Length: 5\r\nContent-Length: 6",
    "list": b"Content-Length: 5, 5",
    "list that differs": b"Content-Length: 5,6",
    "plus": b"Content-Length: +5",
    "minus": b"Content-Length: -5",
    "minus zero": b"Content-Length: -0",
    "hexadecimal": b"Content-Length: 0x5",
    "octal": b"Content-Length: 0o5",
    "exponent": b"Content-Length: 5e0",
    "decimals": b"Content-Length: 5.0",
    "underscore": b"Content-Length: 1_0",
    "words": b"Content-Length: 5 5",
    "letters": b"Content-Length: five",
    "quoted": b'Content-Length: "5"',
    "empty": b"Content-Length:",
    "empty, then one": b"Content-Length:\r\nContent-Length: 5",
    "semicolon": b"Content-Length: 5;",
    "2^63": b"Content-Length: 9223372036854775808",
    "2^64 + 5": b"Content-Length: 18446744073709551621",
    "2^128": b"Content-Length: 340282366920938463463374607431768211456",
    "other digits": "Content-Length: \N{FULLWIDTH DIGIT FIVE}".encode(),
    "superscript": b"Content-Length: \xb2",
    "NUL": b"Content-Length: 5\0",
    "vertical tab": b"Content-Length: \x0b5",
    "folded": b"Content-Length:\r\n 5",
    "folded on": b"Content-Length: 5\r\n 6",
    "bare CR": b"Content-Length: 5\r6",
    "bare LF": b"Content-Length: 5\nA: b",
    "blank before the colon": b"Content-Length : 5",
    "blank before the name": b" Content-Length: 5",
}
REFUSED = {
    **{f"TE {name}": post(line, body=b"0\r\n\r\n") for name, line in BAD_CODINGS.items()},
    **{f"CL {name}": post(line, body=b"12345") for name, line in BAD_LENGTHS.items()},
    **{
        f"TE {name} and CL": post(line, b"Content-Length: 5", body=b"0\r\n\r\n")
        for name, line in {**CODINGS, **BAD_CODINGS}.items()
    },
    **{
        f"CL and TE {name}": post(b"Content-Length: 5", line, body=b"0\r\n\r\n")
        for name, line in {**CODINGS, **BAD_CODINGS}.items()
    },
    "TE in HTTP/1.0": post(CODINGS["chunked"], body=b"0\r\n\r\n", start=b"POST /first HTTP/1.0"),
    "CONNECT": post(start=b"CONNECT a.localhost:80 HTTP/1.1"),
    "CONNECT with a length": post(b"Content-Length: 5", body=b"12345", start=b"CONNECT a.localhost:80 HTTP/1.1"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + EVIL,
    "HTTP/0.9": b"GET /first\r\n" + EVIL,
    "bare LFs": b"GET /first HTTP/1.1\nHost: a.localhost\n\n" + EVIL,
    "bare LF at the end": b"GET /first HTTP/1.1\r\nHost: a.localhost\r\n\n" + EVIL,
    "bare LF in the start line": b"GET /first HTTP/1.1\nX: y\r\nHost: a.localhost\r\n\r\n" + EVIL,
    "bare CR in the start line": b"GET /first\rHTTP/1.1 HTTP/1.1\r\nHost: a.localhost\r\n\r\n" + EVIL,
    "NUL in the target": post(start=b"GET /fi\0rst HTTP/1.1"),
    "blank in the target": post(start=b"GET /fi rst HTTP/1.1"),
    "fragment": post(start=b"GET /first#a HTTP/1.1"),
    "LF before": b"\nGET /first HTTP/1.1\r\nHost: a.localhost\r\n\r\n" + EVIL,
    "CR before": b"\rGET /first HTTP/1.1\r\nHost: a.localhost\r\n\r\n" + EVIL,
    "target without host": b"GET http://a.localhost/first HTTP/1.1\r\n\r\n" + EVIL,
    "no host": b"GET /first HTTP/1.1\r\n\r\n" + EVIL,
    "two hosts": post(b"Host: b.localhost"),
    "two hosts that are one": post(b"Host: a.localhost"),
    "host with a path": b"GET /first HTTP/1.1\r\nHost: a.localhost/evil\r\n\r\n" + EVIL,
    "host with a user": b"GET /first HTTP/1.1\r\nHost: b@a.localhost\r\n\r\n" + EVIL,
    "target with a user": post(start=b"GET http://b@a.localhost/ HTTP/1.1"),
    "folded before the first line": b"GET /first HTTP/1.1\r\n X: y\r\nHost: a.localhost\r\n\r\n" + EVIL,
    "long start line": post(start=b"GET /" + b"a" * 70_000 + b" HTTP/1.1"),
    "long name": post(b"a" * 70_000 + b": b"),
    "long value": post(b"a: " + b"b" * 70_000),
    "endless head": b"GET /first HTTP/1.1\r\n" + b"a: b\r\n" * 20_000,
    "many lines": post(*[b"a: b"] * 200),
}  # fmt: skip


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
async def test_nothing_of_it_is_seen(data):
    """One error, and the end of the connection: what follows could be anything."""
    async with recorded() as (say, seen):
        answer = await say(data)
    assert seen == []
    assert re.findall(rb"HTTP/1\.1 (\d)", answer) in ([b"4"], [b"5"])


FIRST, SECOND = [b"POST", b"/first"], [b"GET", b"/evil", b""]
CHUNK = b"5;a=b\r\n12345\r\n00\r\nX: y\r\n\r\n"
ACCEPTED = {
    **{f"TE {name}": (post(line, body=CHUNK), [[*FIRST, b"12345"], SECOND]) for name, line in CODINGS.items()},
    **{f"CL {name}": (post(line, body=b"12345"), [[*FIRST, b"12345"], SECOND]) for name, line in LENGTHS.items()},
    "no length": (post(), [[*FIRST, b""], SECOND]),
    "CL 0": (post(b"Content-Length: 0"), [[*FIRST, b""], SECOND]),
    "the next is the body": (post(b"Content-Length: %d" % len(EVIL)) + LAST, [[*FIRST, EVIL], [b"GET", b"/last", b""]]),
    "the next is a chunk": (
        post(CODINGS["chunked"], body=b"%x\r\n" % len(EVIL)) + b"\r\n0\r\n\r\n" + LAST,
        [[*FIRST, EVIL], [b"GET", b"/last", b""]],
    ),
    "GET with a body": (
        post(b"Content-Length: 5", body=b"12345", start=b"GET /first HTTP/1.1"), [[b"GET", b"/first", b"12345"], SECOND],
    ),
    "underscores are another name": (
        post(b"Transfer_Encoding: chunked", b"Content_Length: 5"), [[*FIRST, b""], SECOND],
    ),
    "a connection's option": (
        post(b"Connection: Content-Length, Host, Transfer-Encoding", b"Content-Length: 5", body=b"12345"),
        [[*FIRST, b"12345"], SECOND],
    ),
    "absolute target": (post(start=b"GET http://a.localhost/first HTTP/1.1"), [[b"GET", b"/first", b""], SECOND]),
    "close": (post(b"Connection: close"), [[*FIRST, b""]]),
    "HTTP/1.0": (post(start=b"POST /first HTTP/1.0"), [[*FIRST, b""]]),
    "empty line before": (b"\r\n" + post(), [[*FIRST, b""], SECOND]),
    "upgrade with a body": (
        post(b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: 5", body=b"12345"), [[*FIRST, b"12345"], SECOND],
    ),
    "expectation": (post(b"Expect: 100-continue", b"Content-Length: 5", body=b"12345"), [[*FIRST, b"12345"], SECOND]),
}  # fmt: skip


@pytest.mark.parametrize("size", [1, 1_000_000])
@pytest.mark.parametrize(("data", "expected"), ACCEPTED.values(), ids=ACCEPTED)
async def test_what_is_meant_is_seen(data, expected, size):
    """In the same words to both of us, each request answered in its place; however it is cut."""
    async with recorded() as (say, seen):
        answer = await say(data, size)
    assert seen == expected
    assert re.findall(rb"\r\n\r\n(/(?:first|evil|last))", answer) == [target for _, target, _ in expected]


BAD_BODIES = {
    "blank after the size": b"5 \r\n12345\r\n0\r\n\r\n",
    "tab after the size": b"5\t\r\n12345\r\n0\r\n\r\n",
    "hexadecimal mark": b"0x5\r\n12345\r\n0\r\n\r\n",
    "plus": b"+5\r\n12345\r\n0\r\n\r\n",
    "minus": b"-5\r\n12345\r\n0\r\n\r\n",
    "no size": b"\r\n12345\r\n0\r\n\r\n",
    "2^64 + 5": b"10000000000000005\r\n12345\r\n0\r\n\r\n",
    "bare LF after the size": b"5\n12345\r\n0\r\n\r\n",
    "bare CR after the size": b"5\r12345\r\n0\r\n\r\n",
    "bare LF after the data": b"5\r\n12345\n0\r\n\r\n",
    "too long": b"5\r\n123456\r\n0\r\n\r\n",
    "too short": b"5\r\n1234\r\n0\r\n\r\n",
    "LF in an extension": b"5;a\nb\r\n12345\r\n0\r\n\r\n",
    "CR in an extension": b"5;a\rb\r\n12345\r\n0\r\n\r\n",
    "NUL in an extension": b"5;a\0\r\n12345\r\n0\r\n\r\n",
    "long extension": b"5;" + b"a" * 5000 + b"\r\n12345\r\n0\r\n\r\n",
    "length in a trailer": b"0\r\nContent-Length: 50\r\n\r\n",
    "coding in a trailer": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "host in a trailer": b"0\r\nHost: b\r\n\r\n",
    "blank in a trailer": b"0\r\na b: c\r\n\r\n",
    "folded trailer": b"0\r\na: b\r\n c\r\n\r\n",
    "bare LF in a trailer": b"0\r\na: b\nc: d\r\n\r\n",
    "bare LF at the end": b"0\r\na: b\r\n\n",
    "endless trailers": b"0\r\n" + (b"a: " + b"b" * 100 + b"\r\n") * 100,
}


@pytest.mark.parametrize("size", [1, 1_000_000])
@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
async def test_a_body_that_could_end_elsewhere_is_cut_off(body, size):
    """The service sees no end of it, and nothing behind it."""
    async with recorded() as (say, seen):
        answer = await say(post(CODINGS["chunked"], body=body), size)
    assert [each for each in seen if not isinstance(each, h11.RemoteProtocolError) and each[:2] != FIRST] == []
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"400"]
    assert b"/first" not in answer
