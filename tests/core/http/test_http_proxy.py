"""The proxy between real sockets: what a service sees of a client, and a client of a service."""

from __future__ import annotations

import asyncio
import re

import pytest
from proxied import GET, OK, Service, proxied, reset, say

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n"


async def test_a_request_and_its_response_are_passed_on():
    """With the names by which a service knows who asked."""
    service = Service()
    answer = await say(GET, service)
    assert answer == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    start, *lines = service.seen.rstrip().split(b"\r\n")
    assert start == b"GET /a?b HTTP/1.1"
    assert lines[:5] == [
        b"Host: web.app.localhost:8080", b"X-Forwarded-For: 127.0.0.1",
        b"X-Forwarded-Host: web.app.localhost:8080", b"X-Forwarded-Proto: http", b"X-Forwarded-Port: 8080",
    ]  # fmt: skip
    assert lines[5] == b'Forwarded: for=127.0.0.1;host="web.app.localhost:8080";proto=http'
    assert re.fullmatch(rb"Via: 1\.1 moat-[0-9a-f]{8}", lines[6])
    assert len(lines) == 7


@pytest.mark.parametrize("size", [1, 3, 17, 10_000])
async def test_however_it_is_cut(size):
    """Pieces of heads and bodies, both ways, and many requests in one."""
    pieces = [CHUNKED[at : at + size] for at in range(0, len(CHUNKED), size)]

    async def answer(_, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    service = Service(answer)
    data = (b"POST / HTTP/1.1\r\nHost: a.localhost\r\nContent-Length: 5\r\n\r\n12345" + GET) * 3
    async with proxied(service) as (_, reader, writer):
        for at in range(0, len(data), size):
            writer.write(data[at : at + size])
            await writer.drain()
        writer.write_eof()
        got = await reader.read()
    assert got.count(b"3\r\nabc\r\n0\r\n\r\n") == 6
    assert service.seen.count(b"12345") == 3
    assert service.connections == 1


async def test_requests_that_come_together_are_answered_in_order():
    """A hundred of them, on one connection each way."""
    service = Service([b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n%03d" % number for number in range(100)])
    answer = await say(GET * 100, service)
    assert re.findall(rb"\r\n\r\n(\d{3})", answer) == [b"%03d" % number for number in range(100)]
    assert service.connections == 1


SMUGGLED = {
    "GET with a body, then another": (
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345" + GET, 2, b"200", 2,
    ),
    "CL and TE": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX", 0, b"400", 1),
    "TE padded": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + GET, 0, b"400", 1),
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n" + GET, 0, b"405", 1),
    "h2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, b"505", 1),
    "bare LF": (b"GET / HTTP/1.1\nHost: a\n\n" + GET, 0, b"400", 1),
    "data after close": (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET, 1, b"200", 1),
    "upgrade with a body": (
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\n123" + GET, 2, b"200", 2,
    ),
    "chunk size with a blank": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n" + GET, 0, b"400", 1,
    ),
    "CL in a trailer": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 9\r\n\r\n" + GET, 0, b"400", 1,
    ),
    "nobody, with a body": (b"POST / HTTP/1.1\r\nHost: nobody\r\nContent-Length: 60\r\n\r\n" + GET, 0, b"404", 1),
    "nobody, then somebody": (b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n" + GET, 1, b"200", 2),
    "an empty line before": (b"\r\n" + GET, 1, b"200", 1),
}  # fmt: skip


@pytest.mark.parametrize(("data", "seen", "last", "answers"), SMUGGLED.values(), ids=SMUGGLED)
async def test_a_service_sees_what_was_meant_and_nothing_else(data, seen, last, answers):
    """However a request is dressed up: well-framed ones, or none."""
    service = Service()
    answer = await say(data, service)
    statuses = re.findall(rb"HTTP/1.1 (\d{3})", answer)
    assert (len(statuses), statuses[-1]) == (answers, last), answer
    assert service.seen.count(b" HTTP/1.1\r\n") == seen


RESPONSES = {
    "HTTP/1.0, until the end": (b"HTTP/1.0 200 OK\r\n\r\nabc", b"200", b"abc"),
    "until the end": (b"HTTP/1.1 200 OK\r\n\r\nabc", b"200", b"abc"),
    "bytes after it": (OK + b"HTTP/1.1 200 OK\r\n\r\nevil", b"200", b"ok"),
    "CL and TE": (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"502", None),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n\r\n", b"502", None),
    "101 that nobody asked for": (
        b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", b"502", None,
    ),
    "nothing": (b"", b"502", None),
    "half a head": (b"HTTP/1.1 200 OK\r\nConte", b"502", None),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "status", "body"), RESPONSES.values(), ids=RESPONSES)
async def test_responses(sent, status, body):
    """Understood and passed on, or an error of ours."""

    async def answer(_, writer):
        writer.write(sent)
        writer.close()

    got = await say(GET, Service(answer))
    assert got.startswith(b"HTTP/1.1 " + status), got
    assert body is None or got.endswith(b"\r\n\r\n" + body)
    assert b"evil" not in got


BROKEN = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
async def test_half_a_body_does_not_look_whole(sent):
    """The client's connection is reset."""

    async def answer(_, writer):
        writer.write(sent)
        await writer.drain()
        writer.close()

    with pytest.raises(ConnectionResetError):
        await say(GET, Service(answer), end=False)


async def test_early_responses_are_passed_on_and_continue_is_waited_for():
    """103 and 100 come through; the body follows when the service wants it."""

    async def answer(reader, writer):
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + await reader.readexactly(3))

    class Waiting(Service):
        async def serve(self, reader, writer):
            self.writers.append(writer)
            self.seen += await reader.readuntil(b"\r\n\r\n")
            await answer(reader, writer)

    service = Waiting()
    async with proxied(service) as (_, reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert b"103 Early" in await reader.readuntil(b"\r\n\r\n")
        assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"abc")
        assert (await reader.readuntil(b"abc")).startswith(b"HTTP/1.1 200")
    assert b"Expect: 100-continue\r\n" in service.seen


async def test_http_1_0_is_given_no_chunks():
    """Their content, and the end of the connection."""
    got = await say(GET.replace(b"HTTP/1.1", b"HTTP/1.0"), Service(CHUNKED))
    assert got == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc"


async def test_a_head_has_no_body_whatever_it_says():
    """The next response on the connection is the next one's."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"
    got = await say(GET.replace(b"GET", b"HEAD") + GET, Service([head, OK]))
    assert got == head + OK


async def test_an_upgraded_connection_is_spliced_and_half_closed():
    """Bytes both ways, early ones too; the end of one side is passed on, and the other goes on."""
    echoed = asyncio.Event()

    async def answer(reader, writer):
        writer.write(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello")
        while data := await reader.read(100):
            writer.write(data)
        writer.write(b"bye")
        writer.close()
        echoed.set()

    async with proxied(Service(answer)) as (_, reader, writer):
        writer.write(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: echo\r\n\r\nearly")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        assert await reader.readexactly(10) == b"helloearly"
        writer.write(b"more")
        assert await reader.readexactly(4) == b"more"
        writer.write_eof()
        assert await reader.read() == b"bye"
        await echoed.wait()


async def test_events_are_not_held_back():
    """Each comes when it is sent."""
    go = asyncio.Event()

    async def answer(_, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await go.wait()
        writer.write(b"data: 2\n\n")
        writer.close()

    async with proxied(Service(answer)) as (_, reader, writer):
        writer.write(GET)
        assert (await reader.readuntil(b"data: 1\n\n")).startswith(b"HTTP/1.1 200")
        go.set()
        assert await reader.read() == b"data: 2\n\n"


async def test_a_connection_that_died_while_it_waited_is_replaced():
    """Without a word, for what can be asked twice."""
    service = Service()
    async with proxied(service) as (_, reader, writer):
        writer.write(GET)
        await reader.readuntil(b"ok")
        service.writers[0].transport.abort()
        writer.write(GET)
        await reader.readuntil(b"ok")
    assert service.connections == 2


async def test_a_slow_client_slows_the_service_down():
    """What is sent is held in the kernel's buffers, not in ours."""
    sent = 0
    size = 50_000_000

    async def answer(_, writer):
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _number in range(size // 100_000):
            writer.write(bytes(100_000))
            await writer.drain()
            sent += 100_000

    async with proxied(Service(answer)) as (_, reader, writer):
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        while True:  # until nothing moves any more
            before = sent
            for _number in range(200):
                await asyncio.sleep(0)
            if sent == before:
                break
        assert sent < 20_000_000
        assert len(await reader.readexactly(size)) == size


async def test_nobody_there():
    """An error of ours, and the connection can be used on."""
    service = Service()
    async with proxied(service) as (proxy, reader, writer):
        place, proxy.place = proxy.place, ("127.0.0.1", 1)
        writer.write(GET)
        assert (await reader.readuntil(b"unreachable")).startswith(b"HTTP/1.1 502")
        proxy.place = place
        writer.write(GET)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")


async def test_a_client_that_goes_takes_its_request_with_it():
    """The service's connection is closed, not kept."""
    gone = asyncio.Event()

    async def answer(reader, _):
        await reader.read()
        gone.set()

    async with proxied(Service(answer)) as (_, _reader, writer):
        writer.write(GET)
        await writer.drain()
        for _number in range(50):
            await asyncio.sleep(0)
        reset(writer)
        await gone.wait()
