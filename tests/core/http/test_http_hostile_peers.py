"""Services that lie, break off or never end, and clients in crowds: each gets what it deserves, and others are served."""

from __future__ import annotations

import asyncio
import re
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from proxied import GET, OK, Service, proxied, reset, settle

from moat_core.fds import raise_file_limit

SUPPORT = Path(__file__).parents[2] / "support"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
BAD = b"HTTP/1.1 502"


def head(*lines, start=b"HTTP/1.1 200 OK"):
    return start + b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


# Answered with 502: the head is not one, or means two things.
HEADS = {
    "CL and TE": head(b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "two CL": head(b"Content-Length: 4", b"Content-Length: 5") + b"evil",
    "two CL that are one": head(b"Content-Length: 4", b"Content-Length: 4") + b"evil",
    "CL list": head(b"Content-Length: 4, 4") + b"evil",
    "CL plus": head(b"Content-Length: +4") + b"evil",
    "CL empty": head(b"Content-Length:") + b"evil",
    "CL 2^64": head(b"Content-Length: 18446744073709551616") + b"evil",
    "TE gzip": head(b"Transfer-Encoding: gzip") + b"evil",
    "TE gzip, chunked": head(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    "TE twice": head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "TE in 1.0": head(b"Transfer-Encoding: chunked", start=b"HTTP/1.0 200 OK") + b"0\r\n\r\n",
    "folded": head(b"A: b", b" c", b"Content-Length: 4") + b"evil",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 4\n\nevil",
    "bare LF in a line": head(b"A: b\nC: d", b"Content-Length: 4") + b"evil",
    "bare CR in a line": head(b"A: b\rC: d", b"Content-Length: 4") + b"evil",
    "NUL": head(b"A: b\0c", b"Content-Length: 4") + b"evil",
    "blank in a name": head(b"A B: c", b"Content-Length: 4") + b"evil",
    "blank before the colon": head(b"Content-Length : 4") + b"evil",
    "status 99": head(b"Content-Length: 4", start=b"HTTP/1.1 99 OK") + b"evil",
    "status 2000": head(b"Content-Length: 4", start=b"HTTP/1.1 2000 OK") + b"evil",
    "HTTP/2": head(b"Content-Length: 4", start=b"HTTP/2 200 OK") + b"evil",
    "ICY": head(b"Content-Length: 4", start=b"ICY 200 OK") + b"evil",
    "no HTTP": b"SSH-2.0-OpenSSH_9.9\r\n\r\nevil",
    "101 unasked": head(b"Connection: upgrade", b"Upgrade: x", start=b"HTTP/1.1 101 S") + b"evil",
    "long line": head(b"A: " + b"b" * 70_000, b"Content-Length: 4") + b"evil",
    "many lines": head(*[b"A: b"] * 200, b"Content-Length: 4") + b"evil",
    "endless": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000,
}


@pytest.mark.parametrize("sent", HEADS.values(), ids=HEADS)
async def test_a_head_that_is_none_is_not_passed_on(sent):
    """Nothing of it; the client's connection is used on, and the next one asks another connection."""
    service = Service([sent, OK])
    async with proxied(service) as (_, reader, writer):
        writer.write(GET + GET)
        answer = await reader.readuntil(b"\r\n\r\nok")
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"502", b"200"]
    assert b"evil" not in answer
    assert service.connections == 2


@pytest.mark.parametrize("status", [b"200", b"204", b"304", b"HEAD"])
async def test_what_comes_behind_a_response_is_nobodys(status):
    """It is not the next one's; the connection that it came on is not used again."""
    method = b"HEAD" if status == b"HEAD" else b"GET"
    first = head(b"Content-Length: 0", start=b"HTTP/1.1 " + status.replace(b"HEAD", b"200") + b" OK")
    service = Service([first + EVIL, OK])
    async with proxied(service) as (_, reader, writer):
        writer.write(GET.replace(b"GET", method) + GET)
        assert b"evil" not in await reader.readuntil(b"ok")
    assert service.connections == 2


async def test_what_nobody_asked_for_is_nobodys():
    """A connection that speaks while it waits is closed."""
    service = Service()
    async with proxied(service) as (_, reader, writer):
        writer.write(GET)
        await reader.readuntil(b"ok")
        service.writers[0].write(EVIL)
        await settle(50)
        writer.write(GET)
        assert b"evil" not in await reader.readuntil(b"ok")
    assert service.connections == 2


async def test_early_responses_without_end_fill_nothing_up():
    """They are passed on as far as the client takes them."""
    sent = 0

    async def answer(_, writer):
        nonlocal sent
        while sent < 100_000_000:
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: <%b>\r\n\r\n" % (b"a" * 1000) * 100)
            await writer.drain()
            sent += 100_000

    async with proxied(Service(answer)) as (proxy, _, writer):
        writer.transport.pause_reading()
        writer.write(GET)
        before = -1
        while sent != before:
            before = sent
            await settle(200)
        assert sent < 30_000_000
        (client,) = proxy.clients
        assert client.transport.get_write_buffer_size() < 2_000_000


BROKEN = {
    "too short": head(b"Content-Length: 9") + b"abc",
    "chunks without end": head(b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n",
    "no chunk": head(b"Transfer-Encoding: chunked") + b"3\r\nabcd\r\n0\r\n\r\n",
    "size of 2^64": head(b"Transfer-Encoding: chunked") + b"10000000000000000\r\nabc",
    "endless size": head(b"Transfer-Encoding: chunked") + b"0" * 10_000,
    "endless trailers": head(b"Transfer-Encoding: chunked") + b"0\r\n" + b"a: b\r\n" * 5000,
    "length in a trailer": head(b"Transfer-Encoding: chunked") + b"0\r\nContent-Length: 3\r\n\r\n",
}


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
async def test_a_broken_body_does_not_look_whole(sent, how):
    """The client's connection is reset; others do not notice."""

    async def answer(_, writer):
        writer.write(sent)
        await writer.drain()
        await settle(50)
        reset(writer) if how == "reset" else writer.close()

    service = Service([answer, OK])
    async with proxied(service) as (proxy, reader, writer):
        writer.write(GET)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        other_reader, other = await asyncio.open_connection(*proxy.listening)
        other.write(GET)
        await other_reader.readuntil(b"ok")
        other.close()


@pytest.mark.parametrize("when", ["at once", "in the head", "in the request"])
async def test_a_service_that_breaks_off_is_a_bad_gateway(when):
    """Before anything has been passed on, and the client can ask on if it has said all."""

    async def answer(_, writer):
        if when == "in the head":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
            await settle(50)
        reset(writer)

    class Hasty(Service):
        async def serve(self, reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            await answer(reader, writer)

    service = Hasty() if when == "in the request" else Service([answer, OK])
    async with proxied(service) as (_, reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc" if when == "in the request" else GET)
        assert (await reader.readuntil(b"unreachable")).startswith(BAD)
        if when != "in the request":
            writer.write(GET)
            await reader.readuntil(b"ok")


async def test_what_is_asked_twice_is_asked_twice_of_nobody():
    """A POST whose connection breaks is not repeated: it may have been heard."""
    service = Service()

    async def break_off(_, writer):
        reset(writer)

    async with proxied(service) as (proxy, reader, writer):
        writer.write(GET)
        await reader.readuntil(b"ok")
        service.answers = [break_off]
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        await reader.readuntil(b"unreachable")
        assert service.seen.count(b"POST") == 1
        writer.write(GET)
        await reader.readuntil(b"ok")
        proxy.sweep(proxy.now + 2)  # it has waited for a while
        connections = service.connections
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        await reader.readuntil(b"ok")
        assert service.connections == connections + 1


PROXY = """
import asyncio, resource, socket, sys
sys.path.insert(0, sys.argv[1])
from proxied import OneService
from moat_core.fds import raise_file_limit
from moat_core.http.serve import run, serve

async def main():
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    if int(sys.argv[2]):
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)
    proxy = OneService(1)
    async with serve(proxy, [listener], drain_s=0):
        if int(sys.argv[2]):
            proxy.most_clients = 1_000_000  # what it would do if it did not count
        print(listener.getsockname()[1], flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            pages = int(open("/proc/self/statm").read().split()[1])
            print(len(proxy.clients), pages * resource.getpagesize(), flush=True)

(run if sys.argv[3] == "run" else asyncio.run)(main())
"""


class Proxy:
    """A proxy in a process of its own."""

    def __init__(self, limit=0, loop="run"):
        argv = [sys.executable, "-c", PROXY, str(SUPPORT), str(limit), loop]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def __enter__(self):
        self.address = ("127.0.0.1", int(self.process.stdout.readline()))
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()

    def tell(self):
        """How many clients it has, and how much memory, in bytes."""
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        return tuple(map(int, self.process.stdout.readline().split()))

    def ask_politely(self):
        try:
            return self.ask()
        except ConnectionError:
            return b""

    def ask(self, connection=None):
        with connection or socket.create_connection(self.address, 20) as asking:
            asking.settimeout(20)
            asking.sendall(b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n")
            return asking.recv(1000)[:12]


def test_thousands_that_wait_take_little():
    """10,000 connections, a tenth of them in the middle of a head: 3 KB each at most, and who asks is answered."""
    count = min(10_000, raise_file_limit() - 500)
    with Proxy() as proxy:
        waiting = [socket.create_connection(proxy.address) for _number in range(100)]
        _, before = proxy.tell()
        waiting += [socket.create_connection(proxy.address) for _number in range(count - 100)]
        for each in waiting[::10]:
            each.sendall(b"GET / HTTP/1.1\r\nHost: nob")
        assert proxy.ask() == b"HTTP/1.1 404"
        clients, after = proxy.tell()
        assert clients in {count, count + 1}
        assert after - before < count * 3072
        assert proxy.ask(waiting[5]) == b"HTTP/1.1 404"
        for each in waiting:
            each.close()


@pytest.mark.parametrize("loop", ["run", "asyncio"])
def test_too_few_files_are_no_end(loop):
    """Those that are there are served, and newcomers when some have gone."""
    with Proxy(limit=60, loop=loop) as proxy:
        waiting = [socket.create_connection(proxy.address) for _number in range(100)]
        assert proxy.ask(waiting[0]) == b"HTTP/1.1 404"
        for each in waiting:
            each.close()
        deadline = time.monotonic() + 20
        while (said := proxy.ask_politely()) != b"HTTP/1.1 404":  # until it has seen them go
            assert said in {b"", b"HTTP/1.1 503"}
            assert time.monotonic() < deadline


def test_as_many_files_as_there_may_be():
    """The soft limit becomes the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    assert raise_file_limit() == hard
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
