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


class _Walk:
    def __init__(self, root: str, includes: Patterns | None, excludes: Patterns) -> None:
        self._root = os.fsencode(root)
        self._includes, self._excludes = includes, excludes
        self._has_patterns = includes is not None or bool(excludes)
        self._first: dict[tuple[int, int], bytes] = {}
        # Folders that were left out themselves: each is sent if something in it is not.
        self._waiting: list[Entry] = []

    def run(self, folder: bytes = b"", included: State = (), excluded: State = ()) -> Iterator[Entry]:
        for each in self._list(folder):
            try:
                info = each.stat(follow_symlinks=False)
                kind = info.st_mode & _KIND
                target = os.readlink(each.path) if kind == stat.S_IFLNK else b""
            except (FileNotFoundError, NotADirectoryError):
                continue  # gone since it was listed
            except OSError as error:
                raise _named(error) from None
            path = folder + b"/" + each.name if folder else each.name
            size = info.st_size if kind == stat.S_IFREG else 0
            entry = Entry(path, _go_mode(info.st_mode), size, info.st_mtime_ns, target)
            if kind in _DEVICES:
                entry.device = info.st_rdev
            if names := _list_attributes(each.path):
                entry.xattrs = _read_attributes(each.path, names)
            if self._has_patterns:
                yield from self._choose(entry, info, included, excluded)
                continue
            if info.st_nlink > 1 and kind != stat.S_IFDIR and not target:
                self._link(entry, info)
            yield entry
            if kind == stat.S_IFDIR:
                yield from self.run(path)

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

    def _choose(self, entry: Entry, info: os.stat_result, included: State, excluded: State) -> Iterator[Entry]:
        """Yield ENTRY, and what is in it, if the patterns leave it."""
        path = os.fsdecode(entry.path)
        wanted, in_state = (True, ()) if self._includes is None else self._includes.match(path, included)
        unwanted, out_state = self._excludes.match(path, excluded)
        is_folder = stat.S_ISDIR(info.st_mode)
        if not wanted or unwanted:
            if is_folder and self._may_hold(path, wanted=wanted, unwanted=unwanted):
                self._waiting.append(entry)
                yield from self.run(entry.path, in_state, out_state)
                if self._waiting and self._waiting[-1] is entry:
                    self._waiting.pop()
            return
        yield from self._waiting
        self._waiting.clear()
        if info.st_nlink > 1 and not is_folder and not entry.linkname:
            self._link(entry, info)
        yield entry
        if is_folder:
            yield from self.run(entry.path, in_state, out_state)

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
