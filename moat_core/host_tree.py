"""Making files and folders below one that is held, while others may be changing what is there.

A path is a name, and whoever can write to a folder on the way can put a link there between a look and the opening. So
nothing here goes by a path: each folder is opened by its one name in the one above and through no link, each file is
made where there is none (openat(2), O_NOFOLLOW and O_EXCL), and its mode and times are set on what was opened. A link
that is in the way of a file is replaced, one in the way of a folder is an error; neither is followed.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from moat_core.errors import HostPathError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

__all__ = ["HostTree", "open_tree", "write_all"]

_T = TypeVar("_T")
_NO_LINK = os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_DIRECTORY | _NO_LINK
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | _NO_LINK
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK
_ROUNDS = 5000
"""How often we look for what is left: more levels of folders than any archive has, and an end if somebody adds some."""
_HINT = "Take the link away, or name the folder that it leads to."


class HostTree:
    """Makes things below a folder. Paths are relative to it, text or bytes, and plain: no ``..``, no empty name.

    Of what is there already, what is no folder makes way for what is none.

    Args:
        fd: The folder; it is closed with this.
        replaces: An empty folder makes way for what is none, and what is no folder for a folder.
    """

    def __init__(self, fd: int, *, replaces: bool = False) -> None:
        self._root = fd
        self._replaces = replaces
        # Most of what is made is in the same folder as what was made before.
        self._names: list[str] = []
        try:
            self._here = os.dup(fd)
        except OSError:
            os.close(fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._here)
        os.close(self._root)

    def has(self, name: str) -> bool:
        """Tell whether something of this NAME is in it, a link that leads nowhere included."""
        try:
            os.stat(name, dir_fd=self._root, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def within(self, path: str | bytes) -> HostTree:
        """Return the folder PATH as a tree of its own; it is made if it is not there.

        Raises:
            HostPathError: There is a link.
            OSError: There is something else, or it cannot be made.
        """
        return HostTree(self._walk(_split(path), make=True), replaces=self._replaces)

    def make_folder(self, path: str | bytes, mode: int = 0o777) -> None:
        """Make the folder PATH, less the umask, with those above it; that it is there already is well.

        Raises:
            HostPathError: There is a link.
            OSError: There is something else, or it cannot be made.
        """
        folder, name = self._above(path)
        try:
            os.mkdir(name, mode, dir_fd=folder)
        except FileExistsError:
            try:
                os.close(_enter(folder, name))
            except (HostPathError, NotADirectoryError):
                if not self._replaces:
                    raise
                self._make_way(folder, name)
                os.mkdir(name, mode, dir_fd=folder)

    def make_file(self, path: str | bytes) -> int:
        """Return a descriptor to write a new file with, which only we may read."""
        return self._make(path, lambda folder, name: os.open(name, _NEW, 0o600, dir_fd=folder))

    def make_link(self, path: str | bytes, target: str | bytes) -> None:
        """Make the symbolic link PATH. Where it leads is the caller's to judge."""
        self._make(path, lambda folder, name: os.symlink(os.fsdecode(target), name, dir_fd=folder))

    def make_pipe(self, path: str | bytes, mode: int) -> None:
        """Make the named pipe PATH."""
        self._make(path, lambda folder, name: os.mkfifo(name, mode, dir_fd=folder))

    def make_name(self, path: str | bytes, other: str | bytes) -> None:
        """Make PATH another name of the file OTHER, which is in this tree: a hard link."""
        folder, first = self._above(other, make=False)
        source = os.dup(folder)
        try:
            self._make(
                path,
                lambda folder, name: os.link(first, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False),
            )
        finally:
            os.close(source)

    def open_file(self, path: str | bytes, identity: tuple[int, int]) -> int:
        """Return a descriptor to go on writing a file with that was made.

        Args:
            identity: Its device and inode.

        Raises:
            HostPathError: Another one is in its place.
            OSError: It has gone, or there is a link.
        """
        folder, name = self._above(path, make=False)
        file = os.open(name, os.O_WRONLY | os.O_NONBLOCK | _NO_LINK, dir_fd=folder)
        found = os.fstat(file)
        if (found.st_dev, found.st_ino) != identity:
            os.close(file)
            raise HostPathError(f"Somebody has put another file in the place of {_where(folder, name)}.")
        return file

    def open_folder(self, path: str | bytes) -> int:
        """Return a descriptor to read the folder PATH with, or to set its mode and times.

        Raises:
            HostPathError: There is a link.
            OSError: It is not there, or no folder.
        """
        folder, name = self._above(path, make=False)
        return _enter(folder, name, _READ)

    def stamp_link(self, path: str | bytes, mtime_ns: int) -> None:
        """Set when the link PATH was made."""
        folder, name = self._above(path, make=False)
        os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=folder, follow_symlinks=False)

    @contextmanager
    def scratch(self) -> Iterator[tuple[HostTree, str]]:
        """Yield a new folder in it, and its name; it is removed in the end, with all that was not taken out."""
        name = f".moat-{secrets.token_hex(8)}"
        os.mkdir(name, 0o700, dir_fd=self._root)
        try:
            with HostTree(_enter(self._root, name)) as tree:
                try:
                    yield tree, name
                finally:
                    with suppress(OSError):
                        tree._empty()
        finally:
            with suppress(OSError):
                os.rmdir(name, dir_fd=self._root)

    def take(self, name: str, other: HostTree) -> None:
        """Move what is called NAME from the top of OTHER to the top of this one, at once and whole."""
        os.rename(name, name, src_dir_fd=other._root, dst_dir_fd=self._root)

    def _make(self, path: str | bytes, make: Callable[[int, str], _T]) -> _T:
        folder, name = self._above(path)
        try:
            return make(folder, name)
        except FileExistsError:
            self._make_way(folder, name)
            return make(folder, name)

    def _make_way(self, folder: int, name: str) -> None:
        """Remove what is in the way: never a folder with something in it."""
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(found.st_mode):
            os.unlink(name, dir_fd=folder)
        elif self._replaces:
            os.rmdir(name, dir_fd=folder)
        else:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), _where(folder, name))

    def _above(self, path: str | bytes, *, make: bool = True) -> tuple[int, str]:
        """Return the folder that PATH is in, open until we are asked for another one, and the name in it."""
        *above, name = _split(path)
        if above != self._names:
            there = self._walk(above, make=make)
            os.close(self._here)
            self._names, self._here = above, there
        return self._here, name

    def _walk(self, names: list[str], *, make: bool) -> int:
        """Open the folder that NAMES lead to, one after the other."""
        here = os.dup(self._root)
        try:
            for name in names:
                try:
                    there = _enter(here, name)
                except FileNotFoundError:
                    if not make:
                        raise
                    with suppress(FileExistsError):
                        os.mkdir(name, dir_fd=here)
                    there = _enter(here, name)
                os.close(here)
                here = there
        except BaseException:
            os.close(here)
            raise
        return here

    def _empty(self) -> None:
        """Remove all that is in it, in rounds: what lies in a folder comes up beside it if it is a folder itself.

        So however deep it goes (somebody may be at work there), no more is open than this and one other.
        """
        top = os.open(".", _READ, dir_fd=self._root)
        try:
            before: list[str] = []
            for _ in range(_ROUNDS):
                names = os.listdir(top)
                if names == before:  # empty, or all that is left does not go away
                    return
                for name in names:
                    with suppress(OSError):
                        _take_apart(top, name)
                before = names
        finally:
            os.close(top)


@contextmanager
def open_tree(place: str | os.PathLike[str], *, replaces: bool = False) -> Iterator[HostTree]:
    """Yield the folder PLACE as a tree. Links to it are followed: whoever minds has held it, and names what is held.

    Raises:
        OSError: It is not there, or no folder.
    """
    with HostTree(os.open(place, _FOLDER & ~os.O_NOFOLLOW), replaces=replaces) as tree:
        yield tree


def write_all(file: int, data: bytes) -> None:
    """Write DATA to the descriptor FILE, however many calls it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _split(path: str | bytes) -> list[str]:
    parts = os.fsdecode(path).split("/")
    if any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise ValueError(f"it names {os.fsdecode(path)!r}")
    return parts


def _enter(folder: int, name: str, flags: int = _FOLDER) -> int:
    """Open the folder called NAME in FOLDER, which is no link."""
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:  # Linux says that a link is no folder, others say that there are too many links
        if error.errno in {errno.ENOTDIR, errno.ELOOP, errno.EMLINK} and _is_link(folder, name):
            where = _where(folder, name)
            message = f"{where} is a link: nothing is written through it."
            raise HostPathError(message, hint=_HINT, link=where) from error
        error.filename = _where(folder, name)
        raise


def _is_link(folder: int, name: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _where(folder: int, name: str) -> str:
    """Return where it is, to be shown."""
    try:
        return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)
    except OSError:  # no /proc
        return name


def _take_apart(top: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=top)
        return
    except (IsADirectoryError, PermissionError):  # the latter is macOS's word for the former
        pass
    inner = _enter(top, name, _READ)
    try:
        for each in os.listdir(inner):
            try:
                os.unlink(each, dir_fd=inner)
            except (IsADirectoryError, PermissionError):
                os.rename(each, secrets.token_hex(8), src_dir_fd=inner, dst_dir_fd=top)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)
