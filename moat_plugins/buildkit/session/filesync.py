"""``FileSync/DiffCopy``: the context's files, of which the daemon asks for those it has not got.

We send a STAT for each entry, numbered by its place; it answers REQ for what differs from its last copy, and FIN when
it is satisfied. Source: fsutil's send.go and receive.go. Whatever fails here becomes an ERR: a build whose context
ends silently would wait for ever.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote_plus

import anyio
import anyio.to_thread
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from moat_plugins.buildkit.errors import ContextError
from moat_plugins.buildkit.h2 import send_many
from moat_plugins.buildkit.wire.session import Packet, PacketType, Stat, stat_packet

if TYPE_CHECKING:
    from moat_plugins.buildkit.fs.source import Entry, Source
    from moat_plugins.buildkit.h2 import Method

__all__ = ["methods"]

_CHUNK = 512 * 1024
_SMALL = 64 * 1024
_BATCH_BYTES = 1024 * 1024
_BATCH = 1024


def methods(sources: Mapping[str, Source], fail: Callable[[Exception], None]) -> dict[str, Method]:
    """Return the service for SOURCES, by the names that the frontend asks for.

    Args:
        fail: Told why, when something cannot be sent.
    """

    async def diff_copy(stream: Any) -> None:
        name = stream.metadata.get("dir-name", "")
        if name not in sources:
            raise GRPCError(Status.NOT_FOUND, f"no folder {name!r} is shared")
        try:
            await _Sending(stream, sources[name]).run()
        except Exception as raised:  # noqa: BLE001 - whatever a source raises ends the build
            error = _first(raised)
            if isinstance(error, GRPCError | StreamTerminatedError):
                raise error from None
            text = _reason(error)
            fail(ContextError(text) if isinstance(error, OSError | ValueError) else error)
            await stream.send_message(Packet(type=PacketType.ERR, data=text.encode("utf-8", "replace")))
            raise GRPCError(Status.UNKNOWN, text) from None

    return {"/moby.filesync.v1.FileSync/DiffCopy": (diff_copy, Packet, Packet)}


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the context'}: {error.strerror}"
    return str(error)


class _Sending:
    """One call. Two tasks send, the walker and the reader of files; each message is sent whole."""

    def __init__(self, stream: Any, source: Source) -> None:
        self._stream, self._source = stream, source
        self._sent: list[Entry] = []
        self._wanted: asyncio.Queue[int | None] = asyncio.Queue()
        self._sending = anyio.Lock()

    async def run(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._walk)
            group.start_soon(self._send_files)
            await self._receive()
        async with self._sending:
            await self._stream.send_message(Packet(type=PacketType.FIN))

    async def _receive(self) -> None:
        """Take requests until the other side is satisfied."""
        while True:
            packet = await self._stream.recv_message()
            if packet is None:
                raise GRPCError(Status.CANCELLED, "the receiver went away")
            if packet.type == PacketType.REQ:
                if not 0 <= packet.id < len(self._sent):
                    raise ValueError(f"the receiver asked for a file {packet.id} that was not offered")
                self._wanted.put_nowait(packet.id)
            elif packet.type == PacketType.FIN:
                self._wanted.put_nowait(None)
                return
            elif packet.type == PacketType.ERR:
                raise ValueError(f"the receiver failed: {packet.data.decode('utf-8', 'replace')}")

    async def _walk(self) -> None:
        options = {
            name: _values(self._stream.metadata, key)
            for name, key in [
                ("includes", "include-patterns"),
                ("excludes", "exclude-patterns"),
                ("follow", "followpaths"),
            ]
        }
        entries = await anyio.to_thread.run_sync(lambda: iter(self._source.walk(**options)))
        try:
            while batch := await anyio.to_thread.run_sync(_take, entries):
                self._sent += [entry for entry, _ in batch]
                async with self._sending:
                    await send_many(self._stream, [packet for _, packet in batch])
        finally:
            if isinstance(entries, Generator):  # it holds the folders that it is in
                entries.close()
        async with self._sending:
            await self._stream.send_message(Packet(type=PacketType.STAT))

    async def _send_files(self) -> None:
        """Send what is asked for, small files together: a thread and a write for each would cost more than they do."""
        last = False
        while not last:
            numbers = [await self._wanted.get()]
            while len(numbers) < _BATCH and not self._wanted.empty():
                numbers.append(self._wanted.get_nowait())
            last = None in numbers
            wanted = [number for number in numbers if number is not None]
            small = [number for number in wanted if self._sent[number].size <= _SMALL]
            for some in _in_batches(small, self._sent):
                packets, grown = await anyio.to_thread.run_sync(self._read_small, some)
                async with self._sending:
                    await send_many(self._stream, packets)
                for number in grown:
                    await self._send_large(number)
            for number in wanted:
                if self._sent[number].size > _SMALL:
                    await self._send_large(number)

    def _read_small(self, numbers: Sequence[int]) -> tuple[list[bytes], list[int]]:
        """Return the packets for what is small still, and what has grown since it was listed."""
        packets: list[bytes] = []
        grown = []
        for number in numbers:
            try:
                with self._source.open(self._sent[number].path) as file:
                    pieces = list(_read_up_to(file, _SMALL + 1))
            except FileNotFoundError:
                pieces = []  # gone since it was listed: an empty one, as the docker command has it
            if sum(map(len, pieces)) > _SMALL:
                grown.append(number)
                continue
            packets += [Packet(type=PacketType.DATA, id=number, data=data).encode() for data in pieces]
            packets.append(Packet(type=PacketType.DATA, id=number).encode())
        return packets, grown

    async def _send_large(self, number: int) -> None:
        try:
            file = await anyio.to_thread.run_sync(self._source.open, self._sent[number].path)
        except FileNotFoundError:
            file = None
        if file is not None:
            with file:
                while data := await anyio.to_thread.run_sync(file.read, _CHUNK):
                    async with self._sending:
                        await self._stream.send_message(Packet(type=PacketType.DATA, id=number, data=data))
        async with self._sending:
            await self._stream.send_message(Packet(type=PacketType.DATA, id=number))


def _values(metadata: Any, key: str) -> list[str]:
    values: list[str] = metadata.getall(key, [])
    if metadata.get(f"{key}-encoded") == "1":
        return [unquote_plus(value) for value in values]
    return values


def _read_up_to(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0 and (data := file.read(size)):
        size -= len(data)
        yield data


def _take(entries: Iterator[Entry]) -> list[tuple[Entry, bytes]]:
    return [(entry, _encode(entry)) for entry in islice(entries, _BATCH)]


def _in_batches(numbers: Sequence[int], sent: Sequence[Entry]) -> Iterator[list[int]]:
    some: list[int] = []
    size = 0
    for number in numbers:
        some.append(number)
        size += sent[number].size
        if size >= _BATCH_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def _encode(entry: Entry) -> bytes:
    if not entry.xattrs and not entry.device:
        return stat_packet(entry.path, entry.mode, entry.size, entry.mtime_ns, entry.linkname)
    stat = Stat(
        path=entry.path,
        mode=entry.mode,
        size=entry.size,
        mod_time=entry.mtime_ns,
        linkname=entry.linkname,
        devmajor=os.major(entry.device),
        devminor=os.minor(entry.device),
        xattrs=entry.xattrs,
    )
    return Packet(type=PacketType.STAT, stat=stat).encode()
