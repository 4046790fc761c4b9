"""`moat exec`: the command's own exit code and bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

MOAT = [sys.executable, "-m", "moat_core.cli"]


def said(result):
    return json.loads(result.out)


def test_what_is_asked_for_reaches_the_command(machine, moat, monkeypatch):
    """Words after the run's name are the command's, dashes included; env, folder and user with it."""
    machine.add_run("fox")
    monkeypatch.setenv("TOKEN", "secret")
    result = moat("exec", "-e", "A=b=c", "-e", "TOKEN", "-w", "/tmp", "-u", "root", "fox", "--", "ls", "-l", "--", "-e")
    assert result.status == 0
    assert said(result) == {
        "argv": ["ls", "-l", "--", "-e"], "env": {"A": "b=c", "TOKEN": "secret"}, "cwd": "/tmp", "user": "root",
    }  # fmt: skip


def test_dashes_may_be_left_out(machine, moat):
    """`moat exec fox ls -l` is the same."""
    machine.add_run("fox")
    assert said(moat("exec", "fox", "ls", "-l", "--help"))["argv"] == ["ls", "-l", "--help"]


def test_streams_are_exact(machine):
    """Bytes of both streams come out as they are, apart."""
    machine.add_run("fox")
    done = subprocess.run(
        [*MOAT, "exec", "fox", "--", "echo"], capture_output=True, stdin=subprocess.DEVNULL, check=True
    )
    assert done.stderr == b"\xff\x00 no newline"
    assert done.stdout.startswith(b"{")


@pytest.mark.parametrize("code", [0, 1, 2, 37, 126, 127, 137, 255])
def test_the_exit_code_is_the_commands(machine, moat, code):
    """Whatever it is."""
    machine.add_run("fox")
    assert moat("exec", "fox", "--", "code", str(code)).status == code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["exec"], "RUN"),
        (["exec", "fox"], "COMMAND"),
        (["exec", "fox", "--"], "COMMAND"),
        (["exec", "cat", "--", "ls"], "There is no run 'cat'"),
        (["exec", "-e", "1=2", "fox", "--", "ls"], "--env"),
        (["exec", "-e", "NOT_SET_HERE", "fox", "--", "ls"], "not set"),
        (["exec", "--timeout", "0", "fox", "--", "ls"], "timeout"),
        (["exec", "--timeout", "x", "fox", "--", "ls"], "timeout"),
    ],
)
def test_mistakes_are_exit_2(machine, moat, arguments, words):
    """One clear sentence, no traceback, nothing on stdout."""
    machine.add_run("fox")
    result = moat(*arguments)
    assert (result.status, result.out) == (2, "")
    assert words in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(("live", "state"), [(True, None), (False, None)])
def test_a_run_that_is_not_running_is_125(machine, moat, live, state):
    """Not the command's failure: 125, and it says what the run is."""
    machine.add_run("fox", live=live, state=state)
    result = moat("exec", "fox", "--", "ls")
    assert (result.status, "is not running" in result.err) == (125, True)


def test_a_container_that_goes_away_is_125(machine, moat):
    """It is told as that, although it was noticed inside a task group."""
    machine.add_run("fox")
    result = moat("exec", "fox", "--", "gone")
    assert (result.status, result.out) == (125, "")
    assert "The container went away." in result.err
    assert "Traceback" not in result.err


def test_an_engine_that_is_down_is_125_with_its_hint(machine, moat):
    """The engine's own error, not a guess about the run."""
    machine.add_run("fox")
    machine.stop_engine()
    result = moat("exec", "fox", "--", "ls")
    assert (result.status, "Start the fake engine." in result.err) == (125, True)


def test_a_time_limit_kills_and_says_so(machine, moat):
    """137; the process's context was left, which kills it."""
    machine.add_run("fox")
    result = moat("exec", "--timeout", "0.2", "fox", "--", "hang")
    assert (result.status, result.out) == (137, "hanging\n")
    assert "killed after 0.2 s" in result.err
    assert machine.engine["ended"] == [{"argv": ["hang"], "done": False}]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_ends_the_command_in_order(machine, number, status):
    """The command inside is ended before we go, and the exit code names the signal."""
    machine.add_run("fox")
    process = subprocess.Popen(
        [*MOAT, "exec", "fox", "--", "hang"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"hanging\n"
    process.send_signal(number)
    error = process.communicate(timeout=30)[1]
    assert process.returncode == status
    assert b"Traceback" not in error
    assert machine.engine["ended"] == [{"argv": ["hang"], "done": False}]


def test_a_reader_that_leaves_is_141(machine):
    """`moat exec … | true`: no traceback."""
    machine.add_run("fox")
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [*MOAT, "exec", "fox", "--", "echo"],
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert process.returncode == 141
    assert b"Traceback" not in process.stderr


def test_it_asks_nothing_of_dead_runs(machine, moat):
    """An exec is quick: what dead owners left is not undone first."""
    machine.add_run("fox")
    machine.die(machine.add_run("owl"))
    began = time.monotonic()
    result = moat("exec", "fox", "--", "code", "5")
    assert result.status == 5
    assert "its owner is gone" not in result.err
    assert time.monotonic() - began < 5
