"""Bad days: a state that is lost, engines that are late, away or frozen, owners that die at the wrong moment, signals.

An attack has worked if something is left, forgotten or said falsely afterwards. The engine is the fake one: what is
attacked is core's own; `test_chaos_frozen` does the same to a real engine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import anyio
import attrs
import pytest
from attack import attack

from moat_core.errors import ConfigError
from moat_core.ledger import Connections, Resource
from moat_core.ledger.lane import Lane, Reaped
from moat_core.store import Home, RunRow, Store
from moat_core.store.vigil import Vigil
from moat_core.testing import FakeEngine

RUN = "run-00000001"
BUILT_INS = "buildkit,dependencies,docker,docker_dind,docker_host,gvisor,host_ca,routing,workspace"


@pytest.fixture
def engine_folder(tmp_path, monkeypatch):
    """A fake engine and a home for every process that is started here."""
    engine = FakeEngine(tmp_path / "engine")
    environ = {"MOAT_FAKE_ENGINE": engine.folder, "MOAT_PLUGINS": "moat_core.testing.fake", "MOAT_DISABLE": BUILT_INS}
    for key, value in {**environ, "MOAT_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(key, value)
    return engine


@pytest.fixture
def store(tmp_path):
    """The state of a home where one run is remembered, whose owner holds the file open."""
    store = Store(Home(tmp_path / "home"))
    yield store
    store.close()


def add_run(store, run_id=RUN, **values):
    texts = dict.fromkeys(("workspace", "owner_kind"), "x") | {"runtime": "fake", "address": "", "probe": ""}
    others = {"owner_pid": 1, "sandboxed": 0, "env_names": [], "ports": {}, "urls": {}, "phase": "act", "created": 1.0}
    store.add_run(RunRow(id=run_id, name="fox", **{**texts, **others, **values}))


# -- the state file ------------------------------------------------------------------------------------------------


def _without_log(path):
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _cut(path):
    _without_log(path)
    os.truncate(path, 5000)


def _header(path):
    _without_log(path)
    path.write_bytes(b"\xff" * 100 + path.read_bytes()[100:])


def _remove_all(path):
    _without_log(path)
    path.unlink()


def _drop_rows(path):
    _remove_all(path)
    path.touch()


LOSSES = {
    "emptied in place": lambda path: os.truncate(path, 0),
    "deleted": lambda path: path.unlink(),
    "deleted with its log": _remove_all,
    "an empty file in its place": _drop_rows,
    "its header overwritten": _header,
    "cut short": _cut,
    "zeros all over": lambda path: (_without_log(path), path.write_bytes(b"\0" * path.stat().st_size)),
    "a folder's worth of noise": lambda path: (_without_log(path), path.write_bytes(os.urandom(20_000))),
}


@attack("lost state", LOSSES)
def test_a_lost_file_makes_nobody_forget_what_lives(row, defended, store, monkeypatch):
    """While the owner holds the old one: somebody new sees no run, no name in use, nothing kept to leave alone."""
    if not defended:
        monkeypatch.setattr("moat_core.store.journal.read_all", lambda home: [])
    add_run(store)
    live = store.add_intent(RUN, "k", {"name": "live"})
    kept = store.add_intent(RUN, "k", {"name": "kept"})
    store.set_state(live, "live")
    store.set_state(kept, "kept")
    row(Path(store.home.database))
    other = Store(store.home)
    try:
        names = [run.name for run in other.runs()]
        states = {each.id: each.state for each in other.resources()}
    finally:
        other.close()
    return names != ["fox"] or states != {live: "live", kept: "kept"}


# -- the engine's clock --------------------------------------------------------------------------------------------


@attrs.frozen
class Late(Resource):
    """Something that an engine makes later than anybody has waited for."""

    kind: ClassVar[str] = "test.late"
    name: str
    there: ClassVar[list[str]] = []

    async def create(self, ctx):
        """Nobody does."""

    async def release(self, ctx):
        await anyio.lowlevel.checkpoint()
        if self.name in self.there:
            self.there.remove(self.name)
            return True
        return False


@attrs.frozen
class Growing(Late):
    """Something of which there may come more."""

    kind: ClassVar[str] = "test.growing"
    may_grow: ClassVar[bool] = True


MOMENTS = {
    "a young intent": (Late, "intent", 0.0, 0.2),
    "an intent from before a standstill": (Late, "intent", 600.0, 0.2),
    "just before nobody looks any more": (Late, "intent", 9.0, 0.45),
    "what goes on growing": (Growing, "live", 600.0, 0.3),
}


@attack("late engine", MOMENTS)
async def test_what_an_engine_makes_late_is_undone(row, defended, store, monkeypatch):
    """The reaper asks, hears "not there", and it appears a moment later."""
    kind, state, age_s, after_s = row
    monkeypatch.setattr("moat_core.ledger.lane._AGAIN_S", 0.02)
    monkeypatch.setattr("moat_core.ledger.lane.LATE_S", 1.0 if defended else 0.0)
    monkeypatch.setattr(Late, "there", there := [])
    if not defended:
        monkeypatch.setattr(Growing, "may_grow", False)
    add_run(store)
    row_id = store.add_intent(RUN, kind.kind, {"name": "it"})
    if state == "live":
        store.set_state(row_id, state)
    store._write("UPDATE ledger SET created = ?", (time.time() - age_s,))

    async def appear():
        await anyio.sleep(after_s)
        there.append("it")

    async with Connections() as connections, anyio.create_task_group() as group:
        group.start_soon(appear)
        lane = Lane(store, {Late.kind: Late, Growing.kind: Growing}, connections, Reaped(), lambda text: None)
        await lane.reap([RUN])
    return bool(there)


# -- one try -------------------------------------------------------------------------------------------------------


def _away(engine):
    engine.go_down()
    return engine.come_up


def _refusing(engine):
    engine.misbehave("refuse", call="remove_network", onwards=True)
    return engine.behave


@attack("engine away", {"away": _away, "refusing": _refusing})
def test_an_engine_that_comes_back_leaves_nothing(row, defended, engine_folder, store):
    """The owner dies, the engine is of no use just then, and nobody calls `moat` any more."""
    engine = engine_folder
    add_run(store, address=engine.folder, probe="moat_core.testing.probe:states")
    store.set_state(store.add_intent(RUN, "fake.network", {"address": engine.folder, "name": "net"}), "live")
    engine.make("networks", "net", {"run_id": RUN, "labels": {}})
    mend = row(engine)
    if not defended:  # the reaper alone, as it once was
        argv = [sys.executable, "-m", "moat_core.ledger.reaper"]
        subprocess.run(argv, check=False, stderr=subprocess.DEVNULL, timeout=60)
        mend()
        return engine.left()
    vigil = threading.Thread(target=Vigil(store.home, patience_s=60).keep)
    vigil.start()
    while row is _refusing and not engine.calls("remove_network"):
        time.sleep(0.05)
    mend()
    vigil.join()
    return engine.left()


# -- endings -------------------------------------------------------------------------------------------------------


@attack("false ending", ["in the file", "in the journal alone"])
async def test_a_guess_does_not_overwrite_how_it_ended(row, defended, store, monkeypatch):
    """The owner has said how it ended, and died before all was undone."""
    if not defended:
        guess = {"status": "failed", "error": "Its owner died; moat undid it.", "ended": 1.0}
        monkeypatch.setattr("moat_core.ledger.lane._how_it_ended", lambda store, run: guess)
    add_run(store)
    store.update_run(RUN, phase="finish", status="finished", exit_code=0, ended=2.0)
    if row == "in the journal alone":
        store._write("UPDATE runs SET phase = 'act', status = NULL, exit_code = NULL, ended = NULL", ())
    async with Connections() as connections:
        await Lane(store, {}, connections, Reaped(), lambda text: None).reap([RUN])
    run = store.run(RUN)
    assert run.phase == "over"
    return "" if (run.status, run.exit_code, run.error) == ("finished", 0, None) else f"it says {run!r}"


@attack("false ending")
async def test_a_kept_container_that_was_removed_is_not_called_ended(defended, engine_folder, store, monkeypatch):
    """Its run is listed among those that ended well, as if nothing had ever been kept."""
    from moat_core.api.runs import list_runs
    from moat_core.testing.fakes import FakeRuntime

    if not defended:
        monkeypatch.setattr("moat_core.api.runs.kept_runs", lambda store: set())
    add_run(store, address=engine_folder.folder, phase="over", status="finished", ended=2.0)
    store.set_state(store.add_intent(RUN, "fake.container", {"address": engine_folder.folder, "name": "c"}), "kept")

    async def connect(runtime, address):
        return await FakeRuntime.connect(address)

    (info,) = await list_runs(store, connect, ["fake"], over=True)
    return info.state != "gone" or "removed from outside" not in (info.error or "")


# -- signals -------------------------------------------------------------------------------------------------------

_OWNER = """
import os, signal, sys
number, defended, folder = signal.Signals[sys.argv[1]], sys.argv[2] == "True", sys.argv[3]
signal.signal(number, signal.SIG_IGN)
import anyio
from moat_core import Moat
from moat_core.api import live
if not defended:
    live.heeded = lambda *numbers: numbers

async def main():
    async with Moat() as moat:
        handle = moat.run(folder)

        async def on_ready():
            os.kill(os.getpid(), number)
            with anyio.move_on_after(1.0):
                await handle.wait_until_over()
            print("lives on" if handle.run.outcome is None else "ended", flush=True)
            handle.run.cancel()

        await live.live(handle, on_ready=on_ready, grace_s=0.1)

anyio.run(main)
"""


@attack("ignored signals", ["SIGHUP", "SIGTERM", "SIGINT"])
def test_what_was_ignored_for_us_does_not_end_a_run(row, defended, engine_folder, tmp_path):
    """As `nohup` and a shell's `&` do."""
    argv = [sys.executable, "-c", _OWNER, row, str(defended), str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() in (["lives", "on"], ["ended"]), done.stderr
    assert signal.Signals[row]
    return done.stdout == "ended\n"


# -- history -------------------------------------------------------------------------------------------------------


@attack("history", ["history: {runs: 0}", "history: {days: 0}"])
async def test_a_workspace_cannot_have_others_forgotten(row, defended, engine_folder, store, monkeypatch, tmp_path):
    """Its agent.yaml asks to remember nothing, and every other run's log is gone after the next run there."""
    from moat_core import Moat

    if not defended:
        monkeypatch.setattr("moat_core.api.moat.check_origin", lambda config: config.core.history)
    add_run(store, phase="over", status="finished", ended=time.time() - 60)
    folder = tmp_path / "workspace"
    folder.mkdir()
    (folder / "agent.yaml").write_text(row + "\n")
    async with Moat() as moat:
        try:
            async with moat.run(folder, config="workspace"):
                pass
        except ConfigError:
            pass
    return store.run(RUN) is None
