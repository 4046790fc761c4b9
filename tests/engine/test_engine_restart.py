"""The engine goes away under a live run. An engine of its own, in a network namespace of its own, is restarted here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from urllib.error import HTTPError

import pytest
from world import MOAT, REPO, World

_NAME = "restarted"


def engine_script(*words, timeout=180):
    command = [str(REPO / "scripts" / "engine"), *words, "--private", "--name", _NAME, "--isolated-network"]
    # Without MOAT_HOME: by that name the test tells the processes that must not be left.
    environ = {key: value for key, value in os.environ.items() if key != "MOAT_HOME"}
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=timeout, env=environ).stdout


@pytest.fixture(scope="module")
def own_engine(engine):
    """Address and a way to restart of an engine that nobody else uses."""
    engine_script("up")
    yield json.loads(engine_script("status", "--json"))["docker_host"]
    subprocess.run(
        [str(REPO / "scripts" / "engine"), "down", "--purge", "--private", "--name", _NAME, "--isolated-network"],
        capture_output=True,
        check=True,
    )


def restart(how):
    if how == "killed":
        os.kill(json.loads(engine_script("status", "--json"))["pid"], signal.SIGKILL)
        engine_script("up")
    else:
        engine_script("restart")


@pytest.mark.parametrize("how", ["killed", "restarted"])
@pytest.mark.parametrize("kind", ["foreground", "detached"])
def test_a_live_run_ends_with_a_clear_error_and_leaks_nothing(own_engine, home, workspace, monkeypatch, kind, how):
    """However the engine goes, the run ends and says so, and when it is back nothing of the run is there."""
    monkeypatch.setenv("DOCKER_HOST", own_engine)
    world = World(home)
    words = ["run", "--no-sandbox", "--", "sh", "-c", "trap 'exit 0' TERM; echo up; sleep 1000 & wait"]
    if kind == "detached":
        done = subprocess.run([*MOAT, *words[:1], "-d", *words[1:]], cwd=workspace, capture_output=True, check=True)
        run_id = done.stdout.decode().strip()
        restart(how)
    else:
        process = subprocess.Popen(
            [*MOAT, *words], cwd=workspace, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout.readline() == b"up\n"
        restart(how)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode in ({125} if how == "killed" else {125, 0, 137, 143}), stderr
        assert b"Traceback" not in stderr
        if process.returncode == 125:
            assert b"error:" in stderr
    left = world.wait_until_empty(20)
    if left:
        # What could not be undone while the engine was away is the next command's, as the error has said.
        subprocess.run([*MOAT, "list"], capture_output=True, check=True, timeout=60)
        left = world.wait_until_empty(5)
    assert not left
    if kind == "detached":
        listed = json.loads(subprocess.run([*MOAT, "list", "-a", "--json"], capture_output=True, check=True).stdout)
        assert [run["state"] for run in listed if run["id"] == run_id] in (["failed"], ["exited"])


def told(port, host):
    """The code of the proxy's error for HOST."""
    try:
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}", headers={"Host": host}), timeout=20)
    except HTTPError as error:
        return json.loads(error.read())["error"]["code"]
    return "answered"


def test_a_name_is_answered_by_nobody_when_its_engine_went_and_is_free_again(own_engine, home, workspace, monkeypatch):
    """The proxy says that the run has ended; the next one of that name is let in."""
    monkeypatch.setenv("DOCKER_HOST", own_engine)
    world = World(home)
    words = ["run", "-d", "--no-sandbox", "--name", "fox", "--port", "web=3000", "--", "sleep", "1000"]
    subprocess.run([*MOAT, *words], cwd=workspace, capture_output=True, check=True)
    status = subprocess.run([*MOAT, "proxy", "status", "--json"], capture_output=True, check=True)
    port = json.loads(status.stdout)["port"]
    try:
        assert told(port, "fox.localhost") == "not-listening"
        restart("killed")
        seen = set()
        deadline = time.monotonic() + 30
        while "run-ended" not in seen and time.monotonic() < deadline:
            seen.add(told(port, "fox.localhost"))
        assert seen <= {"not-listening", "run-ended"}
        assert "run-ended" in seen
        deadline = time.monotonic() + 20
        while world.rows() and time.monotonic() < deadline:
            subprocess.run([*MOAT, "list"], capture_output=True, check=True, timeout=60)
        again = subprocess.run([*MOAT, *words], cwd=workspace, capture_output=True, check=False)
        assert again.returncode == 0, again.stderr
        subprocess.run([*MOAT, "stop", "fox"], capture_output=True, check=True)
    finally:
        subprocess.run([*MOAT, "proxy", "stop"], capture_output=True, check=False)
    assert not world.wait_until_empty(10)
