"""Connections: addresses, upgrades and every way in which they fail."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import attrs
import pytest
from fake_daemon import FakeDaemon

from moat_plugins.buildkit import dial
from moat_plugins.buildkit.client import BuildKit
from moat_plugins.buildkit.dial import find_endpoint, open_grpc, open_session
from moat_plugins.buildkit.errors import BuildKitUnavailable
from moat_plugins.buildkit.transport import StreamTransport


@pytest.mark.parametrize("address", ["", "x", "http://a:1", "tcp://a", "tcp://a:b", "docker+ssh://a", "unix://"])
def test_bad_addresses_are_told(address):
    """In one sentence with what would do."""
    with pytest.raises(BuildKitUnavailable) as caught:
        find_endpoint(address)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("address", "version", "upgrades"),
    [
        ("tcp://[::1]:1", None, False),
        ("unix:///a", None, False),
        ("docker+unix:///a", None, True),
        ("docker+unix:///a", (1, 52), True),
        ("docker+unix:///a", (1, 53), False),
        ("docker+tcp://a:2", (1, 45), True),
    ],
)
def test_who_is_upgraded(address, version, upgrades):
    """Engines, up to the API that serves gRPC at once."""
    assert attrs.evolve(find_endpoint(address), version=version).upgrades is upgrades


@asynccontextmanager
async def answering(path, answer):
    """An engine that answers any request with these bytes and keeps the connection."""
    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as group:
        asked = []

        async def accept():
            async with await listener.accept() as stream:
                asked.append(await stream.receive())
                if answer is not None:
                    await stream.send(answer)
                    await anyio.sleep_forever()

        group.start_soon(accept)
        yield asked
        group.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "404 Not Found"),
        (b"HTTP/1.1 301 Moved\r\n\r\n", "301"),
        (b"SSH-2.0-x\r\n\r\n", "nothing that is HTTP"),
        (b"x" * 70000, "headers"),
        (None, "answers"),
    ],
)
async def test_a_refused_upgrade_is_told(tmp_path, answer, words):
    """With what was answered."""
    path = str(tmp_path / "s")
    with anyio.fail_after(20):
        async with answering(path, answer):
            with pytest.raises(BuildKitUnavailable, match=words):
                await open_grpc(find_endpoint(f"docker+unix://{path}"))


async def test_nothing_there_is_told(tmp_path):
    """No socket, no port."""
    for address in (f"unix://{tmp_path}/no", "tcp://127.0.0.1:1"):
        with pytest.raises(BuildKitUnavailable, match="answers"):
            await open_grpc(find_endpoint(address))


async def test_silence_is_told_as_such(tmp_path, monkeypatch):
    """Who takes the connection and says nothing may be a BuildKit."""
    monkeypatch.setattr(dial, "_TIMEOUT_S", 0.2)
    path = str(tmp_path / "s")
    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as group:

        async def never(stream):
            async with stream:
                await anyio.sleep_forever()

        group.start_soon(listener.serve, never)
        with pytest.raises(BuildKitUnavailable, match=r"did not answer in 0\.2 s"):
            await open_grpc(find_endpoint(f"docker+unix://{path}"))
        group.cancel_scope.cancel()


async def test_what_came_with_the_101_is_kept(tmp_path):
    """The other side's preface may be in the same piece. The session's headers are sent."""
    path = str(tmp_path / "s")
    async with answering(path, b"HTTP/1.1 101 UPGRADED\r\nUpgrade: h2c\r\n\r\nPRI * HTTP/2.0") as asked:
        opened = await open_session(find_endpoint(f"docker+unix://{path}"), [("X-Docker-Expose-Session-Uuid", "me")])
        assert opened is not None
        stream, first = opened
        await stream.aclose()
        assert first == b"PRI * HTTP/2.0"
        assert asked[0].startswith(b"POST /session HTTP/1.1\r\n")
        assert b"X-Docker-Expose-Session-Uuid: me\r\n" in asked[0]


async def test_a_daemon_takes_sessions_otherwise():
    """It has no ``/session``."""
    assert await open_session(find_endpoint("unix:///nowhere"), []) is None


async def test_ready_is_when_the_api_answers(tmp_path):
    """Not before; and a limit names what was answered last."""
    daemon = FakeDaemon(str(tmp_path / "s"))
    with pytest.raises(BuildKitUnavailable, match=r"within 0\.3 s"):
        await BuildKit.wait_until_ready(daemon.address, timeout_s=0.3)
    async with anyio.create_task_group() as group:

        async def later():
            async with daemon.serving():
                await BuildKit.wait_until_ready(daemon.address, timeout_s=20)

        group.start_soon(later)


class _Recorder:
    """An asyncio protocol that remembers."""

    def __init__(self):
        self.seen = []
        self.lost = anyio.Event()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.seen.append(data)

    def pause_writing(self):
        self.seen.append("pause")

    def resume_writing(self):
        self.seen.append("resume")

    def connection_lost(self, error):
        self.seen.append(("lost", error))
        self.lost.set()


async def test_a_slow_peer_pauses_the_protocol(tmp_path):
    """Memory stays bounded, every byte arrives, and the end is told once."""
    path = str(tmp_path / "s")
    async with await anyio.create_unix_listener(path) as listener:
        stream = await anyio.connect_unix(path)
        peer = await listener.accept()
        protocol = _Recorder()
        transport = StreamTransport(stream, protocol)
        pieces = [bytes([n % 256]) * 65536 for n in range(64)]
        for piece in pieces:
            transport.write(piece)
        assert protocol.seen == ["pause"]
        got = bytearray()
        with anyio.fail_after(20):
            while len(got) < 64 * 65536:
                got += await peer.receive()
            assert bytes(got) == b"".join(pieces)
            assert protocol.seen == ["pause", "resume"]
            await peer.send(b"hello")
            await peer.aclose()
            await protocol.lost.wait()
        assert protocol.seen[2:] == [b"hello", ("lost", None)]
        await transport.aclose()
        assert protocol.seen[4:] == []
