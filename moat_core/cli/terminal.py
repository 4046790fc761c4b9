"""The user's end of a live process: bytes in and out unchanged, raw mode, sizes, and a terminal left as it was."""

from __future__ import annotations

import asyncio
import math
import os
import queue
import re
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

import anyio
import attrs

from moat_core.cli.output import can_write, write_all
from moat_core.types import Output

if TYPE_CHECKING:
    from moat_core.runtime.base import Process

__all__ = ["Screen", "attach_terminal", "can_write", "feed", "follow_size", "raw_mode", "terminal_size"]

_CHUNK = 64 * 1024
_LAST_S = 1.0
"""What a reader gets, once the end was asked for, to take a piece; in seconds."""
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
    keep us from hearing a Ctrl-C. The thread is a daemon, so that a write that never ends does not keep us either.

    Args:
        out: Descriptor for stdout.
        err: Descriptor for stderr.
    """

    def __init__(self, out: int = 1, err: int = 2) -> None:
        self._fds = {"stdout": out, "stderr": err}
        self._modes: set[bytes] = set()
        self._jobs: queue.SimpleQueue[_Job | None] | None = None
        self._waiting = anyio.CancelScope()
        self._hurried = self._given_up = False

    async def write(self, output: Output) -> None:
        """Write one piece; after `hurry`, drop what nobody reads.

        Raises:
            BrokenPipeError: The reader has left.
        OutputLost: It cannot be written.
        """
        if self._given_up:
            return
        self._note_modes(output.data)
        loop = asyncio.get_running_loop()
        job = _Job(self._fds[output.stream], output.data, loop, loop.create_future())
        with anyio.CancelScope(deadline=self._deadline()) as self._waiting:
            self._queue().put(job)
            await job.done
        if self._waiting.cancelled_caught:
            self._given_up = True
            self._mute()

    def hurry(self) -> None:
        """Wait no longer than a moment from now on: the end was asked for, and nothing unread may hold it up."""
        self._hurried = True
        self._waiting.deadline = self._deadline()

    def reset(self) -> None:
        """Undo the modes that the program switched on and, killed perhaps, did not switch off."""
        if self._hurried:
            self._mute()
        if self._jobs is not None:
            self._jobs.put(None)
            self._jobs = None
        if self._modes and os.isatty(self._fds["stdout"]):
            text = b"".join(b"\x1b[?%s%s" % (m, b"h" if m in _DEFAULT_ON else b"l") for m in sorted(self._modes))
            with suppress(OSError):
                os.write(self._fds["stdout"], text)
        self._modes.clear()

    def _deadline(self) -> float:
        return anyio.current_time() + _LAST_S if self._hurried else math.inf

    def _note_modes(self, data: bytes) -> None:
        for match in _MODE_RE.finditer(data):
            for mode in match[1].split(b";"):
                if (mode in _MODES and match[2] == b"h") or (mode in _DEFAULT_ON and match[2] == b"l"):
                    self._modes.add(mode)
                else:
                    self._modes.discard(mode)

    def _queue(self) -> queue.SimpleQueue[_Job | None]:
        if self._jobs is None:
            self._jobs = queue.SimpleQueue()
            threading.Thread(target=_work, args=(self._jobs,), name="moat output", daemon=True).start()
        return self._jobs

    def _mute(self) -> None:
        """Send what we still say ourselves nowhere, where it would wait for a reader like the rest."""
        for fd in self._fds.values():
            if not can_write(fd):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, fd)
                os.close(null)


@attrs.frozen(eq=False)
class _Job:
    """One piece to write; DONE belongs to LOOP."""

    fd: int
    data: bytes
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]


def _work(jobs: queue.SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        error: Exception | None = None
        try:
            write_all(job.fd, job.data)
        except OSError as raised:
            error = raised
        with suppress(RuntimeError):  # nobody waits any more, and the loop is closed
            job.loop.call_soon_threadsafe(_settle, job.done, error)


def _settle(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


@contextmanager
def raw_mode(fd: int = 0) -> Iterator[None]:
    """Let every key through to the process; the terminal's settings come back whatever happens."""
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)  # not the default, which would throw away what was typed ahead
        yield
    finally:
        with suppress(termios.error):  # the terminal has gone
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


async def feed(process: Process, fd: int = 0) -> None:
    """Send our standard input to PROCESS as it comes, then end-of-file. Ends quietly if it does not read."""
    try:
        while True:
            with suppress(PermissionError):  # epoll refuses plain files and /dev/null: those never make us wait
                await anyio.wait_readable(fd)
            try:
                data = os.read(fd, _CHUNK)
            except BlockingIOError:  # another reader was quicker
                continue
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
