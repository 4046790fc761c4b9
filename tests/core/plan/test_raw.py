"""Bytes that are not UTF-8 reach a program through text, in each shell that an image may have."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moat_core.errors import ArgumentTooLong
from moat_core.plan import as_text
from moat_core.types import Command

words = st.binary(max_size=12).filter(lambda word: b"\0" not in word)


def run(command, **options):
    """Run COMMAND as an engine does that takes text only."""
    argv = [word.encode() for word in command.argv]  # raises if it is none
    env = {"PATH": "/usr/bin:/bin", **command.env}
    return subprocess.run(argv, env=env, cwd=command.cwd, capture_output=True, check=False, **options)


def test_text_is_left_as_it_is():
    """A usual command costs nothing: no shell, no process more."""
    command = Command(("printf", "ä\n'"), {"A": "漢"}, "/tmp")
    assert as_text(command) is command


@settings(max_examples=60, deadline=None)
@given(st.lists(words, max_size=4), words)
def test_bytes_come_out_as_they_went_in(arguments, value):
    """Arguments and variables: newlines at the end, quotes, percent signs and all."""
    command = Command([b"sh", b"-c", b'printf "%s|" "$A" "$@"', b"sh\xff", *arguments], {"A": value})
    said = run(as_text(command))
    assert (said.returncode, said.stderr) == (0, b"")
    assert said.stdout == b"".join(word + b"|" for word in (value, *arguments))


def test_a_folder_of_any_name(tmp_path):
    """The command starts there; one that is not there is told as the engine tells it."""
    import os

    folder = os.fsencode(tmp_path) + b"/\xff\n"
    os.mkdir(folder)
    assert run(as_text(Command(["pwd"], cwd=folder))).stdout == folder + b"\n"
    said = run(as_text(Command(["pwd"], cwd=folder + b"no")))
    assert said.returncode == 126
    assert b"no such folder" in said.stderr


def test_a_program_that_is_not_there_or_may_not_be_run(tmp_path):
    """127 and 126, as shells say it."""
    assert run(as_text(Command([b"no\xff"]))).returncode == 127
    (tmp_path / "plain").write_text("")
    assert run(as_text(Command([str(tmp_path / "plain"), b"\xff"]))).returncode == 126


def test_what_is_too_long_for_the_text_is_an_error():
    """An OSError like the kernel's, before anything is made."""
    with pytest.raises(ArgumentTooLong):
        as_text(Command([b"cat", b"\xff" * 60_000]))
