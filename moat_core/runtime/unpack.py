"""Unpacking a tar archive that code nobody trusts has written.

`tarfile`'s own filter for data refuses absolute names, names and links that lead outside, devices and set-uid bits.
It asks the file system where a link leads, and on Pythons before 3.11.13 and 3.12.11 a long chain of links in the
archive can make that answer wrong (CVE-2025-4517 and its siblings). So that it does not matter, links are made last,
when nothing is written through them any more, and no link of the archive may lead through another one of it: where
each leads can then be told from its text alone.
"""

from __future__ import annotations

import posixpath
import tarfile
from typing import TYPE_CHECKING

from moat_core.errors import SandboxError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO

__all__ = ["unpack"]

_MEMBERS = 250_000
"""The most entries: each takes about a kilobyte of memory here, and a file or folder on the host."""
_NAME_BYTES = 2048


def unpack(archive: IO[bytes], folder: Path) -> None:
    """Unpack ARCHIVE (plain tar) into FOLDER, which exists.

    Raises:
        SandboxError: It is broken, too large, or wants to reach outside FOLDER.
    """
    try:
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            tar.extractall(folder, members=_safe_members(tar), filter="data")
    except (tarfile.TarError, ValueError, KeyError, OverflowError, EOFError, RecursionError) as error:
        raise SandboxError(f"What the run sent cannot be unpacked: {error}") from error


def _safe_members(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """Return what may be made: files and folders first, symbolic links last."""
    members: list[tarfile.TarInfo] = []
    for member in tar:
        members.append(member)
        if len(members) > _MEMBERS:
            raise SandboxError(f"What the run sent has more than {_MEMBERS} files.", hint="Pack them inside first.")
        if max(len(member.name.encode(errors="replace")), len(member.linkname.encode(errors="replace"))) > _NAME_BYTES:
            raise SandboxError("What the run sent has a path that is too long.")
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
    return sorted(members, key=lambda member: member.issym())


def _check_way(path: str, links: set[str], name: str) -> None:
    """Refuse a PATH that leaves the folder or leads through one of LINKS before its last part."""
    way = "/" if path.startswith("/") else "."
    for part in path.split("/"):
        if way in links:
            raise SandboxError(f"What the run sent has {name!r} behind a link of its own.")
        way = posixpath.normpath(posixpath.join(way, part))
        if way == ".." or way.startswith(("../", "/")):
            raise SandboxError(f"What the run sent has {name!r}, which leads outside the folder.")
