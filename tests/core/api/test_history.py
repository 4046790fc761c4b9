"""Runs that are over are forgotten by age and number, a little at a time; the living and the kept never."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import attrs
import pytest

from moat_core.api.history import forget_old
from moat_core.config import HistoryConfig
from moat_core.errors import ConfigError
from moat_core.store import RunRow, Store
from moat_core.store.paths import Lock

DAY_S = 24 * 3600


def past_run(store, number, *, days=0.0, phase="over"):
    run_id = f"run-{number:08x}"
    texts = dict.fromkeys(("runtime", "address", "probe", "workspace", "owner_kind"), "x")
    ended = time.time() - days * DAY_S
    others = {"owner_pid": 1, "sandboxed": 0, "env_names": [], "ports": {}, "urls": {}, "status": "finished"}
    store.add_run(RunRow(id=run_id, name="old", phase=phase, created=ended - 1, ended=ended, **texts, **others))
    Path(store.home.run_folder(run_id), "log").write_text("words")
    return run_id


@pytest.fixture
def store(moat):
    """The home's store."""
    store = moat.store()
    yield store
    store.close()


def test_by_number_and_by_age(store):
    """The oldest go first, with their folders; what left something stays, however old, and so does the living."""
    old = [past_run(store, number, days=100 - number) for number in range(10)]
    store.set_state(store.add_intent(old[0], "k", {}), "kept")
    past_run(store, 50, days=90, phase="act")
    lock = Lock(store.home.run_lock(old[1]))
    lock.acquire()
    young = [past_run(store, number, days=1) for number in range(100, 105)]
    assert forget_old(store, HistoryConfig(days=95.5, runs=100)) == old[2:5]
    assert forget_old(store, HistoryConfig(days=1000, runs=9)) == old[5:8]
    lock.release()
    assert forget_old(store, HistoryConfig(days=30, runs=100)) == [old[1], *old[8:]]
    assert {run.id for run in store.runs()} == {old[0], "run-00000032", *young}
    assert set(os.listdir(store.home.runs)) == {old[0], "run-00000032", *young}
    assert forget_old(store, HistoryConfig()) == []


def test_a_little_at_a_time(store, monkeypatch):
    """No command pays for all of it."""
    monkeypatch.setattr("moat_core.api.history._AT_ONCE", 3)
    for number in range(7):
        past_run(store, number, days=50)
    assert [len(forget_old(store, HistoryConfig())) for _ in range(3)] == [3, 3, 1]


async def test_whoever_had_a_run_sweeps_up(moat, store, monkeypatch, tmp_path):
    """At its end, by the user's own config."""
    past_run(store, 1, days=20)
    config = tmp_path / "config" / "moat"
    config.mkdir(parents=True)
    (config / "config.yaml").write_text("history: {days: 10}\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    async with moat.moat() as library:
        await library.list()
    assert store.run("run-00000001") is not None
    async with moat.moat() as library, library.run(moat.workspace) as run:
        run_id = run.id
    assert [row.id for row in store.runs()] == [run_id]


async def test_a_workspace_does_not_decide_on_history(moat):
    """Its config would throw away what other workspaces' runs have left."""
    Path(moat.workspace, "agent.yaml").write_text("history: {runs: 0}\n")
    async with moat.moat() as library:
        with pytest.raises(ConfigError, match="not for a workspace to decide"):
            library.plan(library.request(moat.workspace, config="workspace"))
        assert library.config(moat.workspace).core.history == HistoryConfig()  # a stranger's is left out


def test_old_runs_are_not_read_for_those_that_are_present(store):
    """The index serves the question, whatever the history's size."""
    past_run(store, 1)
    with sqlite3.connect(store.home.database) as connection:
        sql = "SELECT * FROM runs WHERE {} ORDER BY created DESC, id"
        from moat_core.store import db

        for where in (db._ALIVE, db._PRESENT):
            plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + sql.format(where))]
            assert not [step for step in plan if step.startswith("SCAN runs")], plan
    connection.close()
    assert isinstance(store, Store)
    assert attrs.asdict(HistoryConfig()) == {"days": 30.0, "runs": 1000}
