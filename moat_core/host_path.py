"""From a path on this machine to the thing itself, held by a descriptor.

A path is a name, and names change hands: where a run could write, it can leave a link, or put one in the place of a
folder while the next run is planned. So a path is walked component by component. Links that the user made are followed
as the kernel would; below a folder that a run can write to, none is. What was found is held (O_PATH, open(2)), so its
identity (device and inode) stays its own until it is compared with what an engine really mounted.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque

from moat_core.errors import HostPathError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

    IsShared = Callable[[tuple[int, int], str], bool]
    """Tells whether a run can write to the folder of this identity and real path, or ever could."""

__all__ = ["HeldPath", "HostPath", "hold", "holder_of", "nobody", "open_below", "place_of", "read_mounts", "resolve"]

_MOST_LINKS = 40
"""As many as the kernel follows; path_resolution(7)."""
_HANDLE = getattr(os, "O_PATH", 0)
_FLAGS = _HANDLE | os.O_CLOEXEC | os.O_NOFOLLOW
_HINT = "Name the path that it leads to, if you know that it leads there rightly; or take the link away."


class HostPath:
    """What a path led to.

    Args:
        path: Absolute, without links.
        status: What fstat(2) said of it.
        shared: The outermost folder above it that a run can write to, and so put something else in its place; ``""``
            if there is none.
    """

    def __init__(self, path: str, status: os.stat_result, shared: str = "") -> None:
        self.path = path
        self.status = status
        self.shared = shared

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode: unlike any other's on this machine, as long as it is held."""
        return self.status.st_dev, self.status.st_ino

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.status.st_mode)


class HeldPath(HostPath):
    """It, held open. ``fd`` is of no use but to name it, ``dir_fd=`` and ``/proc/self/fd`` included."""

    def __init__(self, fd: int, path: str, status: os.stat_result, shared: str = "") -> None:
        super().__init__(path, status, shared)
        self.fd = fd

    @property
    def place(self) -> str:
        """A path that leads to it as long as it is held, whatever becomes of the one that led there (proc(5), fd)."""
        return f"/proc/self/fd/{self.fd}" if self.fd >= 0 else self.path

    def close(self) -> None:
        """Let go of it. Twice is fine."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def nobody(identity: tuple[int, int], path: str) -> bool:  # noqa: ARG001
    """Be the `IsShared` of a machine without runs."""
    return False


def resolve(path: str | os.PathLike[str], is_shared: IsShared = nobody) -> HostPath:
    """Return what `hold` finds, without holding it."""
    with hold(path, is_shared) as held:
        return HostPath(held.path, held.status, held.shared)


def hold(path: str | os.PathLike[str], is_shared: IsShared = nobody, *, follow: bool = True) -> HeldPath:
    """Walk along PATH, and hold what is at its end; it may be anything that has a name.

    Args:
        path: Absolute.
        is_shared: Below a folder of which this is true no link is followed, and no ``..``.
        follow: Follow links at all; without, PATH is one that was resolved before and must not have changed.

    Raises:
        HostPathError: There is a link where none is followed.
        OSError: It is not there, or not for us to reach; as stat(2) would say.
    """
    text = os.fspath(path)
    if not _HANDLE:  # macOS: the engine is in a virtual machine, and has paths and identities of its own
        real = os.path.realpath(text)
        return HeldPath(-1, real, os.stat(real))
    walk = _Walk(text, is_shared, follow=follow)
    try:
        return walk.walk()
    except BaseException:
        os.close(walk.here)
        raise


class _Walk:
    """One walk; ``here`` is open as long as it lasts."""

    def __init__(self, path: str, is_shared: IsShared, *, follow: bool) -> None:
        self.path = path
        self.is_shared = is_shared
        self.follow = follow
        self.shared = ""
        self.links = 0
        self.rest = deque(_split(path))
        self.here = os.open("/", _FLAGS | os.O_DIRECTORY)

    def walk(self) -> HeldPath:
        status = os.fstat(self.here)
        while self.rest:
            self._judge(status)
            name = self.rest.popleft()
            if name == ".." and (self.shared or not self.follow):
                raise HostPathError(f"{self.path} leads upwards from {self.shared or 'a folder'}.", hint=_HINT)
            there = os.open(name, _FLAGS, dir_fd=self.here)
            found = os.fstat(there)
            if stat.S_ISLNK(found.st_mode):
                try:
                    self._follow(name, there, found, status)
                finally:
                    os.close(there)
            else:
                self._go(there)
            status = os.fstat(self.here)
        return HeldPath(self.here, _name_of(self.here), status, self.shared)

    def _go(self, there: int) -> None:
        os.close(self.here)
        self.here = there

    def _judge(self, folder: os.stat_result) -> None:
        """Notice that a run could have made the entries of the folder that we are in."""
        if not self.shared:
            real = _name_of(self.here)
            if self.is_shared((folder.st_dev, folder.st_ino), real):
                self.shared = real

    def _follow(self, name: str, there: int, link: os.stat_result, folder: os.stat_result) -> None:
        where = os.path.join(_name_of(self.here), name)
        if self.shared:
            message = f"{where} is a link, in a folder that a run can write to: it could lead anywhere."
            raise HostPathError(message, hint=_HINT, link=where)
        if not self.follow:
            raise HostPathError(f"{where} was a folder when the run was planned, and is a link now.", hint=_CHANGED)
        # As protected_symlinks does (sysctl/fs.rst), but in every folder that anybody may write to.
        if folder.st_mode & stat.S_IWOTH and link.st_uid not in {os.geteuid(), folder.st_uid}:
            message = f"{where} is a link of another user's, in a folder that everybody can write to."
            raise HostPathError(message, hint=_HINT, link=where)
        self.links += 1
        if self.links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self.path)
        target = os.readlink("", dir_fd=there)
        self.rest.extendleft(reversed(_split(target)))
        if target.startswith("/"):
            self._go(os.open("/", _FLAGS | os.O_DIRECTORY))


_CHANGED = "Somebody, perhaps another run, changes what is to be mounted. See who, and start again."


def _split(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in {"", "."}]


def _name_of(fd: int) -> str:
    """Return the path without links of what FD holds: the kernel's own word, not the one that led to it."""
    return os.readlink(f"/proc/self/fd/{fd}")


def holder_of(path: str, places: Iterable[str]) -> str | None:
    """Return the innermost of PLACES that PATH lies below; ``None`` if it is in none. All are absolute and plain."""
    above = [each for each in places if each != path and path.startswith(each.rstrip("/") + "/")]
    return max(above, key=len, default=None)


def place_of(fd: int) -> tuple[str, str] | None:
    """Return where in which file system the thing lies that FD holds: ``("254:0", "/home/u/project")``.

    The same words as in any process's ``mountinfo``, in whatever namespace (proc(5)); ``None`` where it is not known.
    """
    try:
        name = _name_of(fd)
        with open(f"/proc/self/fdinfo/{fd}") as file:
            number = next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))
        device, root, point = next(mount[1:] for mount in read_mounts("self") if mount[0] == number)
    except (OSError, StopIteration, IndexError):
        return None
    point = point.rstrip("/")
    if not (name + "/").startswith(point + "/"):
        return None
    return device, (root.rstrip("/") + name.removeprefix(point)).rstrip("/") or "/"


def read_mounts(process: int | str) -> list[tuple[int, str, str, str]]:
    """Return id, device, root in its file system, and mount point of each mount that PROCESS sees (proc(5), mountinfo).

    Raises:
        OSError: There is no such process, or it is hidden from us.
    """
    with open(f"/proc/{process}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.split(" ", 5) for line in file]
    return [(int(line[0]), line[2], _plain(line[3]), _plain(line[4])) for line in lines]


def _plain(field: str) -> str:
    """Undo the octal escapes of blank, tab, newline and backslash."""
    if "\\" in field:
        for code in ("040", "011", "012", "134"):
            field = field.replace("\\" + code, chr(int(code, 8)))
    return field


def open_below(folder: int, path: str, *, as_root: bool = False, links: bool = True) -> int:
    """Return a descriptor (O_PATH) of PATH below an open FOLDER, links followed as long as they stay below it.

    Args:
        folder: Descriptor of a folder.
        path: Relative to it; a leading slash means it, too.
        as_root: A link to ``/etc`` leads to FOLDER's, as in a container; else it leads out.
        links: Follow any.

    Raises:
        OSError: It is not there; EXDEV: it leads out; ELOOP: there is a link, and none is followed; ENOSYS: the
            kernel is older than Linux 5.6 (openat2(2)).
    """
    import ctypes  # 3 ms that few need

    flags, resolve = _HANDLE | os.O_CLOEXEC, _NO_MAGICLINKS | (_IN_ROOT if as_root else _BENEATH)
    resolve |= 0 if links else _NO_SYMLINKS
    how = (ctypes.c_uint64 * 3)(flags, 0, resolve)  # struct open_how: flags, mode, resolve
    name = os.fsencode(path.lstrip("/") or ".")
    libc = ctypes.CDLL(None, use_errno=True)
    found: int = libc.syscall(_OPENAT2, folder, name, ctypes.byref(how), ctypes.sizeof(how))
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return found


_OPENAT2 = 437
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH, _IN_ROOT = 0x02, 0x04, 0x08, 0x10
"""linux/openat2.h; the number is the same on every architecture."""
