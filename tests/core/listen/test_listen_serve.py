"""The loop that accepts, on real sockets: too many, too slow, too few descriptors, errors of one connection."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import re
import socket
import struct
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from moat_core.listen import Limits, open_servers, serve
from moat_core.tls import Authority, client_context, server_context

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def sides():
    """Both contexts of mutual TLS."""
    authority = Authority.make("test")
    server, client = authority.issue_server(["host"]), authority.issue_client("me")
    return (
        server_context(server, clients=authority.pem),
        client_context(authority.pem, client),
        client_context(authority.pem),
    )


async def echo(visitor):
    """Say what is said."""
    try:
        while True:
            data = await visitor.receive()
            visitor.is_idle = False
            await visitor.send(data.upper())
            visitor.is_idle = True
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        pass


@asynccontextmanager
async def listening(handler=echo, **options):
    """The address of a listener that HANDLER serves."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener, anyio.fail_after(30):
        listener.setblocking(False)
        async with anyio.create_task_group() as group:

            async def run():
                await serve(listener, handler, **options)

            group.start_soon(run)
            yield listener.getsockname()
            group.cancel_scope.cancel()


async def ask(address, **options):
    reader, writer = await asyncio.open_connection(*address, **options)
    try:
        writer.write(b"hello")
        return await reader.readexactly(5)
    finally:
        writer.close()


async def test_each_connection_is_served():
    """One after the other, and side by side."""
    async with listening() as address:
        assert await asyncio.gather(*(ask(address) for _ in range(50))) == [b"HELLO"] * 50


async def test_an_error_of_one_is_nobody_elses(caplog):
    """It is logged, its connection ends, and the next one is served."""

    async def fail(visitor):
        await visitor.receive()
        raise RuntimeError("that was odd")

    with caplog.at_level(logging.ERROR, "moat.listen"):
        async with listening(fail) as address:
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(b"x")
                assert await reader.read() == b""
                writer.close()
    assert caplog.text.count("served badly") == 2


async def test_too_many_see_a_clean_end():
    """Who is displaced or refused reads an end, not a reset, though they had spoken."""
    limits = Limits(inside=4, inside_of_peer=2)
    async with listening(limits=limits) as address:
        streams = [await asyncio.open_connection(*address) for _ in range(20)]
        for _, writer in streams:
            writer.write(b"x" * 10)
        assert [await reader.read(1) for reader, _ in streams[:18]] == [b""] * 18
        for _, writer in streams:
            writer.close()


async def test_busy_ones_are_not_displaced():
    """Whose request is under way is served to its end, and newcomers of the same peer are refused."""
    go = anyio.Event()

    async def slow(visitor):
        await visitor.receive()
        visitor.is_idle = False
        await go.wait()
        await visitor.send(b"done")

    async with listening(slow, limits=Limits(inside=4, inside_of_peer=2)) as address:
        busy = [await asyncio.open_connection(*address) for _ in range(2)]
        for _, writer in busy:
            writer.write(b"x")
        await anyio.wait_all_tasks_blocked()
        late, writer = await asyncio.open_connection(*address)
        assert await late.read() == b""
        go.set()
        assert [await reader.read() for reader, _ in busy] == [b"done", b"done"]
        for _, each in [*busy, (late, writer)]:
            each.close()


async def test_tls_lets_in_who_has_a_certificate(sides):
    """And nobody else gets as far as the handler."""
    server, good, bad = sides
    async with listening(tls=server) as address:
        assert await ask(address, ssl=good, server_hostname="host") == b"HELLO"
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await ask(address, ssl=bad, server_hostname="host")
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await ask(address)
        assert await ask(address, ssl=good, server_hostname="host") == b"HELLO"


async def test_a_slow_handshake_is_given_up(sides):
    """Whoever says nothing, or a byte now and then, reads an end after the time for it."""
    async with listening(tls=sides[0], limits=Limits(handshake_s=0.2)) as address:
        silent_reader, silent = await asyncio.open_connection(*address)
        slow_reader, slow = await asyncio.open_connection(*address)
        slow.write(b"\x16\x03\x01")
        assert await silent_reader.read() == await slow_reader.read() == b""
        assert await ask(address, ssl=sides[1], server_hostname="host") == b"HELLO"
        silent.close()
        slow.close()


async def test_the_crowd_at_the_door_keeps_nobody_out(sides):
    """Connections that show nothing displace one another, not those who are inside, nor those who come."""
    limits = Limits(door=8, door_of_peer=8, inside=4, inside_of_peer=4)
    async with listening(tls=sides[0], limits=limits) as address:
        inside_reader, inside = await asyncio.open_connection(*address, ssl=sides[1], server_hostname="host")
        crowd = [await asyncio.open_connection(*address) for _ in range(100)]
        assert await ask(address, ssl=sides[1], server_hostname="host") == b"HELLO"
        inside.write(b"hello")
        assert await inside_reader.readexactly(5) == b"HELLO"
        assert [await reader.read() for reader, _ in crowd[:90]] == [b""] * 90
        for _, writer in [*crowd, (None, inside)]:
            writer.close()


async def test_resets_and_scans_leave_nothing(sides):
    """Five hundred that connect and reset: no task, no descriptor more than before."""
    async with listening(tls=sides[0]) as address:
        assert await ask(address, ssl=sides[1], server_hostname="host") == b"HELLO"
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(500):
            with socket.socket() as client:
                client.setblocking(False)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.connect_ex(address)
            await asyncio.sleep(0)
        assert await ask(address, ssl=sides[1], server_hostname="host") == b"HELLO"
        await anyio.wait_all_tasks_blocked()
        assert len(os.listdir("/proc/self/fd")) <= before + 1


class Accepting:
    """A listener whose next accept fails with ERROR, as accept(2) may; then it is itself."""

    def __init__(self, listener, *errors):
        self.listener, self.errors = listener, list(errors)

    def fileno(self):
        return self.listener.fileno()

    def accept(self):
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        return self.listener.accept()


@pytest.mark.parametrize(
    "number",
    [
        *(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED, errno.EPROTO, errno.EPERM),
        *(errno.ENETDOWN, errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.EINTR),
    ],
    ids=errno.errorcode.get,
)
async def test_errors_of_accept_end_nothing(number):
    """Whatever accept(2) lists as one connection's trouble, or as a lack that passes."""
    with socket.create_server(("127.0.0.1", 0)) as listener, anyio.fail_after(20):
        listener.setblocking(False)
        async with anyio.create_task_group() as group:
            group.start_soon(serve, Accepting(listener, *[number] * 3), echo)
            assert b"HELLO" in [await _try(listener.getsockname()) for _ in range(3)]
            group.cancel_scope.cancel()


async def _try(address):
    try:
        return await ask(address)
    except (OSError, asyncio.IncompleteReadError):
        return b""


SCARCE = """
import resource, socket, sys
import anyio
from moat_core.listen import serve, Limits
sys.path.insert(0, {tests!r})
from test_listen_serve import echo

async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        listener.setblocking(False)
        async with anyio.create_task_group() as group:
            group.start_soon(run, listener)
            print(listener.getsockname()[1], flush=True)
            await anyio.to_thread.run_sync(sys.stdin.readline)
            group.cancel_scope.cancel()

async def run(listener):
    await serve(listener, echo, limits=Unfit())

class Unfit(Limits):
    def fit(self, files):
        return Limits(inside=10_000, inside_of_peer=10_000)

anyio.run(main)
"""


async def test_without_descriptors_it_goes_on():
    """A process of 80 descriptors, as if it did not count: who is too much reads an end, and later ones are served."""
    program = SCARCE.format(tests=str(Path(__file__).parent))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(30):
        address = ("127.0.0.1", int(await process.stdout.readline()))
        crowd = [await asyncio.open_connection(*address) for _ in range(300)]
        ends = [asyncio.create_task(reader.read(1)) for reader, _ in crowd]
        for end in asyncio.as_completed(ends):
            assert await end == b""
            if sum(each.done() for each in ends) >= 200:
                break
        for each in ends:
            each.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
        for _, writer in crowd:
            writer.transport.abort()
        while await _try(address) != b"HELLO":
            pass
        process.stdin.write(b"\n")
        _, errors = await process.communicate()
        assert process.returncode == 0, errors


async def test_a_loop_of_its_own_accepts_for_protocols():
    """And hangs up its listeners at the end."""

    class Shout(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data.upper())

    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    async with open_servers([listener], Shout):
        assert await ask(address) == b"HELLO"
    with pytest.raises(ConnectionRefusedError):
        await ask(address)
    gc.collect()


def test_nothing_else_accepts():
    """A listener that somebody adds elsewhere would have none of this."""
    accepting = re.compile(
        r"\.accept\(\)|sock_accept|start_(unix_)?server|create_(unix_)?server|create_tcp_listener|create_unix_listener"
        r"|\.serve_forever|socketserver|http\.server"
    )
    found = {
        str(path.relative_to(ROOT)): words
        for package in ("moat_core", "moat_plugins")
        for path in (ROOT / package).rglob("*.py")
        if (words := accepting.findall(path.read_text()))
    }
    assert set(found) == {"moat_core/listen/serve.py"}
