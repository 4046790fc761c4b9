"""What the proxy says itself: at once, after a while, or on and on; and where a request goes after a second look."""

from __future__ import annotations

import asyncio

import pytest
from proxied import GET, OK, Service, proxied, reset, settle

from moat_core.http.answer import Answer, Streamed
from moat_core.http.head import parse_request

OLD = GET.replace(b"HTTP/1.1", b"HTTP/1.0")


class Pieces:
    """Something to stream: what is put in comes out; it knows whether it was closed, and how far it was read."""

    def __init__(self):
        self.queue = asyncio.Queue()
        self.closed = asyncio.Event()
        self.taken = 0

    async def body(self):
        try:
            while (piece := await self.queue.get()) is not None:
                self.taken += 1
                yield piece
        finally:
            self.closed.set()

    def said(self):
        return Streamed(200, "text/event-stream", {"X-A": "b"}, self.body)


def says(proxy, said):
    """Have PROXY answer all requests with SAID."""
    proxy.route = lambda request, client, *, fresh: said


async def test_a_stream_is_chunked_and_the_connection_used_on():
    """Each piece as it comes; the empty one is not the end."""
    pieces = Pieces()
    async with proxied(Service()) as (proxy, reader, writer):
        says(proxy, pieces.said())
        writer.write(GET)
        assert await reader.readuntil(b"\r\n\r\n") == (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n"
            b"Connection: keep-alive\r\n\r\n"
        )
        for piece in (b"one", b"", b"two"):
            pieces.queue.put_nowait(piece)
        assert await reader.readexactly(16) == b"3\r\none\r\n3\r\ntwo\r\n"
        pieces.queue.put_nowait(None)
        assert await reader.readexactly(5) == b"0\r\n\r\n"
        assert pieces.closed.is_set()
        says(proxy, Answer(200, b"next"))
        writer.write(GET)
        assert (await reader.readuntil(b"next")).startswith(b"HTTP/1.1 200")


async def test_http_1_0_is_streamed_to_until_the_end():
    """Without chunks."""
    pieces = Pieces()
    async with proxied(Service()) as (proxy, reader, writer):
        says(proxy, pieces.said())
        for piece in (b"one", b"two", None):
            pieces.queue.put_nowait(piece)
        writer.write(OLD)
        got = await reader.read()
    assert got.endswith(b"Connection: close\r\n\r\nonetwo")
    assert b"chunked" not in got


async def test_a_head_request_has_no_stream():
    """Nor is it begun."""
    pieces = Pieces()
    async with proxied(Service()) as (proxy, reader, writer):
        says(proxy, pieces.said())
        writer.write(GET.replace(b"GET", b"HEAD") + OLD.replace(b"GET", b"HEAD"))
        got = await reader.read()
    assert got.count(b"HTTP/1.1 200") == 2
    assert got.endswith(b"\r\n\r\n")
    assert pieces.taken == 0


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_a_stream_ends_with_its_client(how):
    """The iterator is closed, though it has nothing to say."""
    pieces = Pieces()
    async with proxied(Service()) as (proxy, reader, writer):
        says(proxy, pieces.said())
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        getattr(writer.transport, how)()
        await pieces.closed.wait()
        while proxy.clients:
            await asyncio.sleep(0)


async def test_a_stream_waits_for_its_client():
    """It is not asked for more than a client takes, and goes on when it does."""
    taken = 0

    async def body():
        nonlocal taken
        for _number in range(2000):
            taken += 1
            yield bytes(100_000)

    async with proxied(Service()) as (proxy, reader, writer):
        says(proxy, Streamed(200, "text/plain", {}, body))
        writer.write(OLD)
        await reader.readuntil(b"\r\n\r\n")
        before = -1
        while taken != before:
            before = taken
            await settle(200)
        assert taken < 200
        assert len(await reader.readexactly(200_000_000)) == 200_000_000
    assert taken == 2000


async def test_a_stream_that_breaks_does_not_look_whole():
    """The client's connection is reset, and the error told to the loop."""
    told = []

    async def body():
        yield b"one"
        raise RuntimeError("ouch")

    async with proxied(Service()) as (proxy, reader, writer):
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        says(proxy, Streamed(200, "text/plain", {}, body))
        writer.write(GET)
        with pytest.raises(ConnectionResetError):
            await reader.read()
    assert [str(error) for error in told] == ["ouch"]


async def test_an_answer_may_be_looked_for_first():
    """Others are not kept waiting; the next request on the connection is."""
    go = asyncio.Event()
    pieces = Pieces()
    pieces.queue.put_nowait(None)

    async def deferred():
        await go.wait()
        return Answer(404, b"nothing") if len(proxy.asked) == 0 else pieces.said()

    async with proxied(Service()) as (proxy, reader, writer):
        says(proxy, deferred)
        writer.write(GET)
        await settle()
        del proxy.route
        writer.write(GET)
        await settle()
        assert proxy.asked == []
        go.set()
        assert (await reader.readuntil(b"nothing")).startswith(b"HTTP/1.1 404")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        says(proxy, deferred)
        writer.write(GET)
        assert b"event-stream" in await reader.readuntil(b"0\r\n\r\n")


async def test_an_answer_that_is_not_found_out_is_an_error():
    """Told to the loop, and answered with 500; so is a route that cannot be looked up."""
    told = []

    async def deferred():
        raise RuntimeError("ouch")

    def route(request, client, *, fresh):
        raise RuntimeError("ouch")

    async with proxied(Service()) as (proxy, reader, writer):
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        says(proxy, deferred)
        writer.write(GET)
        assert (await reader.readuntil(b"failed.\n")).startswith(b"HTTP/1.1 500")
        proxy.route = route
        writer.write(GET)
        assert (await reader.readuntil(b"failed.\n")).startswith(b"HTTP/1.1 500")
    assert len(told) == 2


async def test_a_deferred_answer_ends_with_its_client():
    """It is cancelled."""
    cancelled = asyncio.Event()

    async def deferred():
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with proxied(Service()) as (proxy, _, writer):
        says(proxy, deferred)
        writer.write(GET)
        await settle()
        reset(writer)
        await cancelled.wait()


async def test_errors_may_be_looked_for_too():
    """What is said of a service that does not answer."""

    async def deferred():
        return Answer(502, b"deferred")

    async with proxied(Service(b"SSH-2.0-OpenSSH\r\n\r\n")) as (proxy, reader, writer):
        proxy.bad_response = proxy.unreachable = lambda request, client, error: deferred
        writer.write(GET)
        await reader.readuntil(b"deferred")
        proxy.place = ("127.0.0.1", 1)
        writer.write(GET)
        await reader.readuntil(b"deferred")


async def test_routes_are_looked_at_again_once_a_connection_stands():
    """Not for one that waited: who is at its other end has not changed."""
    async with proxied(Service()) as (proxy, reader, writer):
        for _number in range(3):
            writer.write(GET)
            await reader.readuntil(b"ok")
    assert proxy.asked == [False, True, False, False]
    assert proxy.requests == 3


@pytest.mark.parametrize("gone", [True, False])
async def test_a_request_follows_its_route(gone):
    """To another address, if it is another by then; the one who has the old port sees nothing of it."""
    old, new = Service(b"old"), Service()
    async with proxied(old) as (old_proxy, _, _), proxied(new) as (proxy, reader, writer):
        first = ("127.0.0.1", 1) if gone else old_proxy.place
        places = iter([first, proxy.place, proxy.place])
        proxy.route = lambda request, client, *, fresh: next(places)
        writer.write(GET)
        await reader.readuntil(b"ok")
        assert list(places) == []
    assert old.seen == b""
    assert new.seen.startswith(b"GET")


async def test_a_route_that_went_meanwhile_is_answered():
    """By what is said of it now."""
    service = Service()
    async with proxied(service) as (proxy, reader, writer):
        proxy.route = lambda request, client, *, fresh: Answer(410, b"gone") if fresh else proxy.place
        writer.write(GET)
        assert (await reader.readuntil(b"gone")).startswith(b"HTTP/1.1 410")
    assert service.seen == b""


async def test_a_route_that_changes_on_and_on_is_unreachable():
    """After three times."""
    service = Service()
    async with proxied(service) as (proxy, reader, writer):
        asked = iter(range(100))
        proxy.route = lambda request, client, *, fresh: (f"127.0.0.{next(asked) % 2 + 1}", proxy.place[1])
        writer.write(GET)
        assert (await reader.readuntil(b"unreachable")).startswith(b"HTTP/1.1 502")
        assert next(asked) == 4
    assert service.seen == b""


async def test_a_dropped_addresss_connections_are_not_used_again():
    """Neither those that wait nor those that are busy; the others are."""
    go = asyncio.Event()

    async def answer(_, writer):
        await go.wait()
        writer.write(OK)

    service = Service([OK, answer, OK])
    async with proxied(service) as (proxy, reader, writer):
        writer.write(GET)
        await reader.readuntil(b"ok")
        proxy.pool.drop(("127.0.0.1", 1))
        writer.write(GET)
        while not service.answers or len(service.answers) > 1:
            await asyncio.sleep(0)
        assert service.connections == 1
        proxy.pool.drop(proxy.place)
        go.set()
        await reader.readuntil(b"ok")
        writer.write(GET)
        await reader.readuntil(b"ok")
        assert service.connections == 2
        proxy.pool.drop(proxy.place)
        service.answers = [OK]
        writer.write(GET)
        await reader.readuntil(b"ok")
        assert service.connections == 3


async def test_a_request_that_went_round_is_refused():
    """With 508: it would go round for ever."""
    service = Service()
    async with proxied(service) as (proxy, reader, writer):
        writer.write(GET[:-2] + b"Via: 1.1 other, 1.1 " + proxy.name.upper() + b"\r\n\r\n" + GET)
        assert (await reader.readuntil(b"circle.")).startswith(b"HTTP/1.1 508")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    assert service.seen.count(b"GET ") == 1


async def test_an_answer_arrives_though_the_request_is_not_read():
    """It is not lost in a reset: the rest is let in, and thrown away."""
    service = Service()
    async with proxied(service) as (_, reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: nobody\r\nContent-Length: 5000000\r\n\r\n" + bytes(2_000_000))
        assert (await reader.readuntil(b"nobody")).startswith(b"HTTP/1.1 404")
        writer.write(bytes(2_000_000))
        assert await reader.read() == b""
    assert service.seen == b""


def test_a_header_is_found_by_its_name():
    """The first of that name, in any case; of the start line and of what is not sent on nothing."""
    request = parse_request(
        b"GET /accept: HTTP/1.1\r\nHost: a\r\nACCEPT:  text/html \r\naccept: b\r\nTE: x\r\nA:\r\n\r\n"
    )
    assert request.header(b"Accept") == b"text/html"
    assert request.header(b"host") == b"a"
    assert [request.header(name) for name in (b"te", b"a", b"acc", b"GET /accept")] == [b""] * 4
