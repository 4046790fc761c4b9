"""The host's side of copying files in and out of a run: what is read, and the folder that is written to.

Both may lie where another run can write while we are at it. So a path is walked without the links that were left there
(`moat_core.host_path`), and what was found is held; of what lies below it nothing is followed either.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import tarfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from moat_core.host_path import HeldPath, hold

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moat_core.host_path import IsShared

__all__ = ["make_folder", "pack"]

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def pack(source: HeldPath, out: IO[bytes]) -> None:
    """Write SOURCE as a tar archive to OUT, under its own name; links are packed as links.

    Raises:
        OSError: Something of it cannot be read.
    """
    # GNU's format has names as the bytes that they are; PAX would call them UTF-8, which they may not be.
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        name = os.path.basename(source.path)
        if not source.is_folder:
            _add_file(tar, name, source.place, None)
            return
        top = f"{source.place}/."  # the folder, not the link that stands for it in /proc
        tar.addfile(tar.gettarinfo(top, name))
        # fwalk opens each folder by its name in the one above, and sees that it is no link.
        for place, folders, files, fd in os.fwalk(top, follow_symlinks=False):
            below = name + place[len(top) :]
            for each in sorted(folders + files):
                _add(tar, posixpath.join(below, each), each, place, fd)


def _add(tar: tarfile.TarFile, name: str, entry: str, place: str, folder: int) -> None:
    """Add what is called ENTRY in FOLDER, which lies at PLACE."""
    if stat.S_ISREG(os.stat(entry, dir_fd=folder, follow_symlinks=False).st_mode):
        _add_file(tar, name, entry, folder)
        return
    info = tar.gettarinfo(os.path.join(place, entry), name)
    # A socket has none; and a file that has come in the meantime has no content yet.
    if info is not None and not info.isreg():  # type: ignore[redundant-expr]  # typeshed knows no None
        tar.addfile(info)


def _add_file(tar: tarfile.TarFile, name: str, entry: str, folder: int | None) -> None:
    flags = _OPEN if folder is not None else _OPEN & ~os.O_NOFOLLOW  # what is held is named by a link of /proc's
    with os.fdopen(os.open(entry, flags, dir_fd=folder), "rb") as file:
        tar.addfile(tar.gettarinfo(entry, name, file), file)


@contextmanager
def make_folder(path: Path, given: IsShared) -> Iterator[Path]:
    """Make the folder PATH, and those above it; yield a name under which it is held.

    Raises:
        HostPathError: A link leads there, in a folder that a run can write to.
        FileExistsError: It is no folder.
    """
    whole = os.path.abspath(path)
    missing: list[str] = []
    while True:
        try:
            held = hold(whole, given)
            break
        except FileNotFoundError:
            whole, name = os.path.split(whole)
            missing.append(name)
    try:
        for name in reversed(missing):
            held = _make_below(held, name)
        if not held.is_folder:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        yield Path(held.place)
    finally:
        held.close()


def _make_below(held: HeldPath, name: str) -> HeldPath:
    place = os.path.join(held.path, name)
    if held.fd < 0:
        os.mkdir(place)
        return HeldPath(-1, place, os.stat(place), held.shared)
    try:
        try:
            os.mkdir(name, dir_fd=held.fd)
        except NotADirectoryError as error:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), held.path) from error
        there = os.open(name, _FOLDER, dir_fd=held.fd)
    finally:
        held.close()
    return HeldPath(there, place, os.fstat(there), held.shared)
