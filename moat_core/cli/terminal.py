"""The user's end of a live process: bytes in and out unchanged, raw mode, sizes, and a terminal left as it was."""

from __future__ import annotations

import os
import re
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from moat_core.types import Output

if TYPE_CHECKING:
    from moat_core.runtime.base import Process

__all__ = ["Screen", "attach_terminal", "feed", "follow_size", "terminal_size"]

_CHUNK = 64 * 1024
_MODE_RE = re.compile(rb"\x1b\[\?([0-9;]+)([hl])")
# DEC private modes (xterm's ctlseqs) that a killed program leaves behind; 25 and 7 are on by default.
_MODES = frozenset({b"1", b"47", b"1000", b"1002", b"1003", b"1004", b"1006", b"1047", b"1049", b"2004"})
_DEFAULT_ON = frozenset({b"25", b"7"})


def terminal_size() -> tuple[int, int]:
    """Return rows and columns of the user's terminal."""
    # Not shutil's: it would believe LINES and COLUMNS, which the user's programs inside do not see.
    try:
        size = os.get_terminal_size(1)
    except OSError:
        return 24, 80
    return size.lines or 24, size.columns or 80


class Screen:
    """stdout and stderr of the command line, written to as they are.

    Writing happens in a thread: a reader that does not read (``| less``) must slow the run down, and must not
    keep us from hearing a Ctrl-C.
    """

    def __init__(self) -> None:
        self._modes: set[bytes] = set()
        self.broken = False

    async def write(self, output: Output) -> None:
        """Write one piece; after the reader has left, drop it and raise.

        Raises:
            BrokenPipeError: Nobody reads any more.
        """
        for match in _MODE_RE.finditer(output.data):
            for mode in match[1].split(b";"):
                if (mode in _MODES and match[2] == b"h") or (mode in _DEFAULT_ON and match[2] == b"l"):
                    self._modes.add(mode)
                else:
                    self._modes.discard(mode)
        await anyio.to_thread.run_sync(
            _write_all, 2 if output.stream == "stderr" else 1, output.data, abandon_on_cancel=True
        )

    def reset(self) -> None:
        """Undo the modes that the program switched on and, killed perhaps, did not switch off."""
        if self._modes and os.isatty(1):
            text = b"".join(b"\x1b[?%s%s" % (m, b"h" if m in _DEFAULT_ON else b"l") for m in sorted(self._modes))
            with suppress(OSError):
                os.write(1, text)
        self._modes.clear()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@contextmanager
def raw_mode(fd: int = 0) -> Iterator[None]:
    """Let every key through to the process; the terminal's settings come back whatever happens."""
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


async def feed(process: Process, fd: int = 0) -> None:
    """Send our standard input to PROCESS as it comes, then end-of-file. Ends quietly if it does not read."""
    try:
        while True:
            with suppress(PermissionError):  # epoll refuses plain files and /dev/null: those never make us wait
                await anyio.wait_readable(fd)
            data = os.read(fd, _CHUNK)
            if not data:
                break
            await process.write(data)
        await process.close_stdin()
    except (BrokenPipeError, ConnectionError):
        pass
    except OSError:
        await process.close_stdin()  # the terminal has gone


async def follow_size(process: Process) -> None:
    """Tell PROCESS the terminal's size, now and whenever it changes."""
    with anyio.open_signal_receiver(signal.SIGWINCH) as signals:
        await process.resize(*terminal_size())
        async for _ in signals:
            await process.resize(*terminal_size())


async def attach_terminal(process: Process, *, tty: bool, stdin: bool) -> int:
    """Connect PROCESS with our standard streams until it ends, and return its exit code."""
    screen = Screen()
    sys.stdout.flush()
    with raw_mode() if tty else nullcontext():
        try:
            async with anyio.create_task_group() as group:
                if stdin:
                    group.start_soon(feed, process)
                if tty:
                    group.start_soon(follow_size, process)
                async for output in process:
                    await screen.write(output)
                code = await process.wait()
                group.cancel_scope.cancel()
        finally:
            screen.reset()
    return code
