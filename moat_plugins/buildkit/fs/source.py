"""Where a build's files come from: a folder, or memory."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import platform
import posixpath
import stat
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import BinaryIO, Protocol

import attrs

__all__ = ["DiskSource", "Entry", "MemorySource", "Source"]

_FOLDER = 1 << 31
_FILE_MODE, _FOLDER_MODE = 0o644, 0o755
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


@attrs.define
class Entry:
    """One file, folder or link.

    Args:
        path: From the root, with ``/``, in bytes: names need not be UTF-8.
        mode: Go's FileMode.
        linkname: Where a symbolic link leads, or the name under which the same file was sent before.
        device: A device's number, as in ``st_rdev``.
    """

    path: bytes
    mode: int
    size: int = 0
    mtime_ns: int = 0
    linkname: bytes = b""
    xattrs: Mapping[str, bytes] = MappingProxyType({})
    device: int = 0


class Source(Protocol):
    """Files to build from. All methods may block: they are called in a thread."""

    @property
    def shared_key(self) -> str:
        """What stands for this place in the daemon's cache of it.

        The daemon compares metadata only, so two places with one key may get each other's files.
        """

    def walk(self, *, includes: Sequence[str], excludes: Sequence[str], follow: Sequence[str]) -> Iterator[Entry]:
        """Yield the entries that the patterns leave, in the order of `walk.walk`."""

    def open(self, path: bytes) -> BinaryIO:
        """Open a file that `walk` has yielded."""


def _absolute(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(os.fspath(path))


@attrs.frozen
class DiskSource:
    """A folder."""

    root: str = attrs.field(converter=_absolute)

    @property
    def shared_key(self) -> str:
        """See `Source`: this machine, this user, this folder."""
        return _digest(f"{platform.node()}\0{os.getuid()}\0{self.root}".encode("utf-8", "surrogateescape"))

    def walk(self, *, includes: Sequence[str], excludes: Sequence[str], follow: Sequence[str]) -> Iterator[Entry]:
        """See `Source`."""
        from moat_plugins.buildkit.fs.walk import walk  # it needs `Entry`

        return walk(self.root, includes, excludes, follow)

    def open(self, path: bytes) -> BinaryIO:
        """See `Source`. What became a link or a pipe since it was listed is not followed, and does not block.

        Nor a folder above it: whoever else can write there would have any file of ours sent.
        """
        *folders, name = path.split(b"/")
        here = os.open(self.root, _FOLDER_FLAGS)
        try:
            for folder in folders:
                try:
                    there = os.open(folder, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=here)
                except NotADirectoryError:  # a link by now: what was listed has gone
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(path)) from None
                os.close(here)
                here = there
            try:
                return os.fdopen(os.open(name, _FILE_FLAGS, dir_fd=here), "rb", buffering=0)
            except OSError as error:
                if _is_special(name, here):
                    return io.BytesIO()  # a socket: the receiver asks for it as for an empty file
                error.filename = os.path.join(os.fsencode(self.root), path)
                raise
        finally:
            os.close(here)


def _is_special(name: bytes, folder: int) -> bool:
    try:
        return not stat.S_ISREG(os.lstat(name, dir_fd=folder).st_mode)
    except OSError:
        return False


@attrs.frozen
class MemorySource:
    """Files in memory, by path. All times are zero, so that the same files are the same context.

    Raises:
        ValueError: A path is not one from the root, as ``src/a.py`` is, or goes through another file.
    """

    files: Mapping[str, bytes] = attrs.field()

    @files.validator
    def _check(self, _: object, files: Mapping[str, bytes]) -> None:
        for path in files:
            if path != posixpath.normpath(path) or path.startswith(("/", "../")) or path in {"", ".", ".."}:
                raise ValueError(f"{path!r} is no path from the context's root, as 'src/a.py' is")
            parents = path.split("/")[:-1]
            if any("/".join(parents[: number + 1]) in files for number in range(len(parents))):
                raise ValueError(f"{path!r} is in a file")

    @property
    def shared_key(self) -> str:
        """See `Source`: the content itself, since neither sizes nor times tell two versions apart."""
        digest = hashlib.sha256()
        for path, data in sorted(self.files.items()):
            digest.update(_digest(path.encode("utf-8", "surrogateescape")).encode())
            digest.update(_digest(data).encode())
        return digest.hexdigest()

    def walk(self, *, includes: Sequence[str], excludes: Sequence[str], follow: Sequence[str]) -> Iterator[Entry]:
        """See `Source`. There are no links in memory: what is followed is what is included."""
        from moat_plugins.buildkit.fs.patterns import Patterns

        followed = [posixpath.normpath("/" + path).lstrip("/") or "." for path in follow]
        wanted = [] if "." in followed else [*includes, *followed]
        only = Patterns(wanted) if wanted else None
        out = Patterns(excludes)
        sent: set[str] = set()
        for path in sorted(self.files, key=lambda each: [os.fsencode(part) for part in each.split("/")]):
            parts = path.split("/")
            kept = False
            in_state: tuple[bool, ...] = ()
            out_state: tuple[bool, ...] = ()
            folders = []
            for number in range(1, len(parts) + 1):
                name = "/".join(parts[:number])
                kept, in_state = (True, ()) if only is None else only.match(name, in_state)
                left_out, out_state = out.match(name, out_state)
                kept = kept and not left_out
                folders.append(name)
            if not kept:
                continue
            for folder in folders[:-1]:
                if folder not in sent:
                    sent.add(folder)
                    yield Entry(os.fsencode(folder), _FOLDER | _FOLDER_MODE)
            yield Entry(os.fsencode(path), _FILE_MODE, len(self.files[path]))

    def open(self, path: bytes) -> BinaryIO:
        """See `Source`."""
        return io.BytesIO(self.files[os.fsdecode(path)])


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
