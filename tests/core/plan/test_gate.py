"""A container is held until its owner says the word, for real by sh."""

from __future__ import annotations

import os
import pty
import subprocess

import pytest

from moat_core.plan import hold_init, word

ARGV = ("/bin/sh", "-c", 'set -eu\nexec "$@"', "moat-init", "sh", "-c", "echo begun; cat")


@pytest.mark.parametrize(("stdin", "output"), [(True, b"begun\nmine\n"), (False, b"begun\n")])
def test_what_follows_the_word_is_the_commands(stdin, output):
    """To the byte; a command that is to have no input reads end-of-file."""
    argv = hold_init(ARGV, tty=False, stdin=stdin)
    done = subprocess.run(argv, input=word(tty=False) + b"mine\n", capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, output, b"")


@pytest.mark.parametrize("said", [b"", b"\n", b"no\n", b"moat-g"])
def test_nothing_begins_without_the_word(said):
    """The end of the stream, which the owner's death is, is none."""
    done = subprocess.run(hold_init(ARGV, tty=False, stdin=True), input=said, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"without its owner" in done.stderr


def test_a_terminal_does_not_show_it():
    """The command's first byte is the first that is seen, and it still has the terminal."""
    master, slave = pty.openpty()
    script = ("/bin/sh", "-c", 'set -eu\nexec "$@"', "moat-init", "sh", "-c", "echo begun; read line; echo $line; tty")
    process = subprocess.Popen(
        hold_init(script, tty=True, stdin=True), stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    os.close(slave)
    os.write(master, word(tty=True))
    seen = b""
    while b"begun" not in seen:
        seen += os.read(master, 100)
    os.write(master, b"mine\n")
    while seen.count(b"\n") < 4:
        seen += os.read(master, 100)
    process.wait(timeout=30)
    os.close(master)
    assert seen.startswith(b"begun\r\nmine\r\nmine\r\n/dev/pts/")
