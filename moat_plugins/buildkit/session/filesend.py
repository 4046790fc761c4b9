"""``FileSend/DiffCopy``: results that come to us. Archives are bytes; a ``local`` export is files, as in `filesync`.

The sender is not trusted: a path may not leave the folder, and no file is written through a link. Source: fsutil's
receive.go; exporters are told apart by the metadata ``buildkit-attachable-exporter-id``, their place in the request.
"""

from __future__ import annotations

import os
import stat as modes
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import attrs
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from moat_core.host_tree import write_all
from moat_plugins.buildkit.errors import ExportError
from moat_plugins.buildkit.places import open_folder
from moat_plugins.buildkit.wire.codec import Message
from moat_plugins.buildkit.wire.control import BytesMessage
from moat_plugins.buildkit.wire.session import Packet, PacketType, Stat

if TYPE_CHECKING:
    from moat_core.host_path import IsShared
    from moat_core.host_tree import HostTree
    from moat_plugins.buildkit.h2 import Method

__all__ = ["Sink", "methods"]

Sink = Callable[[bytes], Awaitable[None]]
"""Takes a piece of an archive."""

_DIR, _LINK, _PIPE, _SPECIAL = 1 << 31, 1 << 27, 1 << 25, 1 << 26 | 1 << 24 | 1 << 21
_SET_BITS = ((1 << 23, modes.S_ISUID), (1 << 22, modes.S_ISGID), (1 << 20, modes.S_ISVTX))
_MOST_ENTRIES = 2_000_000
_MOST_OPEN = 64


@attrs.define
class _Raw(Message):
    """A message as it came: what it is depends on the exporter."""

    data: bytes = attrs.field(default=b"", metadata={"moat_wire": (0, "bytes", False)})

    def encode(self) -> bytes:
        return self.data

    @classmethod
    def decode(cls, data: bytes) -> _Raw:
        return cls(data)


def methods(
    targets: Mapping[str, Sink | Path], fail: Callable[[Exception], None], given: IsShared | None = None
) -> dict[str, Method]:
    """Return the service for TARGETS: the exporter's number -> a sink for its archive, or a folder for its files.

    Args:
        targets: See above.
        given: Tells which folders runs were given to write to, see `places`.
        fail: Told why, when a result cannot be taken; whatever a sink raises is told as it is.
    """
    if not targets:
        return {}

    async def diff_copy(stream: Any) -> None:
        number = stream.metadata.get("buildkit-attachable-exporter-id")
        if number is None and len(targets) == 1:  # a daemon that knows one exporter a build
            number = next(iter(targets))
        target = targets.get(number or "")
        if target is None:
            raise GRPCError(Status.NOT_FOUND, f"there is no exporter {number!r}")
        try:
            if isinstance(target, Path):
                with ExitStack() as stack:
                    tree = await anyio.to_thread.run_sync(stack.enter_context, open_folder(target, given))
                    await _Receiving(stream, tree).run()
            else:
                while (raw := await stream.recv_message()) is not None:
                    await target(BytesMessage.decode(raw.data).data)
        except (OSError, ValueError) as error:
            text = f"the result cannot be written: {error} {getattr(error, 'hint', '')}".rstrip()
            fail(ExportError(text))
            raise GRPCError(Status.UNKNOWN, text) from None
        except (GRPCError, StreamTerminatedError):
            raise
        except Exception as error:  # noqa: BLE001 - the sink's own
            fail(error)
            raise GRPCError(Status.UNKNOWN, "the result was not taken") from None

    return {"/moby.filesync.v1.FileSend/DiffCopy": (diff_copy, _Raw, _Raw)}


class _Receiving:
    """One ``local`` export."""

    def __init__(self, stream: Any, tree: HostTree) -> None:
        self._stream, self._tree = stream, tree
        self._stats: list[Stat] = []
        self._asked: dict[int, tuple[int, int]] = {}
        self._open: dict[int, int] = {}

    async def run(self) -> None:
        try:
            await self._receive()
            # Folders' modes and times come last: what is written in them changes those. But before the end is told:
            # then the build is over, and so are we.
            await anyio.to_thread.run_sync(self._finish_folders)
            await self._send(Packet(type=PacketType.FIN))
            while (await self._next()).type != PacketType.FIN:
                pass
        finally:
            for file in self._open.values():
                os.close(file)

    async def _receive(self) -> None:
        listed = False
        while True:
            packet = await self._next()
            if packet.type == PacketType.STAT and packet.stat is not None:
                await self._entry(packet.stat)
            elif packet.type == PacketType.STAT:
                listed = True
            elif packet.type == PacketType.DATA:
                await self._data(packet)
            elif packet.type == PacketType.ERR:
                raise ValueError(packet.data.decode("utf-8", "replace"))
            if listed and not self._asked:
                break

    def _finish_folders(self) -> None:
        for each in reversed(self._stats):
            if each.mode & _DIR:
                _finish_folder(self._tree, each)

    async def _next(self) -> Packet:
        raw = await self._stream.recv_message()
        if raw is None:
            raise ValueError("the daemon broke the export off")
        return Packet.decode(raw.data)

    async def _send(self, packet: Packet) -> None:
        await self._stream.send_message(_Raw(packet.encode()))

    async def _entry(self, entry: Stat) -> None:
        number = len(self._stats)
        if number >= _MOST_ENTRIES:
            raise ValueError(f"it has more than {_MOST_ENTRIES} entries")
        self._stats.append(entry)
        made = await anyio.to_thread.run_sync(_make, self._tree, entry)
        if made is not None:
            self._asked[number] = made
            await self._send(Packet(type=PacketType.REQ, id=number))

    async def _data(self, packet: Packet) -> None:
        """Write what came of a file; it is open from its first piece to its last only."""
        if packet.id not in self._asked:
            raise ValueError("it sent a file that was not asked for")
        entry = self._stats[packet.id]
        file = self._open.get(packet.id)
        if file is None:
            if len(self._open) >= _MOST_OPEN:
                raise ValueError("it sends too many files at once")
            file = await anyio.to_thread.run_sync(self._tree.open_file, entry.path, self._asked[packet.id])
            self._open[packet.id] = file
        if packet.data:
            await anyio.to_thread.run_sync(write_all, file, packet.data)
            return
        del self._asked[packet.id]
        del self._open[packet.id]
        os.fchmod(file, _mode(entry))
        os.utime(file, ns=(entry.mod_time, entry.mod_time))
        os.close(file)


def _make(tree: HostTree, entry: Stat) -> tuple[int, int] | None:
    """Make an entry; return what a file is known by whose content is to be asked for."""
    if entry.mode & _DIR:
        tree.make_folder(entry.path, 0o700)
    elif entry.mode & _SPECIAL:
        pass  # a device: only root could make one, and nobody wants it
    elif entry.mode & _PIPE:
        tree.make_pipe(entry.path, entry.mode & 0o777)
    elif entry.mode & _LINK:
        tree.make_link(entry.path, entry.linkname)
        tree.stamp_link(entry.path, entry.mod_time)
    elif entry.linkname:
        tree.make_name(entry.path, entry.linkname)
    else:
        file = tree.make_file(entry.path)
        found = os.fstat(file)
        os.close(file)
        return found.st_dev, found.st_ino
    return None


def _finish_folder(tree: HostTree, entry: Stat) -> None:
    made = tree.open_folder(entry.path)
    try:
        os.fchmod(made, _mode(entry))
        os.utime(made, ns=(entry.mod_time, entry.mod_time))
    finally:
        os.close(made)


def _mode(entry: Stat) -> int:
    mode = entry.mode & 0o777
    for bit, flag in _SET_BITS:
        mode |= flag if entry.mode & bit else 0
    return mode
