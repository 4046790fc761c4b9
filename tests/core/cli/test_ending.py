"""`moat stop` and `moat destroy`: the owner undoes, we wait; nothing is guessed, nothing is half done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fake_engine
import pytest

from moat_core.cli import ending
from moat_core.store.paths import Lock, is_locked


def undo_when_stopped(machine, after_s=0.0):
    """Be the owner: finish a run once its container is stopped."""

    def owner(run_id):
        if after_s:
            timer = threading.Timer(after_s, lambda: machine.locks.pop(run_id).release())
            timer.start()
        else:
            machine.finish(run_id)

    fake_engine.on_stop.append(owner)


def test_stop_stops_and_waits_for_the_owner(machine, moat):
    """The container gets its grace, the command returns when the lock is free."""
    run_id = machine.add_run("fox")
    undo_when_stopped(machine)
    result = moat("stop", "fox", "--grace", "3")
    assert (result.status, result.out) == (0, f"stopped fox ({run_id})\n")
    assert machine.engine["stopped"] == [[run_id, 3.0]]
    assert not is_locked(machine.home.run_lock(run_id))


def test_stop_waits_as_long_as_the_owner_needs(machine, moat, monkeypatch):
    """It does not return before the lock is free, and says what it waits for."""
    monkeypatch.setattr(ending, "_SAY_AFTER_S", 0.1)
    run_id = machine.add_run("fox")
    undo_when_stopped(machine, after_s=0.6)
    result = moat("stop", "fox")
    assert result.status == 0
    assert not is_locked(machine.home.run_lock(run_id))
    assert "waiting for its owner" in result.err


def test_stop_says_what_an_owner_left_undone(machine, moat, monkeypatch):
    """After a bounded time: 125, what is left, and how to go on."""
    monkeypatch.setattr(ending, "UNDO_S", 0.3)
    run_id = machine.add_run("fox")
    result = moat("stop", "fox", "--grace", "0")
    assert (result.status, result.out) == (125, "")
    assert f"fake.thing c-{run_id}" in result.err
    assert f"kill {os.getpid()}" in result.err


def test_stop_without_a_name_stops_nothing(machine, moat):
    """It never guesses which."""
    machine.add_run("fox")
    result = moat("stop")
    assert (result.status, "--all" in result.err) == (2, True)
    assert "stopped" not in machine.engine


def test_stop_all_stops_the_live_ones(machine, moat):
    """And only those."""
    ids = {machine.add_run("fox"), machine.add_run("owl")}
    machine.add_run("cat", live=False, state="exited", kept=True)
    undo_when_stopped(machine)
    assert moat("stop", "--all").status == 0
    assert {run_id for run_id, _ in machine.engine["stopped"]} == ids
    nothing = moat("stop", "--all")
    assert (nothing.status, "No run is alive." in nothing.err) == (0, True)


def test_stop_of_several_tells_all_problems(machine, moat):
    """One wrong name hinders nobody; the exit code is the worst."""
    machine.add_run("fox")
    undo_when_stopped(machine)
    result = moat("stop", "fox", "nobody", "run-ffffffff")
    assert (result.status, result.out.count("stopped")) == (2, 1)
    assert "'nobody'" in result.err
    assert "'run-ffffffff'" in result.err


def test_stop_names_each_once(machine, moat):
    """By name and by id it is one run."""
    run_id = machine.add_run("fox")
    undo_when_stopped(machine)
    assert moat("stop", "fox", run_id, run_id[:8]).out.count("stopped") == 1


def test_stop_of_what_is_over_is_no_error(machine, moat):
    """It says so."""
    machine.add_run("fox", live=False, state=None)
    result = moat("stop", "fox")
    assert (result.status, result.out, "over already" in result.err) == (0, "", True)


def test_stop_dry_run_changes_nothing(machine, moat):
    """It names what it would stop."""
    machine.add_run("fox")
    result = moat("stop", "--dry-run", "fox")
    assert (result.status, "would stop fox" in result.out) == (0, True)
    assert "stopped" not in machine.engine


def test_stop_passes_the_engines_refusal_on(machine, moat):
    """125 with the engine's sentence and hint."""
    machine.add_run("fox")
    machine.set_engine(refuses=True)
    result = moat("stop", "fox")
    assert (result.status, "refuses to stop it" in result.err, "Ask again." in result.err) == (125, True, True)


def test_stop_with_the_engine_down(machine, moat):
    """125 with what to do; the run is untouched."""
    run_id = machine.add_run("fox")
    machine.stop_engine()
    result = moat("stop", "fox")
    assert (result.status, "Start the fake engine." in result.err) == (125, True)
    assert is_locked(machine.home.run_lock(run_id))


OWNER = """
import signal, sys, time
from moat_core.store.paths import Lock
lock = Lock(sys.argv[1])
assert lock.acquire()
def end(*_):
    lock.release()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def owner(machine):
    """A process that owns a run and gives it up when it is asked to."""
    started = []

    def start(run_id):
        process = subprocess.Popen([sys.executable, "-c", OWNER, machine.home.run_lock(run_id)], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("kind", ["foreground", "detached"])
def test_stop_of_a_run_that_is_only_starting_asks_its_owner(machine, moat, owner, kind):
    """SIGTERM to the process that holds the lock; there is no container to stop."""
    run_id = machine.add_run("fox", live=False, state=None, phase="open", status=None, exit_code=None, owner_kind=kind)
    process = owner(run_id)
    machine.store.update_run(run_id, owner_pid=process.pid, created=time.time())
    assert moat("stop", "fox").status == 0
    assert process.wait(10) == 0


def test_stop_does_not_signal_a_program_that_uses_the_library(machine, moat, owner):
    """It may have many runs; it is named instead."""
    run_id = machine.add_run(
        "fox", live=False, state=None, phase="open", status=None, exit_code=None, owner_kind="library"
    )
    process = owner(run_id)
    machine.store.update_run(run_id, owner_pid=process.pid)
    result = moat("stop", "fox")
    assert (result.status, str(process.pid) in result.err) == (125, True)
    assert process.poll() is None


def test_stop_does_not_signal_who_only_has_the_owners_number(machine, moat, owner, monkeypatch):
    """A process that began after the run was made is not its owner, whoever holds the lock now."""
    monkeypatch.setattr(ending, "UNDO_S", 0.2)
    run_id = machine.add_run("fox", live=False, state=None, phase="open", status=None, exit_code=None)
    process = owner(run_id)
    machine.store.update_run(run_id, owner_pid=process.pid, created=time.time() - 3600)
    assert moat("stop", "fox", "--grace", "0").status == 125
    assert process.poll() is None


def test_owner_is_alive_knows_processes_by_their_beginning():
    """Ours is, a number that nobody has is not, and time before our beginning was not ours."""
    assert ending.owner_is_alive(os.getpid(), time.time())
    assert not ending.owner_is_alive(os.getpid(), time.time() - 365 * 86400)
    process = subprocess.Popen(["true"])
    process.wait()
    assert not ending.owner_is_alive(process.pid, time.time())


def test_destroy_removes_all_of_a_run(machine, moat):
    """The kept container, the log, the row and the lock file; another run stays."""
    run_id = machine.add_run("fox", live=False, state="exited", kept=True)
    other = machine.add_run("owl", live=False, state="exited", kept=True)
    machine.write_log(run_id, ("stdout", b"x"))
    result = moat("destroy", "fox")
    assert (result.status, result.out) == (0, f"destroyed fox ({run_id})\n")
    assert machine.engine["things"] == [f"c-{other}"]
    assert [row.id for row in machine.store.runs()] == [other]
    assert [row.run_id for row in machine.store.resources()] == [other]
    assert not Path(machine.home.run_folder(run_id)).exists()
    assert os.listdir(machine.home.locks) == []


def test_destroy_of_a_live_run_asks(machine, moat):
    """Without a terminal and without -f it is exit 2, and nothing happened."""
    run_id = machine.add_run("fox")
    result = moat("destroy", "fox")
    assert (result.status, "-f" in result.err) == (2, True)
    assert is_locked(machine.home.run_lock(run_id))
    undo_when_stopped(machine)
    assert moat("destroy", "-f", "fox").status == 0
    assert machine.engine["stopped"] == [[run_id, 0]]
    assert machine.store.runs() == []


def test_destroy_dry_run_names_what_would_go(machine, moat):
    """And removes nothing."""
    run_id = machine.add_run("fox", live=False, state="exited", kept=True)
    result = moat("destroy", "--dry-run", "fox")
    assert (result.status, f"c-{run_id}" in result.out) == (0, True)
    assert machine.engine["things"] == [f"c-{run_id}"]


def test_destroy_remembers_what_it_could_not_remove(machine, moat):
    """125; the run is still known, and the next try may succeed."""
    run_id = machine.add_run("fox", live=False, state="exited", kept=True)
    machine.set_engine(stuck=[f"c-{run_id}"])
    result = moat("destroy", "fox")
    assert (result.status, "is busy" in result.err, "Let go of it." in result.err) == (125, True, True)
    assert [row.id for row in machine.store.runs()] == [run_id]
    machine.set_engine(stuck=[])
    assert moat("destroy", "fox").status == 0


def test_destroy_does_not_fight_over_a_run(machine, moat, monkeypatch):
    """Somebody else works on it and does not end: said, and nothing is touched."""
    monkeypatch.setattr(ending, "UNDO_S", 0.3)
    run_id = machine.add_run("fox", live=False, state="exited", kept=True)
    lock = Lock(machine.home.run_lock(run_id))
    assert lock.acquire()
    try:
        machine.store.update_run(run_id, phase="over")
        result = moat("destroy", "-f", "fox")
        assert result.status != 0
        assert machine.engine["things"] == [f"c-{run_id}"]
    finally:
        lock.release()


def test_ctrl_c_while_waiting_is_130(machine):
    """Waiting for an owner can be given up."""
    machine.add_run("fox", state="exited")
    process = subprocess.Popen(
        [sys.executable, "-m", "moat_core.cli", "stop", "fox"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert b"waiting for its owner" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=20)[1]
    assert (process.returncode, b"Traceback" in error) == (130, False)
