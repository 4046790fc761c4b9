"""Unpacking a tar archive that code nobody trusts has written, into a folder where it may be at work as well.

`tarfile` reads it, and its own filter for data says what may be: no absolute names, no names and links that lead
outside, no devices, no set-uid bits. It makes nothing: it would go by paths, and a path that was looked at may lead
elsewhere when it is opened. `moat_core.host_tree` makes things, and holds each folder that it makes them in.

The filter asks the file system where a link leads, and on Pythons before 3.11.13 and 3.12.11 a long chain of links in
the archive can make that answer wrong (CVE-2025-4517 and its siblings). So that it does not matter, links are made
last, when nothing is written through them any more, and no link of the archive may lead through another one of it:
where each leads can then be told from its text alone.

Before anything is made the whole archive is looked through, in bounded memory: `tarfile` reads a header's text, its
map of holes or its attributes at one go, as long as the header says.
"""

from __future__ import annotations

import errno
import math
import os
import posixpath
import tarfile
from contextlib import suppress
from typing import IO, TYPE_CHECKING, cast

from moat_core.errors import SandboxError
from moat_core.host_tree import open_tree, write_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from moat_core.host_tree import HostTree

__all__ = ["unpack"]

_NO_SUCH_LINKS = {errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}
_PIECE_BYTES = 256 * 1024
_MEMBERS = 250_000
"""The most entries: each takes about a kilobyte of memory here, and a file or folder on the host."""
_NAME_BYTES = 2048
_HEADER_BYTES = 64 * 1024
"""What may stand before the content of one entry: long names, extended attributes."""
_TEXT_BYTES = 64 * 1024 * 1024
"""What all entries' names and attributes may have together; they are kept in memory."""


def unpack(archive: IO[bytes], folder: Path, *, only: str = ".", limit_bytes: int | None = None) -> None:
    """Unpack ARCHIVE (plain tar) into FOLDER, which exists.

    Args:
        only: The one name at its top; ``.``: whatever there is. It is made under another name and then renamed, so
            that it appears whole or not at all, unless there is something of that name already.
        limit_bytes: The most that its files may have together, holes counted.

    Raises:
        SandboxError: It is broken, too large, holds something else or wants to reach outside FOLDER.
    """
    bounded = _Bounded(archive)
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", bounded), mode="r:") as tar:
            members = _safe_members(tar, bounded, only, limit_bytes)
            bounded.lift()
            _extract(tar, members, folder, only)
    except (tarfile.TarError, ValueError, KeyError, OverflowError, EOFError, RecursionError) as error:
        raise SandboxError(f"What the run sent cannot be unpacked: {error}") from error


def _extract(tar: tarfile.TarFile, members: list[tarfile.TarInfo], folder: Path, only: str) -> None:
    with open_tree(folder) as tree:
        if only in {".", ".."} or tree.has(only):
            _make(tar, members, tree, folder)
            return
        with tree.scratch() as (partial, name):
            _make(tar, members, partial, folder / name)
            if partial.has(only):
                tree.take(only, partial)


def _make(tar: tarfile.TarFile, members: list[tarfile.TarInfo], tree: HostTree, folder: Path) -> None:
    """Make MEMBERS in TREE, which lies at FOLDER: the filter looks there, and what it finds need not last."""
    made: dict[str, tarfile.TarInfo] = {}  # the file or folder that it is, if it is a link to one of them
    for member in members:
        entry = tarfile.data_filter(member, str(folder))
        name = posixpath.normpath(entry.name)
        made[name] = entry
        if entry.issym() or entry.islnk():
            above = posixpath.dirname(name) if entry.issym() else ""
            made[name] = made.get(posixpath.normpath(posixpath.join(above, entry.linkname)), entry)
            if _is_linked(tree, entry, name, must=made[name] is entry):
                continue
        _make_one(tar, made[name], tree, name)
    # What is made in a folder changes its time.
    for name, entry in sorted(made.items(), key=lambda item: item[0], reverse=True):
        if entry.isdir() and name != ".":
            with suppress(OSError):
                file = tree.open_folder(name)
                try:
                    os.utime(file, (entry.mtime, entry.mtime))
                finally:
                    os.close(file)


def _is_linked(tree: HostTree, entry: tarfile.TarInfo, name: str, *, must: bool) -> bool:
    """Make a link; unless it MUST be, tell that the file system has none: what it leads to takes its place."""
    try:
        if entry.issym():
            tree.make_link(name, entry.linkname)
        else:  # its mode and times are the file's
            tree.make_name(name, posixpath.normpath(entry.linkname))
    except OSError as error:
        if must or error.errno not in _NO_SUCH_LINKS:
            raise
        return False
    return True


def _make_one(tar: tarfile.TarFile, entry: tarfile.TarInfo, tree: HostTree, name: str) -> None:
    if entry.isdir():
        if name != ".":
            tree.make_folder(name)
        return
    file = tree.make_file(name)
    try:
        _copy(tar, entry, file)
        with suppress(OSError):  # not every file system has modes, or times so far away
            os.fchmod(file, entry.mode)
            os.utime(file, (entry.mtime, entry.mtime))
    finally:
        os.close(file)


def _copy(tar: tarfile.TarFile, entry: tarfile.TarInfo, file: int) -> None:
    """Write what ENTRY holds to FILE; holes stay holes."""
    archive = cast("IO[bytes]", tar.fileobj)
    archive.seek(entry.offset_data)
    pieces: list[tuple[int, int]] | None = getattr(entry, "sparse", None)
    for offset, size in [(0, entry.size)] if pieces is None else pieces:
        os.lseek(file, offset, os.SEEK_SET)
        left = size
        while left > 0:
            data = archive.read(min(left, _PIECE_BYTES))
            if not data:
                raise tarfile.ReadError("unexpected end of data")
            write_all(file, data)
            left -= len(data)
    if pieces is not None:
        os.ftruncate(file, entry.size)


class _Bounded:
    """A file that gives its reader no more than a header's worth between two entries.

    Args:
        file: Read by `tarfile`, which skips what files hold by seeking.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left: float = _HEADER_BYTES
        self.tell, self.seek = file.tell, file.seek

    def next_entry(self) -> None:
        """Begin to count anew."""
        self._left = _HEADER_BYTES

    def lift(self) -> None:
        """Bound nothing any more: the headers have been read."""
        self._left = math.inf

    def read(self, size: int = -1) -> bytes:
        """Return the next SIZE bytes.

        Raises:
            SandboxError: That is too much for a header.
        """
        self._left -= size
        if size < 0 or self._left < 0:
            raise SandboxError("What the run sent has a header that is too long.")
        return self._file.read(size)


def _entries(tar: tarfile.TarFile, bounded: _Bounded) -> Iterator[tarfile.TarInfo]:
    """Yield what TAR has in it, and bound what is kept of it."""
    kept = 0
    for number, member in enumerate(tar, 1):
        bounded.next_entry()
        names = [member.name.encode(errors="replace"), member.linkname.encode(errors="replace")]
        if max(map(len, names)) > _NAME_BYTES:
            raise SandboxError("What the run sent has a path that is too long.")
        kept += sum(map(len, names)) + sum(len(key) + len(value) for key, value in member.pax_headers.items())
        kept += 64 * len(getattr(member, "sparse", None) or ())
        if member.size < 0:
            raise SandboxError(f"What the run sent has {member.name!r}, of less than no bytes.")
        if number > _MEMBERS or kept > _TEXT_BYTES:
            raise SandboxError(f"What the run sent has more than {_MEMBERS} files.", hint="Pack them inside first.")
        yield member


def _safe_members(tar: tarfile.TarFile, bounded: _Bounded, only: str, limit_bytes: int | None) -> list[tarfile.TarInfo]:
    """Return what may be made: files and folders first, symbolic links last."""
    members: list[tarfile.TarInfo] = []
    size = 0
    for member in _entries(tar, bounded):
        members.append(member)
        name = posixpath.normpath(member.name)
        if only not in {".", name} and not name.startswith(f"{only}/"):
            raise SandboxError(f"What the run sent has {member.name!r}, which was not asked for.")
        size += member.size
        if limit_bytes is not None and size > limit_bytes:
            raise SandboxError(f"What the run sent has more than {limit_bytes} bytes.", hint="Raise limit_bytes.")
    _check_links(members)
    return sorted(members, key=lambda member: member.issym())


def _check_links(members: list[tarfile.TarInfo]) -> None:
    """Refuse what lies behind a link of the archive's own, or leads outside."""
    links = {posixpath.normpath(member.name) for member in members if member.issym()}
    before: set[str] = set()
    for member in members:
        name = posixpath.normpath(member.name)
        _check_way(posixpath.dirname(member.name), links, member.name)
        if member.issym():
            _check_way(posixpath.join(posixpath.dirname(member.name), member.linkname), links, member.name)
        elif member.islnk():
            _check_way(member.linkname, links, member.name)
            target = posixpath.normpath(member.linkname)
            # Another name of a file that is there by then, or `tarfile` goes looking for it, round in circles perhaps.
            if target in links or target not in before or name in before:
                raise SandboxError(f"What the run sent has {member.name!r}, a hard link to nothing.")
        before.add(name)


def _check_way(path: str, links: set[str], name: str) -> None:
    """Refuse a PATH that leaves the folder or leads through one of LINKS before its last part."""
    way = "/" if path.startswith("/") else "."
    for part in path.split("/"):
        if way in links:
            raise SandboxError(f"What the run sent has {name!r} behind a link of its own.")
        way = posixpath.normpath(posixpath.join(way, part))
        if way == ".." or way.startswith(("../", "/")):
            raise SandboxError(f"What the run sent has {name!r}, which leads outside the folder.")
