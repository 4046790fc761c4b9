"""Unpacking a tar archive that code nobody trusts has written.

`tarfile`'s own filter for data refuses absolute names, names and links that lead outside, devices and set-uid bits.
It asks the file system where a link leads, and on Pythons before 3.11.13 and 3.12.11 a long chain of links in the
archive can make that answer wrong (CVE-2025-4517 and its siblings). So that it does not matter, links are made last,
when nothing is written through them any more, and no link of the archive may lead through another one of it: where
each leads can then be told from its text alone.

Before anything is made the whole archive is looked through, in bounded memory: `tarfile` reads a header's text, its
map of holes or its attributes at one go, as long as the header says.
"""

from __future__ import annotations

import math
import os
import posixpath
import tarfile
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from moat_core.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["unpack"]

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
    if only == "." or os.path.lexists(folder / only):
        tar.extractall(folder, members=members, filter="data")
        return
    with tempfile.TemporaryDirectory(prefix=".moat-", dir=folder, ignore_cleanup_errors=True) as partial:
        tar.extractall(partial, members=members, filter="data")
        if os.path.lexists(made := Path(partial, only)):
            os.rename(made, folder / only)


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
