"""A folder's entries as file sync wants them: depth first, names sorted as bytes, a folder before its content.

Nothing is followed: a link is an entry, and a link that is put in a folder's place meanwhile is not gone into. Of
several names of one file the later ones say which sent name was the first.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress

import attrs

from moat_plugins.buildkit.fs.chain import Chain
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
_SET_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


@functools.cache
def _go_mode(mode: int) -> int:
    """Turn a mode of Unix into Go's FileMode."""
    made = stat.S_IMODE(mode) & 0o777 | _TYPES[stat.S_IFMT(mode)]
    for ours, theirs in _SET_BITS:
        made |= theirs if mode & ours else 0
    return made


def _may_have_attributes(path: bytes) -> bool:
    """Tell whether it is worth while to read them: most have none, and this is the quickest way to know.

    What is asked may be something else by now, somewhere else, so that nothing but this is taken from the answer.
    """
    try:
        return bool(os.listxattr(path, follow_symlinks=False))
    except AttributeError:
        return False  # this system knows none
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG  # else this file system does not


def _read_attributes(path: bytes) -> dict[str, bytes]:
    """Return those that we may read, as the docker command does.

    Args:
        path: By way of a descriptor: of folders, these calls take none.
    """
    found = {}
    with suppress(OSError):
        for name in os.listxattr(path, follow_symlinks=False):
            with suppress(OSError):
                found[name] = os.getxattr(path, name, follow_symlinks=False)
    return found


@attrs.define
class _Folder:
    """One that is being listed.

    Args:
        start: What its entries' paths begin with.
        left: What of it has not been looked at.
        waiting: Itself, if it was left out: it is sent if something in it is not.
    """

    path: bytes
    start: bytes = b""
    left: Iterator[bytes] = attrs.field(factory=lambda: iter(()))
    included: State = ()
    excluded: State = ()
    waiting: Entry | None = None


class _Walk:
    def __init__(self, root: str, includes: Patterns | None, excludes: Patterns) -> None:
        self._root = os.fsencode(root)
        self._start = os.path.join(self._root, b"")
        self._chain = Chain(self._root)
        self._includes, self._excludes = includes, excludes
        self._has_patterns = includes is not None or bool(excludes)
        self._first: dict[tuple[int, int], bytes] = {}
        # Folders that were left out themselves: each is sent if something in it is not.
        self._waiting: list[Entry] = []

    def run(self) -> Iterator[Entry]:
        """Yield the entries, from a stack of folders: they may be nested deeper than functions can be."""
        root = _Folder(b"")
        try:
            self._enter(root, b"")
            stack = [root]
            while stack:
                folder = stack[-1]
                each = next(folder.left, None)
                if each is None:
                    stack.pop()
                    self._chain.leave()
                    self._forget(folder)
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
                if goes_on and self._enter(below, each):
                    stack.append(below)
                elif goes_on:
                    self._forget(below)
        finally:
            self._chain.close()

    def _enter(self, folder: _Folder, name: bytes) -> bool:
        """List FOLDER, which may have gone since its name was, or be a link by now. Tell whether it is there."""
        try:
            folder.left = iter(self._chain.enter(name))
            folder.start = folder.path + b"/" if folder.path else b""
        except (FileNotFoundError, NotADirectoryError) as error:
            if name:
                return False
            raise self._named(error, b"") from None
        except OSError as error:
            raise self._named(error, folder.path) from None
        return True

    def _forget(self, folder: _Folder) -> None:
        """Do not send FOLDER, if it waited for something in it."""
        if folder.waiting is not None and self._waiting and self._waiting[-1] is folder.waiting:
            self._waiting.pop()

    def _named(self, error: OSError, path: bytes) -> OSError:
        """Say the file's name as people know it."""
        return OSError(error.errno, error.strerror, os.fsdecode(os.path.join(self._root, path) if path else self._root))

    def _look(self, folder: _Folder, name: bytes) -> tuple[Entry, os.stat_result] | None:
        """Return what is known of an entry, unless it has gone since it was listed."""
        path = folder.start + name
        try:
            here = self._chain.here()
            info = os.lstat(name, dir_fd=here)
            kind = info.st_mode & _KIND
            target = os.readlink(name, dir_fd=here) if kind == stat.S_IFLNK else b""
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._named(error, path) from None
        size = info.st_size if kind == stat.S_IFREG else 0
        entry = Entry(path, _go_mode(info.st_mode), size, info.st_mtime_ns, target)
        if kind in _DEVICES:
            entry.device = info.st_rdev
        if _may_have_attributes(self._start + path):
            entry.xattrs = _read_attributes(b"/proc/self/fd/%d/%b" % (here, name))
        return entry, info

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
