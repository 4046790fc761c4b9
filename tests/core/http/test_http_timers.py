"""What takes too long ends, and what may take long does not; nor does the proxy take more than it can hold.

The clock is moved by hand: `sweep` is told the time.
"""

from __future__ import annotations

import asyncio
import re

import pytest
from proxied import GET, OK, Service, proxied, settle

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"


async def connect(proxy):
    """Another client of PROXY."""
    return await asyncio.open_connection(*proxy.listening)


async def until(condition):
    """Wait for CONDITION by letting others go on."""
    while not condition():
        await asyncio.sleep(0)


async def never(_reader, _writer):
    """An answer that does not come."""
    await asyncio.Event().wait()


async def test_who_asks_nothing_is_hung_up_on():
    """After a while, without a word; before its first request and after it."""
    async with proxied(Service(), idle_s=75) as (proxy, reader, writer):
        other_reader, other = await connect(proxy)
        writer.write(GET)
        await reader.readuntil(b"ok")
        await until(lambda: len(proxy.clients) == 2)
        proxy.sweep(proxy.now + 70)
        await settle()
        assert len(proxy.clients) == 2
        proxy.sweep(proxy.now + 10)
        assert await reader.read() == await other_reader.read() == b""
        other.close()


@pytest.mark.parametrize("before", [b"", GET])
async def test_a_head_that_drips_is_not_waited_for(before):
    """Its time runs from the first byte, whatever comes meanwhile."""
    service = Service()
    async with proxied(service, head_s=20) as (proxy, reader, writer):
        if before:
            writer.write(before)
            await reader.readuntil(b"ok")
        start = proxy.now
        for sent in range(1, 22):
            writer.write(GET[sent - 1 : sent])
            await until(lambda sent=sent: any(len(each.buffer) >= sent for each in proxy.clients))
            proxy.sweep(start + sent)
        assert (await reader.read()).startswith(b"HTTP/1.1 408")
    assert service.seen.count(b"HTTP/1.1") == (1 if before else 0)


async def test_a_body_that_stalls_is_not_waited_for():
    """The client is told so, and the service's connection is closed."""
    async with proxied(service := Service(), stall_s=60) as (proxy, reader, writer):
        writer.write(POST + b"12345")
        await until(lambda: service.seen)
        proxy.sweep(proxy.now + 50)
        writer.write(b"6")
        await settle(50)
        proxy.sweep(proxy.now + 50)
        await settle()
        assert len(proxy.clients) == 1
        proxy.sweep(proxy.now + 61)
        assert (await reader.read()).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    "request_", [GET, POST + b"1234567890", POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")]
)
async def test_a_service_that_does_not_answer_is_not_waited_for(request_):
    """It is too slow, not the client, which may ask on."""
    service = Service([never, OK])
    async with proxied(service, answer_s=120, stall_s=10) as (proxy, reader, writer):
        errors = []
        said = proxy.unreachable
        proxy.unreachable = lambda request, client, error: errors.append(error) or said(request, client, error)
        writer.write(request_)
        await until(lambda: service.seen)
        proxy.sweep(proxy.now + 115)
        await settle()
        assert errors == []
        proxy.sweep(proxy.now + 10)
        await reader.readuntil(b"unreachable")
        assert [type(error) for error in errors] == [TimeoutError]
        if request_ is GET:
            writer.write(GET)
            await reader.readuntil(b"ok")


async def test_a_service_that_takes_no_body_is_the_slow_one():
    """504, not 408; and no more of the body is held than what fits between them."""
    size = 50_000_000
    sent = 0

    async def upload(writer):
        nonlocal sent
        while sent < size:
            writer.write(bytes(100_000))
            await writer.drain()
            sent += 100_000

    service = Service()

    async def deaf(reader, writer):
        service.writers.append(writer)
        writer.transport.pause_reading()
        await never(reader, writer)

    service.serve = deaf
    async with proxied(service, answer_s=120, stall_s=60) as (proxy, reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        task = asyncio.create_task(upload(writer))
        before = -1
        while sent != before:
            before = sent
            await settle(200)
        assert sent < 20_000_000
        proxy.sweep(proxy.now + 100)
        await settle()
        assert len(proxy.clients) == 1
        proxy.sweep(proxy.now + 30)
        assert (await reader.readuntil(b"unreachable")).startswith(b"HTTP/1.1 502")
        task.cancel()


@pytest.mark.parametrize("upgrade", [True, False])
async def test_what_may_take_long_does(upgrade):
    """Event streams and WebSockets say nothing for hours."""
    go = asyncio.Event()
    head = b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" if upgrade else b"HTTP/1.1 200 OK\r\n\r\n"

    async def answer(_, writer):
        writer.write(head)
        await go.wait()
        writer.write(b"late")
        writer.close()

    async with proxied(Service(answer)) as (proxy, reader, writer):
        writer.write(GET[:-2] + b"Connection: upgrade\r\nUpgrade: x\r\n\r\n" if upgrade else GET)
        await reader.readuntil(b"\r\n\r\n")
        proxy.sweep(proxy.now + 100_000)
        await settle()
        go.set()
        assert await reader.read() == b"late"


async def test_a_client_that_takes_nothing_is_not_waited_for():
    """One that takes little is; others are served meanwhile."""

    async def answer(_, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n" + bytes(50_000_000))
        await writer.drain()

    service = Service([answer, OK])
    async with proxied(service, stall_s=60) as (proxy, reader, writer):
        writer.transport.pause_reading()
        writer.write(GET)
        await until(lambda: any(each.is_full for each in proxy.clients))
        proxy.sweep(proxy.now + 50)
        other_reader, other = await connect(proxy)
        other.write(GET)
        await other_reader.readuntil(b"ok")
        other.close()
        writer.transport.resume_reading()
        await reader.readexactly(20_000_000)
        writer.transport.pause_reading()
        await settle(50)
        proxy.sweep(proxy.now + 50)
        await settle()
        assert len(proxy.clients) == 1
        for _number in range(2):
            proxy.sweep(proxy.now + 61)
        writer.transport.resume_reading()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(30_000_000)
        assert not proxy.clients


async def test_a_client_that_asks_on_and_reads_nothing_fills_nothing_up():
    """Its next requests wait until it takes what the ones before them got."""
    body = bytes(1_000_000)
    service = Service(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + body)
    async with proxied(service, stall_s=60) as (proxy, reader, writer):
        writer.transport.pause_reading()
        writer.write(GET * 100)
        await until(lambda: any(each.is_full for each in proxy.clients))
        before = -1
        while service.seen.count(b"GET") != before:
            before = service.seen.count(b"GET")
            await settle(200)
        assert before < 20
        (client,) = proxy.clients
        assert client.transport.get_write_buffer_size() < 2_000_000
        writer.transport.resume_reading()
        assert (await reader.readexactly(100_000_000)).count(b"HTTP/1.1 200 OK") > 90


@pytest.mark.parametrize("answered", [True, False])
async def test_a_half_closed_client_is_not_kept_for_ever(answered):
    """As long as something comes for it, or for a while: it may have gone altogether."""
    service = Service()

    async def answer(reader, writer):
        if answered:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\ndata")
        await never(reader, writer)

    service.answer = answer
    async with proxied(service, gone_s=30) as (proxy, reader, writer):
        writer.write(GET)
        writer.write_eof()
        if answered:
            await reader.readuntil(b"data")
        else:
            await until(lambda: service.seen)
        await settle(50)
        proxy.sweep(proxy.now + 25)
        await settle()
        assert len(proxy.clients) == 1
        proxy.sweep(proxy.now + 10)
        await until(lambda: not proxy.clients)


async def test_the_idle_make_room():
    """The oldest first; who is being served stays, and is answered."""
    go = asyncio.Event()

    async def answer(_, writer):
        await go.wait()
        writer.write(OK)

    service = Service(answer)
    async with proxied(service, most_clients=3) as (proxy, reader, writer):
        writer.write(GET)
        await until(lambda: service.seen)
        others = []
        for number in range(4):
            others.append(await connect(proxy))
            await until(lambda number=number: len(proxy.clients) == min(number + 2, 3))
            proxy.sweep(proxy.now + 1)
        assert await others[0][0].read() == await others[1][0].read() == b""
        for _, other in others[2:]:
            other.write(GET)
        await until(lambda: service.connections == 3)
        late_reader, late = await connect(proxy)
        assert (await late_reader.read()).startswith(b"HTTP/1.1 503")
        go.set()
        for each in (reader, others[2][0], others[3][0]):
            await each.readuntil(b"ok")
        for other in (late, *(other for _, other in others)):
            other.close()


async def test_too_many_to_be_told_are_hung_up_on():
    """Nothing grows without end."""
    service = Service(never)
    async with proxied(service, most_clients=1) as (proxy, _, writer):
        writer.write(GET)
        await until(lambda: service.seen)
        others = [await connect(proxy) for _number in range(80)]
        answers = [await reader.read() for reader, _ in others]
        assert sum(answer.startswith(b"HTTP/1.1 503") for answer in answers) == 64
        assert answers.count(b"") == 16
        for _, other in others:
            other.close()


async def test_what_is_under_way_ends_in_peace():
    """The idle ones go at once, as does what would never end; an answer that is awaited comes, and is the last one."""
    go = asyncio.Event()

    async def answer(_, writer):
        await go.wait()
        writer.write(OK)

    async def switch(_, writer):
        writer.write(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")

    service = Service([switch, answer])
    async with proxied(service) as (proxy, reader, writer):
        idle_reader, idle = await connect(proxy)
        socket_reader, socket = await connect(proxy)
        socket.write(GET[:-2] + b"Connection: upgrade\r\nUpgrade: x\r\n\r\n")
        await socket_reader.readuntil(b"\r\n\r\n")
        writer.write(GET + GET)
        await until(lambda: service.seen.count(b"GET") == 2)
        draining = asyncio.create_task(proxy.drain(60))
        assert await idle_reader.read() == await socket_reader.read() == b""
        assert not draining.done()
        go.set()
        answer = await reader.read()
        await draining
        assert re.findall(rb"HTTP/1.1 \d+|Connection: \w+", answer) == [b"HTTP/1.1 200", b"Connection: close"]
        for each in (idle, socket):
            each.close()


async def test_what_does_not_end_is_ended():
    """After the limit."""
    service = Service(never)
    async with proxied(service) as (proxy, reader, writer):
        writer.write(GET)
        await until(lambda: service.seen)
        await proxy.drain(0)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)


async def test_a_full_client_is_not_waited_for_either():
    """A response that begins while early ones are still unread does not stop its clock."""
    async with proxied(Service(), stall_s=60) as (proxy, _, _w):
        await until(lambda: proxy.clients)
        (client,) = proxy.clients
        client.pause_writing()
        client.wait()
        assert client.deadline == proxy.now + 60
        client.resume_writing()
        client.wait()
        assert client.deadline == float("inf")


async def test_an_error_of_ours_harms_nobody_else():
    """What cannot be said is reported; the one who waits for it is hung up on, and the clock goes on."""
    told = []

    def fail(request, client, error):
        raise RuntimeError("ouch")

    async with proxied(Service(never)) as (proxy, reader, writer):
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        proxy.unreachable = fail
        others = [await connect(proxy) for _number in range(5)]
        for _, other in others[:4]:
            other.write(GET)
        writer.write(GET)
        await until(lambda: proxy.requests == 5 and all(not task.done() for task in proxy._tasks))
        await settle(50)
        proxy.sweep(proxy.now + 200)
        for each, _ in others:
            assert await hung_up(each)
        assert await hung_up(reader)
        assert [str(error) for error in told] == ["ouch"] * 5
        proxy.place = ("127.0.0.1", 1)
        late_reader, late = await connect(proxy)
        late.write(GET)
        assert await hung_up(late_reader)
        assert len(told) == 6
        for each in (late, *(other for _, other in others)):
            each.close()


async def hung_up(reader):
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True
