"""A folder's entries as file sync wants them: depth first, names sorted as bytes, a folder before its content.

Nothing is followed: a link is an entry. Of several names of one file the later ones say which sent name was the first.
"""

from __future__ import annotations

import functools
import operator
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress

import attrs

from moat_plugins.buildkit.fs.follow import follow_paths
from moat_plugins.buildkit.fs.patterns import Patterns, State
from moat_plugins.buildkit.fs.source import Entry

__all__ = ["walk"]

_TYPES = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 0,  # the receiver takes it for an empty file
    stat.S_IFREG: 0,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
}
_KIND = 0o170000
_DEVICES = frozenset({stat.S_IFBLK, stat.S_IFCHR})
_name = operator.attrgetter("name")
_SET_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


@functools.cache
def _go_mode(mode: int) -> int:
    """Turn a mode of Unix into Go's FileMode."""
    made = stat.S_IMODE(mode) & 0o777 | _TYPES[stat.S_IFMT(mode)]
    for ours, theirs in _SET_BITS:
        made |= theirs if mode & ours else 0
    return made


def _list_attributes(path: bytes) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except (AttributeError, OSError):
        return []  # this system or this file system knows none


def _read_attributes(path: bytes, names: list[str]) -> dict[str, bytes]:
    """Return those that we may read, as the docker command does."""
    found = {}
    for name in names:
        with suppress(OSError):
            found[name] = os.getxattr(path, name, follow_symlinks=False)
    return found


def _named(error: OSError) -> OSError:
    """Say the file's name as people know it."""
    return OSError(error.errno, error.strerror, os.fsdecode(error.filename)) if error.filename else error


@attrs.define
class _Folder:
    """One that is being listed.

    Args:
        left: What of it has not been looked at.
        waiting: Itself, if it was left out: it is sent if something in it is not.
    """

    path: bytes
    left: Iterator[os.DirEntry[bytes]] = attrs.field(factory=lambda: iter(()))
    included: State = ()
    excluded: State = ()
    waiting: Entry | None = None


class _Walk:
    def __init__(self, root: str, includes: Patterns | None, excludes: Patterns) -> None:
        self._root = os.fsencode(root)
        self._includes, self._excludes = includes, excludes
        self._has_patterns = includes is not None or bool(excludes)
        self._first: dict[tuple[int, int], bytes] = {}
        # Folders that were left out themselves: each is sent if something in it is not.
        self._waiting: list[Entry] = []

    def run(self) -> Iterator[Entry]:
        """Yield the entries, from a stack of folders: they may be nested deeper than functions can be."""
        stack = [_Folder(b"", iter(self._list(b"")))]
        while stack:
            folder = stack[-1]
            each = next(folder.left, None)
            if each is None:
                stack.pop()
                if folder.waiting is not None and self._waiting and self._waiting[-1] is folder.waiting:
                    self._waiting.pop()
                continue
            found = self._look(folder, each)
            if found is None:
                continue
            entry, info = found
            is_folder = stat.S_ISDIR(info.st_mode)
            below = _Folder(entry.path)
            if self._has_patterns:
                is_sent, goes_on = self._choose(entry, folder, below, is_folder=is_folder)
            else:
                is_sent, goes_on = True, is_folder
            if is_sent:
                yield from self._waiting
                self._waiting.clear()
                if info.st_nlink > 1 and not is_folder and not entry.linkname:
                    self._link(entry, info)
                yield entry
            elif goes_on:
                self._waiting.append(entry)
                below.waiting = entry
            if goes_on:
                below.left = iter(self._list(entry.path))
                stack.append(below)

    def _look(self, folder: _Folder, each: os.DirEntry[bytes]) -> tuple[Entry, os.stat_result] | None:
        """Return what is known of an entry, unless it has gone since it was listed."""
        try:
            info = each.stat(follow_symlinks=False)
            kind = info.st_mode & _KIND
            target = os.readlink(each.path) if kind == stat.S_IFLNK else b""
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _named(error) from None
        path = folder.path + b"/" + each.name if folder.path else each.name
        size = info.st_size if kind == stat.S_IFREG else 0
        entry = Entry(path, _go_mode(info.st_mode), size, info.st_mtime_ns, target)
        if kind in _DEVICES:
            entry.device = info.st_rdev
        if names := _list_attributes(each.path):
            entry.xattrs = _read_attributes(each.path, names)
        return entry, info

    def _list(self, folder: bytes) -> list[os.DirEntry[bytes]]:
        """Return what is in FOLDER, which may have gone since it was listed itself."""
        try:
            with os.scandir(os.path.join(self._root, folder) if folder else self._root) as found:
                return sorted(found, key=_name)
        except (FileNotFoundError, NotADirectoryError):
            if folder:
                return []
            raise
        except OSError as error:
            raise _named(error) from None

    def _choose(self, entry: Entry, folder: _Folder, below: _Folder, *, is_folder: bool) -> tuple[bool, bool]:
        """Tell whether the patterns leave ENTRY, and whether they may leave something in it."""
        path = os.fsdecode(entry.path)
        wanted = True
        if self._includes is not None:
            wanted, below.included = self._includes.match(path, folder.included)
        unwanted, below.excluded = self._excludes.match(path, folder.excluded)
        if wanted and not unwanted:
            return True, is_folder
        return False, is_folder and self._may_hold(path, wanted=wanted, unwanted=unwanted)

    def _link(self, entry: Entry, info: os.stat_result) -> None:
        """Make ENTRY a hard link, if another name of its file was sent before."""
        first = self._first.setdefault((info.st_dev, info.st_ino), entry.path)
        if first != entry.path:
            entry.linkname, entry.size = first, 0

    def _may_hold(self, path: str, *, wanted: bool, unwanted: bool) -> bool:
        if unwanted and not self._excludes.may_except_below(path):
            return False
        return wanted or self._includes is None or self._includes.may_match_below(path)


def walk(root: str, includes: Sequence[str], excludes: Sequence[str], follow: Sequence[str]) -> Iterator[Entry]:
    """Yield the entries of ROOT that the patterns leave.

    Raises:
        OSError: A folder cannot be read.
        ValueError: A pattern is malformed.
    """
    wanted = list(includes)
    only: Patterns | None = None
    if follow:
        followed = follow_paths(root, follow)
        wanted = [] if followed is None else [*wanted, *followed]
    if wanted:
        only = Patterns(wanted)
    return _Walk(root, only, Patterns(excludes)).run()
