"""`moat clean`: it lists, asks, removes, and says what it did; live runs are never touched."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moat_core.store.paths import Lock

MOAT = [sys.executable, "-m", "moat_core.cli"]
LEFTOVER = {"kind": "image", "name": "moat/run:0123", "reason": "No container uses it.", "size_bytes": 5_000_000}


def mess(machine):
    """Something of every kind that may go, and something that may not; return the live run's id."""
    live = machine.add_run("live")
    machine.add_run("stopped", live=False, state=None)
    machine.add_run("failed", live=False, state=None, status="failed", error="It broke.", exit_code=None)
    kept = machine.add_run("kept", live=False, state="exited", kept=True)
    machine.write_log(kept, ("stdout", b"x" * 1000))
    machine.die(machine.add_run("dead"))
    machine.set_engine(things=[*machine.engine["things"], LEFTOVER["name"]], leftovers=[LEFTOVER])
    Path(machine.home.run_folder("run-0f0f0f0f")).mkdir()
    Path(machine.home.database + ".broken-20260101-000000").write_bytes(b"?" * 10)
    return live


def picture(machine):
    """All that there is."""
    files = sorted(str(path) for path in Path(machine.home.path).rglob("*") if "moat.db-" not in path.name)
    return machine.engine, files, [row.id for row in machine.store.runs()], len(machine.store.resources())


def test_dry_run_changes_nothing_and_names_everything(machine, moat):
    """Not even dead owners are finished."""
    mess(machine)
    before = picture(machine)
    result = moat("clean", "--dry-run")
    assert result.status == 0
    for word in ("stopped (", "failed (", "It broke.", "kept (", "dead (", "Its owner died", "moat/run:0123", "5.0 MB",
                 "run-0f0f0f0f", ".broken-"):  # fmt: skip
        assert word in result.out
    assert "live (" not in result.out
    assert picture(machine) == before


def test_clean_leaves_what_is_alive(machine, moat):
    """Everything else is gone afterwards, and each thing was named."""
    live = mess(machine)
    result = moat("clean", "-f")
    assert (result.status, result.err.splitlines()[-1]) == (0, "7 removed, 5.0 MB freed.")
    assert result.out.count("\nremoved ") == 7
    assert machine.engine["things"] == [f"c-{live}"]
    assert [row.id for row in machine.store.runs()] == [live]
    assert [row.run_id for row in machine.store.resources()] == [live]
    assert os.listdir(machine.home.runs) == [live]
    assert os.listdir(machine.home.locks) == [f"{live}.lock"]
    assert not any(".broken-" in name for name in os.listdir(machine.home.path))
    again = moat("clean", "-f")
    assert (again.status, again.out, "nothing to clean" in again.err) == (0, "", True)


def test_nobody_there_to_ask_is_exit_2(machine, moat):
    """No terminal and no -f: it says so, after the list, and removes nothing."""
    mess(machine)
    before = picture(machine)
    result = moat("clean")
    assert (result.status, "-f" in result.err) == (2, True)
    assert "moat/run:0123" in result.out
    assert picture(machine) == before


@pytest.mark.parametrize(
    ("answer", "status", "left"), [(b"y\n", 0, 0), (b"n\n", 130, 1), (b"\n", 130, 1), (b"\x04", 130, 1)]
)
def test_it_asks_at_a_terminal(machine, answer, status, left):
    """Only a yes removes."""
    machine.add_run("fox", live=False, state=None)
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*MOAT, "clean"], stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    seen = b""
    while b"[y/N]" not in seen:
        seen += os.read(ours, 1024)
    assert b"Remove this (" in seen
    os.write(ours, answer)
    assert process.wait(30) == status
    os.close(ours)
    assert len(machine.store.runs()) == left


def test_json_says_what_was_found_removed_and_failed(machine, moat):
    """Alone on stdout; a thing that cannot go is exit 1 and hinders no other."""
    mess(machine)
    machine.set_engine(stuck=["moat/run:0123"])
    result = moat("clean", "-f", "--json")
    assert result.status == 1
    report = result.json
    assert set(report) == {"dry_run", "found", "removed", "failed", "freed_bytes", "problems"}
    assert len(report["found"]) == 7
    assert len(report["removed"]) == 6
    assert report["failed"] == [
        {"kind": "image", "name": "moat/run:0123", "run_id": None, "reason": "No container uses it.",
         "size_bytes": 5_000_000, "message": "moat/run:0123 is busy.", "hint": "Let go of it."}
    ]  # fmt: skip
    assert report["freed_bytes"] >= 1000
    assert "moat/run:0123 is still there" in result.err


def test_json_without_force_asks_nobody(machine, moat):
    """Exit 2; nothing on stdout that could be taken for a result."""
    mess(machine)
    result = moat("clean", "--json")
    assert (result.status, result.out) == (2, "")
    assert json.loads(result.err)["error"]["code"] == "usage"


def test_what_becomes_unused_goes_too(machine, moat):
    """An image whose last container was kept goes in the same command."""
    run_id = machine.add_run("kept", live=False, state="exited", kept=True)
    machine.set_engine(things=[*machine.engine["things"], LEFTOVER["name"]], then={f"c-{run_id}": [LEFTOVER]})
    result = moat("clean", "-f")
    assert result.status == 0
    assert machine.engine["things"] == []
    assert "With that gone" in result.err


def test_a_thing_that_comes_back_is_not_removed_for_ever(machine, moat):
    """What is found again after it failed is not tried again."""
    machine.set_engine(things=["a"], stuck=["a"], leftovers=[{**LEFTOVER, "name": "a"}])
    result = moat("clean", "-f")
    assert (result.status, result.err.count("is still there")) == (1, 1)


def test_an_engine_that_is_down_is_said_and_the_rest_is_cleaned(machine, moat):
    """Files go, kept containers stay remembered; exit 1; nobody waits half a minute for each."""
    stopped = machine.add_run("stopped", live=False, state=None)
    kept = [machine.add_run(f"kept-{n}", live=False, state="exited", kept=True) for n in range(3)]
    machine.stop_engine()
    began = time.monotonic()
    result = moat("clean", "-f")
    assert time.monotonic() - began < 15
    assert result.status == 1
    assert "No fake engine answers" in result.err
    assert sorted(row.id for row in machine.store.runs()) == sorted(kept)
    assert not Path(machine.home.run_folder(stopped)).exists()


def test_a_run_that_came_to_life_meanwhile_is_left(machine, moat, monkeypatch):
    """Between the list and the yes its owner may have taken its lock."""
    from moat_core.cli.commands import clean

    run_id = machine.add_run("fox", live=False, state="exited", kept=True)
    lock = Lock(machine.home.run_lock(run_id))

    def answer(question, *, force):
        assert lock.acquire()

    monkeypatch.setattr(clean, "confirm", answer)
    result = moat("clean", "-f")
    lock.release()
    assert result.status == 1
    assert machine.engine["things"] == [f"c-{run_id}"]


def test_rows_of_a_forgotten_run_are_found(machine, moat):
    """A ledger row whose run is unknown is undone as well."""
    machine.home.make()
    machine.store.add_intent("run-12345678", "fake.thing", {"name": "lonely"})
    machine.set_engine(things=["lonely"])
    assert moat("clean", "-f").status == 0
    assert machine.engine["things"] == []
    assert machine.store.resources() == []


def test_a_kind_that_nobody_knows_is_said(machine, moat):
    """Its plugin is gone: the row stays, the error tells what to install."""
    run_id = machine.add_run("fox", live=False, state=None)
    row = machine.store.add_intent(run_id, "other.thing", {"name": "x"})
    machine.store.set_state(row, "kept")
    result = moat("clean", "-f")
    assert (result.status, "the plugin that made it is not loaded" in result.err) == (1, True)
    assert [row.run_id for row in machine.store.resources()] == [run_id]


def test_cleaning_ends_the_looking_by_label(machine, moat):
    """After a broken store every listing asks the engine, until nothing is lost any more."""
    machine.home.make()
    machine.store.set_note("rebuilt", "1")
    assert moat("clean", "-f").status == 0
    assert machine.store.note("rebuilt") is None
    run_id = machine.add_run("fox")
    machine.store.forget_run(run_id)
    for row in machine.store.resources():
        machine.store.forget_resource(row.id)
    machine.store.set_note("rebuilt", "1")
    assert moat("clean", "-f").status == 0
    assert machine.store.note("rebuilt") == "1"


def test_hostile_names_are_escaped(machine, moat):
    """A leftover's name is the engine's word."""
    machine.set_engine(things=["x\x1b[2J"], leftovers=[{**LEFTOVER, "name": "x\x1b[2J"}])
    result = moat("clean", "-f")
    assert "\x1b" not in result.out + result.err
    assert machine.engine["things"] == []
