"""Our standard streams, written to so that nothing is lost and nothing ends in a traceback.

Everything that the command prints (`print`, click, ``sys.stdout.buffer``) goes through the two streams that
`settle_streams` puts in place. A descriptor that somebody who shares it has made non-blocking is waited for. What
cannot be written at all (a full disk, a terminal that has gone) is one error of ours, once. Imports next to nothing:
``moat version`` does.
"""

from __future__ import annotations

import io
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["OutputLost", "can_write", "settle_streams", "write_all"]


class OutputLost(OSError):
    """Our output cannot be written; `moat_core.cli.main` has the sentence for it."""


def settle_streams() -> None:
    """Put our streams in the place of Python's own; those that a test has put there stay."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        sys.stdout = _open(sys.stdout, matters=True)
    elif hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is sys.__stderr__ and sys.stderr is not None:
        sys.stderr = _open(sys.stderr, matters=False)


def write_all(fd: int, data: Any) -> None:
    """Write DATA to FD, however often it takes.

    Raises:
        BrokenPipeError: The reader has left.
        OutputLost: It cannot be written.
    """
    view = memoryview(data).cast("B")
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # somebody who shares it has made it non-blocking
            can_write(fd, None)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputLost(error.errno, error.strerror) from error


def can_write(fd: int, timeout_ms: int | None = 0) -> bool:
    """Whether a line can be written to FD without waiting for its reader; ``None`` waits until it can."""
    import select

    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(timeout_ms))


class _Sink(io.RawIOBase):
    """A descriptor to write to. After its first failure it takes everything and writes nothing.

    Args:
        matters: A failure is an error. Else, as for stderr, there is nobody left to tell.
    """

    def __init__(self, fd: int, *, is_terminal: bool, matters: bool) -> None:
        self._fd = fd
        self._is_terminal = is_terminal
        self._matters = matters
        self._lost = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self._lost:
            return size
        try:
            write_all(self._fd, data)
        except (BrokenPipeError, OutputLost):
            self._lost = True
            if self._matters:
                raise
        return size


def _open(stream: Any, *, matters: bool) -> io.TextIOWrapper:
    # What an encoding has not got must not end in a traceback either.
    is_terminal = stream.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(_Sink(stream.fileno(), is_terminal=is_terminal, matters=matters)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=is_terminal or not matters,
        write_through=stream.write_through,
    )
