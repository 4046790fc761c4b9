"""`moat run` and the user's end of it: streams that are closed or not read, keys that must work at every moment."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import time

import pytest
from world import MOAT

SANDBOX = pytest.mark.parametrize("sandbox", ["--sandbox", "--no-sandbox"])

PLUGIN = """
import contextlib, os, sys
import anyio
from moat_core.hooks import hookimpl

@hookimpl
@contextlib.asynccontextmanager
async def moat_open_run(run):
    if os.environ["SLOW"] == "open":
        print("opening", file=sys.stderr, flush=True)
        await anyio.sleep(1000)
    yield
    if os.environ["SLOW"] == "undo":
        print("undoing", file=sys.stderr, flush=True)
        await anyio.sleep(1000)
"""


def wait_for(condition, seconds=40):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def held(reader):
    """How many bytes wait in a pipe."""
    return struct.unpack("i", fcntl.ioctl(reader, termios.FIONREAD, b"\0" * 4))[0]


@pytest.fixture
def start(workspace):
    """Start the command; it does not outlive the test."""
    processes = []

    def start(*argv, **kwargs):
        processes.append(subprocess.Popen([*MOAT, *argv], cwd=workspace, **kwargs))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_end_in_the_database(world, workspace, home, closed):
    """What the container prints to a closed stdout goes nowhere, least of all into the next file that we open."""
    script = "yes garbage | head -c 300000; yes garbage | head -c 300000 >&2"
    argv = [*MOAT, "run", "--no-sandbox", "--", "sh", "-c", script]
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *argv]
    done = subprocess.run(command, cwd=workspace, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) == (0 if ">&-" in closed.split() else 300_000)
    assert done.stderr.count(b"garbage") == (0 if "2>&-" in closed else 300_000 // 8)
    with sqlite3.connect(home / "moat.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


@SANDBOX
@pytest.mark.parametrize("both", [False, True], ids=["stdout", "both"])
def test_signal_ends_a_run_whose_output_nobody_reads(world, start, sandbox, both):
    """A pipe that is full and stays so holds up neither the first Ctrl-C nor our own end."""
    reader, writer = os.pipe()
    try:
        process = start("run", sandbox, "--", "yes", stdout=writer, stderr=writer if both else subprocess.DEVNULL)
        wait_for(lambda: not select.select([], [writer], [], 0)[1])
        process.send_signal(signal.SIGINT)
        process.wait(timeout=15)
        assert process.returncode == 130
        assert not world.wait_until_empty(2)
    finally:
        os.close(reader)
        os.close(writer)


def test_second_signal_ends_a_run_whose_output_nobody_reads(world, start):
    """Nor the second, when the command does not want to end."""
    reader, writer = os.pipe()
    try:
        script = "trap '' TERM; while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyy; done"
        process = start("run", "--no-sandbox", "--", "sh", "-c", script, stdout=writer, stderr=writer)
        wait_for(lambda: not select.select([], [writer], [], 0)[1])
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        time.sleep(0.3)  # the moment is the test's input, not a synchronisation
        process.send_signal(signal.SIGINT)
        process.wait(timeout=15)
        assert process.returncode == 130
        assert time.monotonic() - started < 8
    finally:
        os.close(reader)
        os.close(writer)


def test_a_slow_reader_gets_everything(world, start):
    """A reader that pauses slows the run down, and misses nothing."""
    reader, writer = os.pipe()
    process = start("run", "--no-sandbox", "--", "seq", "1", "200000", stdout=writer, stderr=subprocess.DEVNULL)
    os.close(writer)
    wait_for(lambda: held(reader) > 32768)  # of 64 KiB in pages, of which the last of each write may be half full
    with open(reader, "rb") as stream:
        assert stream.read() == b"".join(b"%d\n" % n for n in range(1, 200001))
    assert process.wait(timeout=30) == 0


class Terminal:
    """A pseudo-terminal that is the controlling one of what is started on it."""

    def __init__(self):
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""

    @property
    def how(self):
        return {
            "stdin": self.slave, "stdout": self.slave, "stderr": self.slave, "start_new_session": True,
            "preexec_fn": lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        }  # fmt: skip

    @property
    def is_raw(self):
        return not termios.tcgetattr(self.slave)[3] & termios.ISIG

    def read_some(self, seconds=0.1):
        if select.select([self.master], [], [], seconds)[0]:
            self.seen += os.read(self.master, 65536)

    def read_until(self, text, seconds=40):
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            self.read_some()

    def type(self, keys):
        os.write(self.master, keys)

    def wait(self, process, seconds=20):
        deadline = time.monotonic() + seconds
        while process.poll() is None:
            assert time.monotonic() < deadline, self.seen
            self.read_some()
        return process.returncode


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    os.close(terminal.master)
    os.close(terminal.slave)


@pytest.fixture
def slow(tmp_path):
    """The environment of a plugin that takes its time to open, or to be undone."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/slow_plugin.py").write_text(PLUGIN)
    return lambda when: {
        **os.environ, "MOAT_PLUGINS": "slow_plugin", "SLOW": when,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(tmp_path / "lib"), os.environ.get("PYTHONPATH")])),
    }  # fmt: skip


def test_ctrl_c_works_while_an_interactive_run_opens(world, start, terminal, slow):
    """The terminal is still its old self, so that the key is a signal."""
    process = start("run", "-i", "--no-sandbox", env=slow("open"), **terminal.how)
    terminal.read_until(b"opening")
    terminal.type(b"\x03")
    assert terminal.wait(process) == 130
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_ctrl_c_works_while_an_interactive_run_is_undone(world, start, terminal, slow):
    """The terminal is its old self again once the command has ended, and the key is a signal; before, it is a key."""
    script = "trap 'echo it is a key' INT; echo ready; read x; exit 3"
    process = start("run", "-i", "--no-sandbox", "--", "sh", "-c", script, env=slow("undo"), **terminal.how)
    terminal.read_until(b"ready")
    wait_for(lambda: terminal.is_raw)
    terminal.type(b"\x03")
    terminal.read_until(b"it is a key")
    terminal.type(b"\r")
    terminal.read_until(b"undoing")
    assert termios.tcgetattr(terminal.slave) == terminal.before
    started = time.monotonic()
    terminal.type(b"\x03")
    terminal.read_until(b"Stopping")
    terminal.type(b"\x03")
    assert terminal.wait(process) == 130
    assert time.monotonic() - started < 8


def test_what_was_typed_ahead_is_read(world, start, terminal):
    """Lines typed while the run opens reach its shell."""
    process = start("run", "-i", "--no-sandbox", "--", "sh", "-c", "read x; echo got:$x", **terminal.how)
    terminal.type(b"early\n")
    assert terminal.wait(process) == 0
    terminal.read_until(b"got:early")


def test_a_supervisor_imports_nothing_from_the_workspace(world, moat, workspace):
    """What an agent left in the folder is not run on the host by the next `moat run -d` there."""
    for name in ("anyio", "json", "moat_core", "attrs"):
        text = f"open({str(workspace / 'ran')!r}, 'a').write({name!r}); raise SystemExit(9)\n"
        (workspace / f"{name}.py").write_text(text)
    argv = [sys.executable, "-P", "-m", "moat_core.cli", "run", "-d", "--no-sandbox", "--", "sleep", "1000"]
    done = subprocess.run(argv, cwd=workspace, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert moat("stop", "--all", cwd="/").returncode == 0
    assert not (workspace / "ran").exists()
