"""Who sees to the reaping: one for a home, as long as it takes, however the engine is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moat_core.store import RunRow
from moat_core.store.paths import Lock
from moat_core.store.vigil import Vigil, find_dead

_VIGIL = [sys.executable, "-m", "moat_core.store.vigil"]


def dead_run(moat, run_id, **values):
    """Write down a run that nobody owns, with a network that its owner left on the fake engine."""
    store = moat.store()
    texts = {"runtime": "fake", "address": moat.engine.folder, "probe": "moat_core.testing.probe:states"}
    others = {"workspace": "/", "owner_kind": "x", "owner_pid": 1, "sandboxed": 0, "env_names": [], "ports": {}}
    fields = {**texts, **others, "urls": {}, "phase": "act", "created": 1.0, **values}
    store.add_run(RunRow(id=run_id, name="dead", **fields))
    name = f"net-{run_id}"
    row = store.add_intent(run_id, "fake.network", {"address": fields["address"], "name": name})
    store.set_state(row, "live")
    store.close()
    moat.engine.make("networks", name, {"run_id": run_id, "labels": {}})


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def rss_kib(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.fixture
def vigil(moat):
    """Start one in a process of its own; it is ended, should it still be there."""
    started = []

    def start():
        process = subprocess.Popen(_VIGIL, stderr=subprocess.PIPE)
        started.append(process)
        return process

    moat.home.make()
    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_it_waits_for_an_engine_that_is_away_and_is_small(moat, vigil):
    """No reaper is started in vain, and once the engine is back nothing is left, with no other command."""
    for number in range(50):
        dead_run(moat, f"run-000000{number:02d}")
    moat.engine.go_down()
    process = vigil()
    wait_for(lambda: Path(moat.home.path, "vigil.lock").exists())
    second = vigil()
    assert second.wait(60) == 0
    assert process.poll() is None
    assert children(process.pid) == []
    assert rss_kib(process.pid) < 32 * 1024
    moat.engine.come_up()
    assert process.wait(60) == 0
    assert moat.engine.left() == []
    assert find_dead(moat.home) == {}


def test_who_dies_meanwhile_is_seen_by_who_keeps_vigil(moat, vigil):
    """What cannot be undone is tried again after a pause, which nobody else has to wait for."""
    dead_run(moat, "run-00000001")
    store = moat.store()
    stuck = store.add_intent("run-00000001", "gone.thing", {})
    process = vigil()
    wait_for(lambda: moat.engine.left() == [])
    dead_run(moat, "run-00000002")
    wait_for(lambda: moat.engine.left() == [])
    assert process.poll() is None
    store.forget_resource(stuck)
    assert process.wait(60) == 0
    assert store.unfinished() == []
    store.close()


def test_another_engine_is_not_waited_for(moat, vigil, tmp_path):
    """Each has a lane of its own."""
    dead_run(moat, "run-00000001", address=str(tmp_path / "nowhere"))
    moat.engine.remove("networks", "net-run-00000001")
    Path(tmp_path, "nowhere").mkdir()
    Path(tmp_path, "nowhere", "down").touch()
    dead_run(moat, "run-00000002")
    process = vigil()
    other = ("moat_core.testing.probe:states", str(tmp_path / "nowhere"))
    wait_for(lambda: moat.engine.left() == [] and list(find_dead(moat.home)) == [other])
    assert process.poll() is None


def test_its_patience_ends(moat):
    """After a day what is left is the next command's."""
    dead_run(moat, "run-00000001")
    moat.engine.go_down()
    Vigil(moat.home, patience_s=0.2).keep()
    assert list(find_dead(moat.home).values()) == [["run-00000001"]]


def test_a_newer_file_is_got_round(moat, vigil):
    """The runs' own journals tell what is left."""
    dead_run(moat, "run-00000001")
    store = moat.store()
    store._write("PRAGMA user_version = 99", ())
    store.close()
    assert vigil().wait(60) == 0
    assert moat.engine.left() == []


def test_a_home_that_is_gone_is_not_waited_for(moat, vigil):
    """Nothing is made again there."""
    dead_run(moat, "run-00000001")
    moat.engine.go_down()
    process = vigil()
    wait_for(lambda: Path(moat.home.path, "vigil.lock").exists())
    Path(moat.home.path).rename(moat.home.path + ".moved")
    assert process.wait(60) == 0
    assert not Path(moat.home.path).exists()


def test_a_live_owner_is_left_alone(moat):
    """Its lock says that it lives."""
    dead_run(moat, "run-00000001")
    lock = Lock(moat.home.run_lock("run-00000001"))
    assert lock.acquire()
    assert find_dead(moat.home) == {}
    lock.release()
    os.sched_yield()
    assert list(find_dead(moat.home).values()) == [["run-00000001"]]
