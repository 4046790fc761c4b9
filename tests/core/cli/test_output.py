"""Output that cannot be written is one sentence and 125; one that is only slow is waited for; a signal is no traceback."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import threading

import pytest

from moat_core.cli.output import OutputLost, write_all

MOAT = [sys.executable, "-m", "moat_core.cli"]
VERBS = [
    ["version"],
    ["--version"],
    ["--help"],
    ["run", "--help"],
    ["list"],
    ["list", "--json"],
    ["status", "--json"],
    ["plugins"],
    ["hooks"],
    ["config", "schema"],
    ["config", "show"],
    ["completion", "bash"],
    ["run", "--dry-run", "--no-sandbox", "--", "true"],
]
# As the console script does. What comes before `main` is Python's own: there a signal shall end it without a word.
START = """
import os, sys, _signal
_signal.signal(_signal.SIGINT, _signal.SIG_DFL)
os.write(1, b"up")
from moat_core.cli.main import main
sys.exit(main())
"""


@pytest.fixture
def environ(tmp_path):
    return {**os.environ, "MOAT_HOME": str(tmp_path / "home"), "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_a_full_disk_behind_stdout(verb, environ, tmp_path):
    """One sentence, what to do, 125: whatever the verb."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*MOAT, *verb], stdout=full, stderr=subprocess.PIPE, env=environ, cwd=tmp_path, check=False
        )
    said = done.stderr.decode()
    assert done.returncode == 125, said
    assert "The output cannot be written: No space left on device." in said
    assert "Traceback" not in said
    assert "Exception ignored" not in said


@pytest.mark.parametrize("verb", [["version"], ["list"], ["config", "schema"]], ids=" ".join)
def test_a_terminal_that_has_gone(verb, environ, tmp_path):
    """EIO, as the window that was closed gives it: said like a full disk."""
    master, terminal = os.openpty()
    os.close(master)
    try:
        done = subprocess.run(
            [*MOAT, *verb], stdout=terminal, stderr=subprocess.PIPE, env=environ, cwd=tmp_path, check=False
        )
    finally:
        os.close(terminal)
    said = done.stderr.decode()
    assert done.returncode == 125, said
    assert "The output cannot be written: Input/output error." in said
    assert "Traceback" not in said
    assert "Exception ignored" not in said


@pytest.mark.parametrize(
    "verb", [["list"], ["nonsense"], ["stop", "nobody"], ["run", "-e", "1=x", "--", "true"]], ids=" ".join
)
def test_a_full_disk_behind_stderr(verb, environ, tmp_path):
    """There is nobody to tell: the exit code alone says what there is to say."""
    expected = subprocess.run([*MOAT, *verb], capture_output=True, env=environ, cwd=tmp_path, check=False).returncode
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*MOAT, *verb], stdout=subprocess.PIPE, stderr=full, env=environ, cwd=tmp_path, check=False
        )
    assert done.returncode == expected


@pytest.mark.parametrize("verb", [["config", "schema"], ["run", "--help"]], ids=" ".join)
def test_a_reader_that_has_left(verb, environ, tmp_path):
    """As for any program in a pipe: killed by SIGPIPE, says the shell; and nothing on stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as gone:
        done = subprocess.run(
            [*MOAT, *verb], stdout=gone, stderr=subprocess.PIPE, env=environ, cwd=tmp_path, check=False
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_pipe_that_somebody_made_non_blocking(environ, tmp_path):
    """All of it arrives, however slowly it is read."""
    expected = subprocess.run(
        [*MOAT, "config", "schema"], capture_output=True, env=environ, cwd=tmp_path, check=True
    ).stdout
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    assert len(expected) > 2 * 4096
    process = subprocess.Popen(
        [*MOAT, "config", "schema"], stdout=writer, stderr=subprocess.PIPE, env=environ, cwd=tmp_path
    )
    os.close(writer)
    got = b""
    while piece := os.read(reader, 100):
        got += piece
    os.close(reader)
    said = process.communicate()[1]
    assert (process.returncode, said) == (0, b"")
    assert got == expected


def test_what_write_all_does_with_each_kind_of_end(tmp_path):
    """Waits for room, tells a reader that has left from a disk that is full."""
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OutputLost):
        write_all(full.fileno(), b"x")
    with (tmp_path / "closed").open("wb") as file, pytest.raises(OutputLost):
        write_all(os.dup(file.fileno()) + 1000, b"x")
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    read = bytearray()

    def drain():
        while piece := os.read(reader, 65536):
            read.extend(piece)

    thread = threading.Thread(target=drain)
    thread.start()
    write_all(writer, memoryview(b"ab" * 500_000))
    os.close(writer)
    thread.join()
    os.close(reader)
    assert bytes(read) == b"ab" * 500_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
@pytest.mark.parametrize("verb", [["list"], ["plugins"], ["run", "--dry-run", "--", "true"]], ids=" ".join)
def test_a_signal_at_any_moment_is_no_traceback(verb, number, environ, tmp_path):
    """From the first import of ours to the last word: 128 + n or the verb's own end, and no Python on stderr."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", START, *verb],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environ,
            cwd=tmp_path,
        )
        assert process.stdout.read(2) == b"up"
        timer = threading.Timer(chance.random() ** 2 * 1.5, process.send_signal, [number])
        timer.start()
        said = process.communicate()[1].decode()
        timer.cancel()
        timer.join()
        assert "Traceback" not in said, (seed, said)
        assert "Exception ignored" not in said, (seed, said)
        assert process.returncode in {0, 2, 125, 128 + number, -number}, (seed, said)  # - n: a shell says 128 + n, too


def test_a_signal_that_is_ignored_stays_ignored(environ, tmp_path):
    """As a script's background jobs have it."""
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from moat_core.cli.early import leave_at_once; leave_at_once()\n"
        "assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN; assert callable(signal.getsignal(signal.SIGTERM))"
    )
    subprocess.run([sys.executable, "-c", code], env=environ, cwd=tmp_path, check=True)
