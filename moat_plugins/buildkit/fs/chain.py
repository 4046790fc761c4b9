"""The folders from a context's root down to where its walk is, held open.

Whoever else can write there may put a link in a folder's place at any moment. A path would lead through it to any
folder of the host's; a descriptor stays what it was opened for. Few are held, however deep the folders are nested: the
root, and the innermost ones. Others are opened again from the root, and must be those that they were.
"""

from __future__ import annotations

import errno
import os
import sys

__all__ = ["Chain"]

_LISTED = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_AGAIN = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINK = frozenset({errno.ELOOP, errno.EMLINK})
"""What open(2) may say of one, instead of ENOTDIR; the second is FreeBSD's."""
_NO_FOLDER = _LINK | {errno.ENOENT, errno.ENOTDIR}
_MOST = 32
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
"""As `os.fsencode` has them, which takes thrice as long."""
_CLOSED = -1


class Chain:
    """Folders, each in the one before it. The first is the root, which may be a link."""

    def __init__(self, root: bytes) -> None:
        self._names = [root]
        self._held: list[int] = []
        # Of those that were closed before their time; `None`: it is not there any more.
        self._identities: list[tuple[int, int] | None] = [None]
        self._closed_up_to = 1

    def enter(self, name: bytes = b"") -> list[bytes]:
        """Go into the folder NAME of the innermost one, or into the root first, and return the names in it, sorted.

        Raises:
            NotADirectoryError: It is none (any more). As with the others, we are where we were.
            OSError: It cannot be read.
        """
        there = self._open_below(name) if self._held else os.open(self._names[0], _LISTED)
        try:
            found = sorted([each.encode(_ENCODING, _ERRORS) for each in os.listdir(there)])
        except BaseException:
            os.close(there)
            raise
        if self._held:
            self._names.append(name)
            self._identities.append(None)
        self._held.append(there)
        if len(self._held) - self._closed_up_to > _MOST:
            self._close_outermost()
        return found

    def here(self) -> int:
        """Return the innermost folder's descriptor.

        Raises:
            FileNotFoundError: It was closed, and is not where it was.
            OSError: It was closed, and cannot be opened.
        """
        if self._held[-1] == _CLOSED:
            if self._identities[-1] is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            self._open_again()
        return self._held[-1]

    def leave(self) -> None:
        """Go back to the folder that the innermost one is in."""
        self._names.pop()
        self._identities.pop()
        held = self._held.pop()
        if held != _CLOSED:
            os.close(held)
        self._closed_up_to = max(1, min(self._closed_up_to, len(self._held)))

    def close(self) -> None:
        """Let go of all of them."""
        while self._held:
            self.leave()

    def _open_below(self, name: bytes) -> int:
        here = self.here()
        try:
            return os.open(name, _LISTED | os.O_NOFOLLOW, dir_fd=here)
        except OSError as error:
            if error.errno not in _LINK:
                raise
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None

    def _close_outermost(self) -> None:
        number = self._closed_up_to
        status = os.fstat(self._held[number])
        self._identities[number] = status.st_dev, status.st_ino
        os.close(self._held[number])
        self._held[number] = _CLOSED
        self._closed_up_to += 1

    def _open_again(self) -> None:
        """Open the innermost folders: all were closed."""
        opened: list[int] = []
        try:
            for number in range(1, len(self._held)):
                opened.append(self._open_one(number, opened[-1] if opened else self._held[0]))
                if len(opened) > _MOST:
                    os.close(opened.pop(0))
        except BaseException:
            for each in opened:
                os.close(each)
            raise
        self._closed_up_to = len(self._held) - len(opened)
        self._held[self._closed_up_to :] = opened

    def _open_one(self, number: int, above: int) -> int:
        identity = self._identities[number]
        if identity is not None:
            try:
                there = os.open(self._names[number], _AGAIN, dir_fd=above)
            except OSError as error:
                if error.errno not in _NO_FOLDER:
                    raise
            else:
                status = os.fstat(there)
                if identity == (status.st_dev, status.st_ino):
                    return there
                os.close(there)
        # What is below it has gone with it, and need not be looked for again.
        self._identities[number:] = [None] * (len(self._held) - number)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
