"""Services that would hold up everybody, or have the proxy keep what it cannot pass on: each was an attack that worked."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager

import pytest
from proxied import GET, OneService, Service, proxied, settle

from moat_core.http.body import Chunked

MEGABYTE = 1_000_000
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


def test_tiny_chunks_cost_no_more_the_more_of_them_come_together():
    """What is left of a read must not be copied for each: a service could freeze the proxy for seconds."""

    def cost(chunks):
        data, best = b"1\r\nx\r\n" * chunks, float("inf")
        for _ in range(5):
            body, begun = Chunked(), time.thread_time()
            assert body.feed(data) == (data, b"")
            best = min(best, time.thread_time() - begun)
        return best

    assert cost(100_000) < 3 * 50 * cost(2000)


@pytest.mark.parametrize("way", ["response", "request"])
async def test_a_storm_of_chunks_arrives_whole(way):
    """Though it is read bit by bit, so that others have their turn."""
    storm = b"".join(b"1\r\n%c\r\n" % (97 + number % 26) for number in range(8000)) + b"0\r\n\r\n"
    chunked = b"Transfer-Encoding: chunked\r\n\r\n"

    async def answer(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n" + chunked + storm)

    service = Service(answer if way == "response" else b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    async with proxied(service) as (_, reader, writer):
        writer.write(GET if way == "response" else b"POST / HTTP/1.1\r\nHost: a\r\n" + chunked + storm)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        if way == "response":
            assert await reader.readexactly(len(storm)) == storm
        else:
            assert await reader.readexactly(2) == b"ok"
            assert service.seen.endswith(storm)


@asynccontextmanager
async def narrow():
    """A proxy, and a service's listening socket to which little can be sent that nobody reads."""
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        proxy = OneService(listener.getsockname()[1])
        server = await loop.create_server(proxy.accept, "127.0.0.1", 0)
        try:
            async with asyncio.timeout(20):
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                yield listener, reader, writer
        finally:
            writer.transport.abort()
            proxy.close()
            server.close()
            await settle()


async def accept(listener):
    accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
    accepted.setblocking(False)
    return accepted


async def pour(writer, most):
    """Send until nobody takes any more, MOST bytes at most, and return how much that was."""
    sent = 0
    try:
        while sent < most:
            writer.write(b"y" * 65536)
            async with asyncio.timeout(1):
                await writer.drain()
            sent += 65536
    except TimeoutError:
        pass
    return sent


async def test_a_connection_that_is_full_is_not_used_again():
    """Nobody would tell the next request's client to wait: it could send gigabytes into the proxy."""
    async with narrow() as (listener, reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"z" * 100_000)
        with await accept(listener) as first:
            await settle(200)
            await asyncio.get_running_loop().sock_sendall(first, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await reader.readuntil(b"ok")
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000000\r\n\r\n")
            with await accept(listener):  # on another one
                assert await pour(writer, 100 * MEGABYTE) < 20 * MEGABYTE


async def test_what_is_sent_before_a_protocol_changes_holds_up_what_comes_after():
    """As it would if it came after."""
    async with narrow() as (listener, reader, writer):
        writer.write(UPGRADE)
        with await accept(listener) as service:
            loop = asyncio.get_running_loop()
            await loop.sock_recv(service, 65536)
            writer.write(b"x" * 200_000)
            await settle(200)
            await loop.sock_sendall(service, SWITCHED)
            await reader.readuntil(b"\r\n\r\n")
            assert await pour(writer, 100 * MEGABYTE) < 20 * MEGABYTE


@pytest.mark.parametrize("early", [100, 6000, 20_000])
@pytest.mark.parametrize("final", [100, 4000, 20_000])
async def test_heads_that_come_with_much_of_the_body_are_found(early, final):
    """However long the early ones and the last one are."""
    body = b"B" * 200_000

    async def answer(_reader, writer):
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: " + b"h" * early + b"\r\n\r\n"
        writer.write(
            hints + b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\nX-Pad: " + b"p" * final + b"\r\n\r\n" + body
        )

    async with proxied(Service(answer)) as (_, reader, writer):
        writer.write(GET)
        while not (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200"):
            pass
        assert await reader.readexactly(len(body)) == body
