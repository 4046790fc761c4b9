"""What the real-engine tests share. No engine is a failure here, never a skip."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from world import BUILDKIT_IMAGE, MOAT, REPO, World

LONG = (
    "test_chaos_frozen", "test_chaos", "test_docker_dind", "test_dind_testcontainers", "test_dependencies",
    "test_buildkit_exports_real", "test_buildkit_sidecar", "test_buildkit_dockerfiles", "test_docker_host",
    "test_sidecar", "test_reach", "test_guard_memory", "test_routing", "test_many",
)  # fmt: skip
"""Files that take minutes, each one process's."""


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(item.fspath).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.engine)
    # The long ones first, so that what is short fills the end when two processes share the work, a file each.
    first = {name: number for number, name in enumerate(LONG)}
    items.sort(
        key=lambda item: (item.get_closest_marker("engine") is None, first.get(Path(item.fspath).stem, len(LONG)))
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Two processes share the engine; what looks at all of it, or removes what others may use, has it to itself."""
    if item.get_closest_marker("engine") is None:
        return (yield)
    with (Path(tempfile.gettempdir()) / f"moat-tests-{os.getuid()}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        return (yield)


@pytest.fixture(scope="session")
def engine():
    """The address of the engine under test; its absence fails every test that wants it."""
    answer = subprocess.run(["docker", "version", "--format", "json"], capture_output=True, text=True, check=False)
    if answer.returncode != 0 or not json.loads(answer.stdout or "{}").get("Server"):
        pytest.fail(f'No engine answers; start one: eval "$(scripts/engine env)". {answer.stderr}')
    return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


@pytest.fixture(scope="session")
def stand_in(engine, tmp_path_factory):
    """The stand-in for buildkitd, made once by whoever comes first."""
    with (tmp_path_factory.getbasetemp().parent / "buildkit-image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(
            [REPO / "scripts/engine", "buildkit-image"], check=True, env={**os.environ, "DOCKER_HOST": engine}
        )
    return BUILDKIT_IMAGE


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty MOAT_HOME."""
    path = tmp_path / "home"
    monkeypatch.setenv("MOAT_HOME", str(path))
    monkeypatch.setenv("MOAT_PROXY_PORT", "0")
    return path


@pytest.fixture
def workspace(tmp_path):
    """An empty workspace."""
    path = tmp_path / "workspace"
    path.mkdir()
    return path


@pytest.fixture
def world(home, engine):
    """The machine as this test's home sees it; whatever the test leaves fails it."""
    world = World(home, engine)
    yield world
    world.stop_proxy()
    left = world.wait_until_empty(8)
    for container in world.containers():
        subprocess.run(["docker", "rm", "-f", container], capture_output=True, check=False)
    assert not left, f"left behind: {left}"


@pytest.fixture
def moat(world, workspace):
    """Run the command in the workspace: ``moat("run", "--", "true")`` -> completed process, bytes."""

    def run(*argv, stdin=b"", timeout=120, cwd=workspace, env=None):
        return subprocess.run(
            [*MOAT, *argv],
            input=stdin,
            capture_output=True,
            timeout=timeout,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            check=False,
        )

    return run
