"""Where a build's results come out on our side: found without the links that a run may have left, and held.

What runs were given to write to is known to a run's owner (``run.given``). Who has said nothing may still build into a
folder that a run works in, so then no link is followed at the place itself; the folder above may be reached through the
user's own.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from moat_core.errors import HostPathError
from moat_core.host_path import hold, nobody
from moat_core.host_tree import open_tree, write_all
from moat_core.runtime.host_files import make_folder
from moat_plugins.buildkit.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from moat_core.host_path import IsShared
    from moat_core.host_tree import HostTree

__all__ = ["Archive", "explain", "open_archive", "open_folder"]

_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_FLAGS = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_HINT = "Take the link away, or name what it leads to."


@contextmanager
def open_folder(path: Path, given: IsShared | None = None) -> Iterator[HostTree]:
    """Yield the folder PATH to make files in; it is made if it is not there, with those above it.

    Args:
        given: Tells which folders runs were given to write to: no link is followed below them, all others are.
            ``None``: not known; PATH itself may be no link.

    Raises:
        HostPathError: There is a link that is not followed.
        OSError: It is no folder, or cannot be made.
    """
    whole = os.path.abspath(path)
    above, name = os.path.split(whole)
    if given is not None or not name:
        with make_folder(Path(whole), given or nobody) as place, open_tree(place, replaces=True) as tree:
            yield tree
        return
    with make_folder(Path(above), nobody) as place, open_tree(place, replaces=True) as outer:
        with outer.within(name) as tree:
            yield tree


class Archive:
    """One file that is being written: beside its place, unless that is a pipe or a device.

    Args:
        folder: Descriptor of the folder that it is in.
        name: What it is called there in the end.
        part: What it is called meanwhile; ``""``: it is written to itself.
        file: Descriptor to write to.
    """

    def __init__(self, folder: int, name: str, part: str, file: int) -> None:
        self._folder, self._name, self._part, self._file = folder, name, part, file

    async def write(self, data: bytes) -> None:
        """Take a piece of it."""
        await anyio.to_thread.run_sync(write_all, self._file, data)

    def finish(self) -> None:
        """Give it its name: it is complete.

        Raises:
            OSError: It was not written, or there is a folder of that name by now.
        """
        self._close()
        if self._part:
            os.rename(self._part, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            self._part = ""

    def end(self) -> None:
        """Close it; what is not complete is removed."""
        with suppress(OSError):
            self._close()
        if self._part:
            with suppress(OSError):
                os.unlink(self._part, dir_fd=self._folder)

    def _close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


@asynccontextmanager
async def open_archive(path: Path, given: IsShared | None = None) -> AsyncIterator[Archive]:
    """Yield what takes the archive PATH; what is not finished in the end is removed.

    Args:
        given: As for `open_folder`.

    Raises:
        ExportError: It cannot be written there.
    """
    with ExitStack() as stack:
        try:
            # A pipe is open as soon as somebody reads from it.
            archive = await anyio.to_thread.run_sync(_open, path, given, stack)
        except OSError as error:
            raise ExportError(f"The result cannot be written to {path}: {explain(error)}") from error
        yield archive


def explain(error: OSError) -> str:
    """Return what ERROR says, as a sentence."""
    if isinstance(error, HostPathError):
        return f"{error} {error.hint}".rstrip()
    return f"{error.strerror or error}."


def _open(path: Path, given: IsShared | None, stack: ExitStack) -> Archive:
    whole = os.path.abspath(path)
    if given is not None:  # the user's own link is followed at its end, too
        with suppress(FileNotFoundError), hold(whole, given) as held:
            whole = held.path
    above, name = os.path.split(whole)
    held = stack.enter_context(hold(above, given or nobody))
    folder = os.open(held.place, _FOLDER)
    stack.callback(os.close, folder)
    part = "" if _is_special(folder, name, whole) else f".{name}.{secrets.token_hex(4)}"
    if part:
        file = os.open(part, _FLAGS | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
    else:
        file = os.open(name, _FLAGS, dir_fd=folder)
    archive = Archive(folder, name, part, file)
    stack.callback(archive.end)
    if not part and stat.S_ISREG(os.fstat(file).st_mode):
        raise HostPathError(f"Somebody has put a file in the place of {whole}.")
    return archive


def _is_special(folder: int, name: str, whole: str) -> bool:
    """Tell whether NAME is something that is written to itself, such as a pipe or a device.

    Raises:
        HostPathError: It is a link.
        IsADirectoryError: It is a folder.
    """
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISLNK(mode):
        raise HostPathError(f"{whole} is a link: nothing is written through it.", hint=_HINT, link=whole)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), whole)
    return not stat.S_ISREG(mode)
