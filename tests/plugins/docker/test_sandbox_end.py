"""A look at a container that has just ended: killed and started anew by somebody, it has not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from moat_core.errors import EngineError
from moat_core.types import RunState
from moat_plugins.docker import sandbox as module
from moat_plugins.docker.sandbox import DockerSandbox


def found(status, code=0, started="1"):
    state = {"Status": status, "Running": status == "running", "ExitCode": code, "StartedAt": started, "Pid": 1}
    config = {"Tty": False, "Env": [], "Labels": {}, "User": ""}
    host = {"Runtime": "runc", "NetworkMode": "none"}
    networks = {"Ports": {}, "Networks": {}}
    return {
        "Id": "a", "Name": "/moat-x", "Created": "2026-01-01T00:00:00Z", "State": state, "Config": config,
        "HostConfig": host, "NetworkSettings": networks, "Mounts": [],
    }  # fmt: skip


def make(*looks):
    """A sandbox whose engine says that it ended, and at each look what LOOKS say; the last for ever."""
    left = list(looks)

    async def inspect(_):
        look = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(look, Exception):
            raise look
        return look

    async def wait(_):
        return None

    async def stop(*_):
        return None

    containers = SimpleNamespace(inspect=inspect, wait=wait, stop=stop)
    engine = SimpleNamespace(containers=containers, endpoint=SimpleNamespace(is_here=True), timeout_s=5.0)
    return DockerSandbox.from_inspection(engine, found("running")), left


GONE = EngineError("No such container", status=404)


@pytest.mark.parametrize(
    ("looks", "code"),
    [
        ([found("exited", 0)], 0),
        ([found("exited", 1), found("running", started="2")], 1),
        ([found("exited", 137)], 137),
        ([found("exited", 137), GONE], 137),
        ([found("exited", 137), found("running", started="2"), found("exited", 3, started="2")], 3),
        ([found("exited", 143), found("exited", 143), found("running", started="2"), found("exited", 4, "2")], 4),
    ],
)
async def test_what_was_killed_may_be_started_anew(monkeypatch, looks, code):
    """What ended by itself has ended, and nobody waits to see."""
    monkeypatch.setattr(module, "_ANEW_S", 0.05)
    monkeypatch.setattr(module, "_ANEW_POLL_S", 0.01)
    sandbox, _ = make(*looks)
    info = await sandbox.wait()
    assert (info.state, info.exit_code) == (RunState.EXITED, code)


async def test_what_we_stopped_is_not_waited_for(monkeypatch):
    """It is over at the first look."""
    monkeypatch.setattr(module, "_ANEW_S", 60.0)
    sandbox, left = make(found("exited", 137), found("running"))
    await sandbox.stop(0)
    assert (await sandbox.wait()).exit_code == 137
    assert len(left) == 1
