"""Writing to a terminal or pipe that may not be read: in order, with backpressure, and never for ever."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import subprocess
import sys
import threading
import time

import anyio
import pytest

from moat_core.cli import terminal
from moat_core.cli.terminal import Screen
from moat_core.types import Output

_NUMBERS = itertools.count(300)


@pytest.fixture
def pipe():
    """A pipe: what is read from, what is written to. Under numbers that no other test's has: a screen that has given up
    may still write to its own."""
    ends = os.pipe()
    reader, writer = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, next(_NUMBERS)) for end in ends)
    for end in ends:
        os.close(end)
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass


def read_all(reader, into, *, chunk=4096):
    while data := os.read(reader, chunk):
        into.append(data)


@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "nonblocking"])
async def test_everything_arrives_in_order(pipe, blocking):
    """More than a pipe holds, to a reader that takes small pieces, on a descriptor that somebody made non-blocking."""
    reader, writer = pipe
    os.set_blocking(writer, blocking)
    seen = []
    thread = threading.Thread(target=read_all, args=(reader, seen), kwargs={"chunk": 1000})
    thread.start()
    screen = Screen(out=writer, err=2)
    pieces = [os.urandom(50_000) for _ in range(8)]
    for piece in pieces:
        await screen.write(Output("stdout", piece))
    os.close(writer)
    await asyncio.to_thread(thread.join, 10)
    assert b"".join(seen) == b"".join(pieces)


async def test_streams_go_where_they_belong(pipe):
    """stderr is not stdout."""
    reader, writer = pipe
    screen = Screen(out=1, err=writer)
    await screen.write(Output("stderr", b"oops"))
    assert os.read(reader, 10) == b"oops"


async def test_a_full_pipe_holds_the_writer_up(pipe):
    """Nothing is dropped while nobody asked for the end."""
    reader, writer = pipe
    screen = Screen(out=writer, err=2)
    with anyio.move_on_after(0.2) as scope:
        await screen.write(Output("stdout", bytes(200_000)))
    assert scope.cancelled_caught
    assert os.read(reader, 100) == bytes(100)


async def test_after_a_hurry_what_cannot_be_written_is_dropped(pipe, monkeypatch):
    """A write that waits is given up after a while, the next ones at once, and plain writes cannot block either."""
    monkeypatch.setattr(terminal, "_LAST_S", 0.1)
    _, writer = pipe
    screen = Screen(out=writer, err=writer)
    async with anyio.create_task_group() as group:
        group.start_soon(screen.write, Output("stdout", bytes(200_000)))
        await anyio.sleep(0)  # it is under way
        screen.hurry()
    with anyio.fail_after(1):
        for _ in range(1000):
            await screen.write(Output("stderr", bytes(64_000)))
    assert os.write(writer, bytes(1_000_000)) == 1_000_000


async def test_after_a_hurry_a_reader_still_gets_what_it_reads(pipe):
    """The last words of a command that was asked to end arrive."""
    reader, writer = pipe
    seen = []
    thread = threading.Thread(target=read_all, args=(reader, seen))
    thread.start()
    screen = Screen(out=writer, err=2)
    screen.hurry()
    for _ in range(20):
        await screen.write(Output("stdout", b"bye" * 10_000))
    os.close(writer)
    await asyncio.to_thread(thread.join, 10)
    assert b"".join(seen) == b"bye" * 200_000


async def test_a_reader_that_left_is_told(pipe):
    """As the error that it is."""
    reader, writer = pipe
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        await Screen(out=writer, err=2).write(Output("stdout", b"x"))


SCRIPT = """
import asyncio, sys
from moat_core.cli.terminal import Screen
from moat_core.types import Output
async def main():
    write = asyncio.create_task(Screen().write(Output("stdout", bytes(1000000))))
    await asyncio.sleep(0.2)
    write.cancel()
    await asyncio.wait([write])
    assert write.cancelled()
asyncio.run(main())
"""


def test_a_write_that_never_ends_does_not_keep_the_program(pipe):
    """The interpreter's end waits for no write."""
    _, writer = pipe
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", SCRIPT], stdout=writer, stderr=subprocess.PIPE, timeout=10, check=True)
    assert done.stderr == b""
    assert time.monotonic() - started < 5
