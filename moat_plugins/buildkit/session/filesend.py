"""``FileSend/DiffCopy``: results that come to us. Archives are bytes; a ``local`` export is files, as in `filesync`.

The sender is not trusted: a path may not leave the folder, and no file is written through a link. Source: fsutil's
receive.go; exporters are told apart by the metadata ``buildkit-attachable-exporter-id``, their place in the request.
"""

from __future__ import annotations

import os
import stat as modes
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import attrs
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from moat_plugins.buildkit.errors import ExportError
from moat_plugins.buildkit.wire.codec import Message
from moat_plugins.buildkit.wire.control import BytesMessage
from moat_plugins.buildkit.wire.session import Packet, PacketType, Stat

if TYPE_CHECKING:
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


def methods(targets: Mapping[str, Sink | Path], fail: Callable[[Exception], None]) -> dict[str, Method]:
    """Return the service for TARGETS: the exporter's number -> a sink for its archive, or a folder for its files.

    Args:
        targets: See above.
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
                await _Receiving(stream, target).run()
            else:
                while (raw := await stream.recv_message()) is not None:
                    await target(BytesMessage.decode(raw.data).data)
        except (OSError, ValueError) as error:
            text = f"the result cannot be written: {error}"
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

    def __init__(self, stream: Any, root: Path) -> None:
        self._stream, self._root = stream, root
        self._stats: list[Stat] = []
        self._root_fd = -1
        self._asked: set[int] = set()
        self._open: dict[int, int] = {}

    async def run(self) -> None:
        await anyio.to_thread.run_sync(lambda: self._root.mkdir(parents=True, exist_ok=True))
        self._root_fd = root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            await self._receive(root)
            # Folders' modes and times come last: what is written in them changes those. But before the end is told:
            # then the build is over, and so are we.
            await anyio.to_thread.run_sync(self._finish_folders, root)
            await self._send(Packet(type=PacketType.FIN))
            while (await self._next()).type != PacketType.FIN:
                pass
        finally:
            for file in self._open.values():
                os.close(file)
            os.close(root)

    async def _receive(self, root: int) -> None:
        listed = False
        while True:
            packet = await self._next()
            if packet.type == PacketType.STAT and packet.stat is not None:
                await self._entry(root, packet.stat)
            elif packet.type == PacketType.STAT:
                listed = True
            elif packet.type == PacketType.DATA:
                await self._data(packet)
            elif packet.type == PacketType.ERR:
                raise ValueError(packet.data.decode("utf-8", "replace"))
            if listed and not self._asked:
                break

    def _finish_folders(self, root: int) -> None:
        for each in reversed(self._stats):
            if each.mode & _DIR:
                _finish_folder(root, each)

    async def _next(self) -> Packet:
        raw = await self._stream.recv_message()
        if raw is None:
            raise ValueError("the daemon broke the export off")
        return Packet.decode(raw.data)

    async def _send(self, packet: Packet) -> None:
        await self._stream.send_message(_Raw(packet.encode()))

    async def _entry(self, root: int, entry: Stat) -> None:
        number = len(self._stats)
        if number >= _MOST_ENTRIES:
            raise ValueError(f"it has more than {_MOST_ENTRIES} entries")
        self._stats.append(entry)
        if await anyio.to_thread.run_sync(_make, root, entry):
            self._asked.add(number)
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
            file = await anyio.to_thread.run_sync(_open_again, self._root_fd, entry.path)
            self._open[packet.id] = file
        if packet.data:
            await anyio.to_thread.run_sync(_write_all, file, packet.data)
            return
        self._asked.remove(packet.id)
        del self._open[packet.id]
        os.fchmod(file, _mode(entry))
        os.utime(file, ns=(entry.mod_time, entry.mod_time))
        os.close(file)


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _parent(root: int, path: bytes) -> tuple[int, bytes]:
    """Open the folder that PATH is in, through no link, and return it with the name."""
    parts = path.split(b"/")
    if not path or any(part in {b"", b".", b".."} for part in parts) or b"\0" in path:
        raise ValueError(f"it names {os.fsdecode(path)!r}")
    folder = os.dup(root)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
    except BaseException:
        os.close(folder)
        raise
    return folder, parts[-1]


def _open_again(root: int, path: bytes) -> int:
    """Open a file that was made, unless something else has taken its place."""
    folder, name = _parent(root, path)
    try:
        return os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)


def _make(root: int, entry: Stat) -> bool:
    """Make an entry; return whether its content is to be asked for."""
    folder, name = _parent(root, entry.path)
    try:
        if entry.mode & _DIR:
            _remove(folder, name, keep_folder=True)
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=folder)
            return False
        if entry.mode & _SPECIAL:
            return False  # a device: only root could make one, and nobody wants it
        _remove(folder, name)
        if entry.mode & _PIPE:
            os.mkfifo(name, entry.mode & 0o777, dir_fd=folder)
            return False
        if entry.mode & _LINK:
            os.symlink(entry.linkname, name, dir_fd=folder)
            os.utime(name, ns=(entry.mod_time, entry.mod_time), dir_fd=folder, follow_symlinks=False)
            return False
        if entry.linkname:
            other, first = _parent(root, entry.linkname)
            try:
                os.link(first, name, src_dir_fd=other, dst_dir_fd=folder, follow_symlinks=False)
            finally:
                os.close(other)
            return False
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder))
        return True
    finally:
        os.close(folder)


def _remove(folder: int, name: bytes, *, keep_folder: bool = False) -> None:
    """Remove what is in the way: never a folder with something in it."""
    try:
        found = os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return
    if modes.S_ISDIR(found.st_mode):
        if not keep_folder:
            os.rmdir(name, dir_fd=folder)
        return
    os.unlink(name, dir_fd=folder)


def _finish_folder(root: int, entry: Stat) -> None:
    folder, name = _parent(root, entry.path)
    try:
        made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
        try:
            os.fchmod(made, _mode(entry))
            os.utime(made, ns=(entry.mod_time, entry.mod_time))
        finally:
            os.close(made)
    finally:
        os.close(folder)


def _mode(entry: Stat) -> int:
    mode = entry.mode & 0o777
    for bit, flag in _SET_BITS:
        mode |= flag if entry.mode & bit else 0
    return mode
