"""A folder's entries as file sync wants them: depth first, names sorted as bytes, a folder before its content.

Nothing is followed: a link is an entry. Of several names of one file the later ones say which sent name was the first.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

import attrs

from moat_plugins.buildkit.fs.follow import follow_paths
from moat_plugins.buildkit.fs.patterns import Patterns, State
from moat_plugins.buildkit.fs.source import Entry

__all__ = ["go_mode", "walk"]

_TYPES = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 0,  # the receiver takes it for an empty file
    stat.S_IFREG: 0,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
}
_SET_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


def go_mode(mode: int) -> int:
    """Turn a mode of Unix into Go's FileMode."""
    made = stat.S_IMODE(mode) & 0o777 | _TYPES[stat.S_IFMT(mode)]
    for ours, theirs in _SET_BITS:
        made |= theirs if mode & ours else 0
    return made


@attrs.frozen
class _Waiting:
    """A folder that was left out itself: it is sent if something in it is not."""

    entry: Entry


class _Walk:
    def __init__(self, root: str, includes: Patterns | None, excludes: Patterns) -> None:
        self._root = root
        self._includes, self._excludes = includes, excludes
        self._first: dict[tuple[int, int], bytes] = {}
        self._waiting: list[_Waiting] = []

    def run(self, folder: str = "", included: State = (), excluded: State = ()) -> Iterator[Entry]:
        with os.scandir(os.path.join(self._root, folder) if folder else self._root) as found:
            entries = sorted(found, key=lambda each: os.fsencode(each.name))
        for each in entries:
            path = f"{folder}/{each.name}" if folder else each.name
            try:
                info = each.stat(follow_symlinks=False)
                target = os.fsencode(os.readlink(each.path)) if stat.S_ISLNK(info.st_mode) else b""
            except FileNotFoundError:
                continue  # gone since it was listed
            yield from self._entry(path, info, target, included, excluded)

    def _entry(
        self, path: str, info: os.stat_result, target: bytes, included: State, excluded: State
    ) -> Iterator[Entry]:
        wanted, in_state = (True, ()) if self._includes is None else self._includes.match(path, included)
        unwanted, out_state = self._excludes.match(path, excluded)
        is_sent = wanted and not unwanted
        is_folder = stat.S_ISDIR(info.st_mode)
        entry = self._describe(path, info, target)
        if not is_sent:
            if is_folder and self._may_hold(path, wanted=wanted, unwanted=unwanted):
                self._waiting.append(_Waiting(entry))
                yield from self.run(path, in_state, out_state)
                if self._waiting and self._waiting[-1].entry is entry:
                    self._waiting.pop()
            return
        for parent in self._waiting:
            yield parent.entry
        self._waiting.clear()
        if not is_folder and info.st_nlink > 1 and not target:
            first = self._first.setdefault((info.st_dev, info.st_ino), entry.path)
            entry = entry if first == entry.path else attrs.evolve(entry, linkname=first, size=0)
        yield entry
        if is_folder:
            yield from self.run(path, in_state, out_state)

    def _may_hold(self, path: str, *, wanted: bool, unwanted: bool) -> bool:
        if unwanted and not self._excludes.may_except_below(path):
            return False
        return wanted or self._includes is None or self._includes.may_match_below(path)

    def _describe(self, path: str, info: os.stat_result, target: bytes) -> Entry:
        is_file = stat.S_ISREG(info.st_mode)
        return Entry(
            path=os.fsencode(path),
            mode=go_mode(info.st_mode),
            size=info.st_size if is_file else 0,
            mtime_ns=info.st_mtime_ns,
            linkname=target,
        )


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
