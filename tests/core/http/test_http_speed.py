"""What makes it fast changes nothing else: heads are remembered, and another loop carries the same."""

from __future__ import annotations

import asyncio
import socket
import sys

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxied import GET, OneService, Service, proxied

from moat_core.http.head import BadHead, parse_request, parse_response
from moat_core.http.memo import Heads
from moat_core.http.serve import run, serve

METHODS = st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"CONNECT", b"BREW", b"get", b"QUERY", b""])
TARGETS = st.one_of(
    st.sampled_from(
        [b"/", b"*", b"/a?b=c", b"http://b.localhost/x", b"/#a", b"/a b", b"", b"/\xff", b"a.localhost:80"]
    ),
    st.binary(max_size=5).map(lambda tail: b"/" + tail),
)
VERSIONS = st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b"RTSP/1.1"])
LINES = st.sampled_from([
    b"Host: a.localhost", b"host: b.localhost:80", b"Host: a/b", b"Content-Length: 5", b"Content-Length: 0", b"A: b",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: x", b"Connection: close", b"Connection: upgrade, A",
    b"Upgrade: websocket", b"Expect: 100-continue", b"Expect: x", b"Via: 1.1 moat", b"X-Forwarded-For: c", b" folded",
    b"bad", b"A: \0", b"Connection: Expect",
])  # fmt: skip
HEADS = st.builds(
    lambda method, target, version, lines: b"%b %b %b\r\n%b\r\n" % (
        method, target, version, b"".join(line + b"\r\n" for line in lines)),
    METHODS, TARGETS, VERSIONS, st.lists(LINES, max_size=5).map(lambda lines: [b"Host: c.localhost", *lines]),
)  # fmt: skip


def outcome(function, *arguments):
    """What FUNCTION returns, or the error that it raises."""
    try:
        return attrs.astuple(function(*arguments))
    except BadHead as error:
        return error.status, error.reason


@given(st.lists(HEADS, max_size=12))
def test_a_request_that_is_remembered_is_the_same(heads):
    """Whatever came before it, and whatever its first line."""
    memo = Heads()
    for head in heads + heads:
        assert outcome(memo.request, head) == outcome(parse_request, head)
    lines = [head.partition(b"\r\n")[2] for head in heads]
    for start in (b"GET /other HTTP/1.1\r\n", b"POST /other HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n"):
        for each in lines:
            assert outcome(memo.request, start + each) == outcome(parse_request, start + each)


@given(
    st.lists(LINES, max_size=4),
    st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.1 204 No", b"HTTP/1.0 200", b"HTTP/1.1 101 S", b"HTTP/1.1 99 x"]),
)
def test_a_response_that_is_remembered_is_the_same(lines, start):
    """Whatever the method of the request."""
    memo = Heads()
    head = start + b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    for method in (b"GET", b"HEAD", b"POST", b"HEAD", b"GET"):
        assert outcome(memo.response, head, method) == outcome(parse_response, head, method)


def test_little_is_remembered():
    """Not many heads, and no long ones."""
    memo = Heads()

    def size():
        return sum(len(table) for table in (memo._requests, memo._responses))

    for number in range(5000):
        memo.request(b"GET / HTTP/1.1\r\nHost: a\r\nA: %d\r\n\r\n" % number)
        memo.response(b"HTTP/1.1 200 OK\r\nA: %d\r\n\r\n" % number, b"GET")
    assert 0 < size() <= 1024
    memo.clear()
    memo.request(b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 5000 + b"\r\n\r\n")
    memo.response(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 5000 + b"\r\n\r\n", b"GET")
    assert size() == 0


async def test_nothing_is_remembered_for_long():
    """Heads hold tokens."""
    async with proxied(Service()) as (proxy, reader, writer):
        writer.write(GET)
        await reader.readuntil(b"ok")
        assert proxy.heads._requests
        assert proxy.heads._responses
        proxy.sweep(proxy.now + 61)
        assert not proxy.heads._requests
        assert not proxy.heads._responses


async def talk(address):
    """A request, a large upload with a large response, and a switch of protocols."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(GET)
    await reader.readuntil(b"ok")
    size = 3_000_000
    body = b"0123456789" * (size // 10)
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + body)
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(size) == body
    writer.write(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    writer.write(body)
    assert await reader.readexactly(size) == body
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()


async def echo(reader, writer):
    """A service for `talk`."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        if b"Upgrade" in head:
            writer.write(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
            while data := await reader.read(100_000):
                writer.write(data)
                await writer.drain()
            writer.close()
            return
        if b"POST" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + await reader.readexactly(3_000_000))
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def whole():
    """Serve on two sockets, and end."""
    service = await asyncio.start_server(echo, "127.0.0.1", 0, limit=10_000_000)
    proxy = OneService(service.sockets[0].getsockname()[1])
    sockets = [socket.create_server(("127.0.0.1", 0)) for _number in range(2)]
    async with asyncio.timeout(20):
        async with serve(proxy, sockets):
            assert proxy.most_clients <= 12_000
            for each in sockets:
                await talk(each.getsockname())
                await talk(each.getsockname())
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*sockets[0].getsockname()) if sockets[0].fileno() >= 0 else refuse()
    service.close()
    return type(asyncio.get_running_loop()).__module__


def refuse():
    raise ConnectionRefusedError


@pytest.mark.parametrize("name", ["uvloop", "asyncio"])
def test_either_loop_carries_the_same(name, monkeypatch):
    """The faster one, if it is there."""
    if name == "asyncio":
        monkeypatch.setitem(sys.modules, "uvloop", None)
    assert run(whole()).partition(".")[0] == name
