"""A home of its own for each test, the fake engine, and runs as their owners would have written them down."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the plugin is named by MOAT_PLUGINS, in other processes by PYTHONPATH

import fake_engine

from moat_core.cli.main import main
from moat_core.store import Home, RunRow, Store
from moat_core.store.log import LogWriter
from moat_core.store.paths import Lock

BUILT_INS = "buildkit,dependencies,docker,docker_dind,docker_host,gvisor,host_ca,workspace"


class Machine:
    """One machine: a MOAT_HOME, and what its engine holds."""

    def __init__(self, folder):
        self.home = Home(str(folder / "home"))
        self.store = Store(self.home)
        self.locks = {}

    @property
    def engine(self):
        return fake_engine.load()

    def set_engine(self, **values):
        fake_engine.save(self.engine | values)

    def stop_engine(self):
        os.unlink(os.environ["FAKE_ENGINE"])

    def add_run(self, name="fox", *, live=True, state="running", kept=False, **values):
        """A run; STATE is its container's, ``None``: it has none. Kept: the container is, with a row."""
        run_id = values.pop("id", None) or "run-" + secrets.token_hex(4)
        over = {"phase": "over", "status": "finished", "exit_code": 0, "ended": time.time()}
        row = {
            "id": run_id, "name": name, "runtime": "fake", "address": "fake://", "probe": "fake_quick.probe:states",
            "workspace": "/w", "command": ["echo", "a b"], "env_names": [], "ports": {"web": 3000},
            "owner_pid": os.getpid(), "owner_kind": "foreground", "sandboxed": 1, "oci_runtime": "runsc",
            "phase": "act", "created": time.time(), **({} if live else over), **values,
        }  # fmt: skip
        self.home.make()
        if live:
            self.locks[run_id] = Lock(self.home.run_lock(run_id))
            assert self.locks[run_id].acquire()
        self.store.add_run(RunRow(**row))
        Path(self.home.run_folder(run_id)).mkdir(exist_ok=True)
        if state is not None:
            self.add_container(run_id, name, state)
            row_id = self.store.add_intent(run_id, "fake.thing", {"name": f"c-{run_id}"})
            self.store.set_state(row_id, "kept" if kept else "live")
        return run_id

    def add_container(self, run_id, name, state, **values):
        sandbox = {
            "id": f"c-{run_id}", "run_id": run_id, "role": "main", "state": state, "exit_code": None,
            "oci_runtime": "runsc", "name": name, **values,
        }  # fmt: skip
        engine = self.engine
        self.set_engine(sandboxes=[*engine["sandboxes"], sandbox], things=[*engine["things"], sandbox["id"]])

    def die(self, run_id):
        """The owner is gone, its lock with it; nothing was undone."""
        self.locks.pop(run_id).close()

    def finish(self, run_id, *, exit_code=0):
        """What an owner does at the end."""
        for row in self.store.resources(run_id):
            self.store.forget_resource(row.id)
        self.store.update_run(run_id, phase="over", status="finished", exit_code=exit_code, ended=time.time())
        self.set_engine(sandboxes=[each for each in self.engine["sandboxes"] if each["run_id"] != run_id])
        self.locks.pop(run_id).release()

    def write_log(self, run_id, *pieces):
        log = LogWriter(self.home.run_folder(run_id))
        for stream, data in pieces:
            log.write(stream, data)
        log.close()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """An empty machine whose engine is up."""
    for name in list(os.environ):
        if name.startswith("MOAT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MOAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MOAT_PLUGINS", "fake_engine")
    monkeypatch.setenv("MOAT_DISABLE", BUILT_INS)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("FAKE_ENGINE", str(tmp_path / "engine.json"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]))
    monkeypatch.chdir(tmp_path)
    Path(os.environ["FAKE_ENGINE"]).write_text(json.dumps({"sandboxes": [], "things": []}))
    machine = Machine(tmp_path)
    yield machine
    fake_engine.on_stop.clear()
    for lock in machine.locks.values():
        lock.close()
    machine.store.close()


class Result:
    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def moat(machine, capfd):
    """Run the command in this process: ``moat("list", "--json").json``."""

    def run(*arguments):
        capfd.readouterr()
        status = main(list(arguments))
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return Result(status, out, err)

    return run
