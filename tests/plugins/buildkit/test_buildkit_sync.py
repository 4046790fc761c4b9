"""File sync against a receiver of ours: order, requests in any order, and receivers that misbehave."""

from __future__ import annotations

import random

import anyio
import pytest
from grpclib.exceptions import GRPCError
from multidict import MultiDict

from moat_plugins.buildkit.fs.source import MemorySource
from moat_plugins.buildkit.session import filesync
from moat_plugins.buildkit.wire.session import Packet, PacketType

FILES = {"a": b"", "b/c": b"small", "b/d": b"x" * 200_000, "large": bytes(range(256)) * 8000}


class Receiver:
    """The daemon's side: asks for all files once the list is complete, in the order of SHUFFLE, then is satisfied."""

    def __init__(self, shuffle=None, **metadata):
        self.metadata = MultiDict([("dir-name", "context"), *metadata.items()])
        self.stats, self.data, self.told, self.open = [], {}, [], set()
        self._send, self._receive = anyio.create_memory_object_stream(1000)
        self._shuffle = shuffle
        self._stream = self
        self._send_initial_metadata_done = True

    async def recv_message(self):
        return await self._receive.receive()

    async def send_message(self, packet):
        await self.take(packet)

    async def send_data(self, batch):
        at = 0
        while at < len(batch):
            size = int.from_bytes(batch[at + 1 : at + 5], "big")
            await self.take(Packet.decode(batch[at + 5 : at + 5 + size]))
            at += 5 + size

    async def take(self, packet):
        self.told.append(packet.type)
        if packet.type == PacketType.STAT and packet.stat is not None:
            self.stats.append(packet.stat)
        elif packet.type == PacketType.STAT:
            wanted = [number for number, stat in enumerate(self.stats) if not stat.mode & 1 << 31]
            (self._shuffle or (lambda _: None))(wanted)
            self.open = set(wanted)
            for number in wanted:
                await self._send.send(Packet(type=PacketType.REQ, id=number))
            if not wanted:
                await self._send.send(Packet(type=PacketType.FIN))
        elif packet.type == PacketType.DATA:
            assert packet.id in self.open
            assert len(packet.data) <= 1024 * 1024
            self.data[packet.id] = self.data.get(packet.id, b"") + packet.data
            if not packet.data:
                self.open.remove(packet.id)
                if not self.open:
                    await self._send.send(Packet(type=PacketType.FIN))

    def close(self):
        self._send.close()
        self._receive.close()


async def serve(receiver, source=None):
    """Serve one call; return why it failed."""
    why = []
    methods = filesync.methods({"context": source or MemorySource(FILES)}, why.append)
    ((handler, *_),) = methods.values()
    try:
        with anyio.fail_after(10):
            await handler(receiver)
    except GRPCError as error:
        why.append(error)
    finally:
        receiver.close()
    return why


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
async def test_everything_arrives(seed):
    """In whatever order it is asked for; folders and files are numbered alike; FIN is answered, once and last."""
    receiver = Receiver(None if seed is None else random.Random(seed).shuffle)
    assert await serve(receiver) == []
    assert [stat.path for stat in receiver.stats] == [b"a", b"b", b"b/c", b"b/d", b"large"]
    assert receiver.data == {0: b"", 2: b"small", 3: FILES["b/d"], 4: FILES["large"]}
    assert (receiver.told.count(PacketType.FIN), receiver.told[-1]) == (1, PacketType.FIN)


async def test_patterns_come_encoded_or_plain():
    """Newer frontends escape them."""
    plain = Receiver(**{"exclude-patterns": "b"})
    assert await serve(plain) == []
    assert [stat.path for stat in plain.stats] == [b"a", b"large"]
    encoded = Receiver(**{"exclude-patterns": "%62", "exclude-patterns-encoded": "1"})
    assert await serve(encoded) == []
    assert [stat.path for stat in encoded.stats] == [b"a", b"large"]


async def test_an_unknown_folder_is_not_found():
    """Nothing else of the machine can be asked for."""
    receiver = Receiver()
    receiver.metadata["dir-name"] = "/etc"
    (error,) = await serve(receiver)
    assert error.status.name == "NOT_FOUND"


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (Packet(type=PacketType.REQ, id=99), "not offered"),
        (Packet(type=PacketType.ERR, data=b"disk full"), "disk full"),
    ],
)
async def test_a_receiver_that_misbehaves_ends_it(packet, words):
    """With a reason, told to it, too."""

    class Misbehaving(Receiver):
        async def take(self, each):
            self.told.append(each.type)
            if each.type == PacketType.STAT and each.stat is None:
                await self._send.send(packet)

    receiver = Misbehaving()
    why = await serve(receiver)
    assert words in why[0].message
    assert receiver.told[-1] == PacketType.ERR


async def test_a_source_that_raises_is_told():
    """As ERR, so that the daemon does not wait for ever."""

    class Broken(MemorySource):
        def open(self, path):
            raise PermissionError(13, "Permission denied", "b/c")

    receiver = Receiver()
    why = await serve(receiver, Broken(FILES))
    assert why[0].message == "b/c: Permission denied"
    assert PacketType.ERR in receiver.told
