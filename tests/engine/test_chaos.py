"""Owners killed with SIGKILL at every step of the ledger, on a real engine: within seconds nothing of a run is left.

The steps are counted by letting each owner live once, so none is listed here. See tests/support/chaos.py.
"""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from chaos import DETACHED, FOREGROUND, LIBRARY, MOAT, Owner, Place
from world import World, remove_volumes

AT_ONCE = 2
"""Owners that die at a time: the machine has two cores, and a reaper its ten seconds."""


@pytest.fixture
def place(engine, tmp_path):
    """Make places on the engine under test; what a failed test leaves is removed."""
    made = []

    def make(name, *, sandbox):
        folder = tmp_path / name
        world = World(folder / "home")
        made.append(world)
        environ = {} if sandbox else {"MOAT_NO_SANDBOX": "1"}
        return Place(folder, environ, lambda store: [*world.containers(), *world.networks(), *world.volumes()])

    yield make
    for world in made:
        for container in world.containers():
            subprocess.run(["docker", "rm", "-f", "-v", container], capture_output=True, check=False)
        for network in world.networks():
            subprocess.run(["docker", "network", "rm", network], capture_output=True, check=False)


OWNERS = [(owner, sandbox) for owner in (LIBRARY, FOREGROUND, DETACHED) for sandbox in (True, False)]
IDS = [f"{owner}-{'gVisor' if sandbox else 'runc'}" for owner, sandbox in OWNERS]


@pytest.mark.slow
@pytest.mark.parametrize(("owner", "sandbox"), OWNERS, ids=IDS)
def test_killed_at_any_step_nothing_is_left_within_ten_seconds(place, owner, sandbox):
    """No container, network, volume, process or row, with no later command."""
    steps = place("alive", sandbox=sandbox).live(owner)
    assert steps[0] == "opened run"
    assert steps[-1] == "closed run"
    assert {"intent docker.container", "created docker.container", "live docker.container"} <= set(steps)

    def dies(at):
        here = place(f"step-{at}", sandbox=sandbox)
        return at, steps[at - 1], here.left_by(owner, at)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        left = [result for result in pool.map(dies, range(1, len(steps) + 1)) if result[2]]
    assert not left


GUESTS = "docker network create mine && docker volume create mine && docker run -d -v mine:/m --network mine"
DOCKER = {
    "docker:host": f"{GUESTS} debian:bookworm-slim sleep 1000 >/dev/null",
    "docker:dind": "docker info >/dev/null",
}


@pytest.mark.slow
@pytest.mark.parametrize("dependency", DOCKER)
def test_killed_with_docker_inside_nothing_is_left(place, dependency):
    """Guard, inner engine, caches' locks, and what the run made on the host's engine, all in gVisor."""
    owner = Owner("moat run", (*MOAT, "run", "--trust", "--", "sh", "-c", DOCKER[dependency]))
    config = f'dependencies: ["{dependency}"]\nbuildkit: off\n'

    def make(name):
        here = place(name, sandbox=True)
        (here.folder / "workspace/agent.yaml").write_text(config)
        return here

    steps = make("alive").live(owner)
    assert ("intent docker.guests" in steps) == (dependency == "docker:host")

    def dies(at):
        here = make(f"step-{at}")
        return at, steps[at - 1], here.left_by(owner, at)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        left = [result for result in pool.map(dies, range(1, len(steps) + 1)) if result[2]]
    assert not left


@pytest.mark.slow
def test_killed_with_a_sidecar_nothing_is_left(place, stand_in):
    """A BuildKit beside the run, in gVisor; what comes before it has been tested with an engine alone."""
    owner = Owner("moat run", (*MOAT, "run", "--trust", "--", "true"))
    config = f"name: chaos-sidecar\ndependencies: ['docker:dind']\nbuildkit: {{image: {stand_in}}}\n"

    def make(name):
        here = place(name, sandbox=True)
        (here.folder / "workspace/agent.yaml").write_text(config)
        return here

    try:
        steps = make("alive").live(owner)
        containers = [number for number, step in enumerate(steps, 1) if step == "intent docker.container"]
        assert len(containers) == 2

        def dies(at):
            here = make(f"step-{at}")
            return at, steps[at - 1], here.left_by(owner, at)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            left = [result for result in pool.map(dies, range(containers[0], len(steps) + 1)) if result[2]]
        assert not left
    finally:
        remove_volumes("chaos-sidecar-[0-9a-f]*-buildkit")


@pytest.mark.slow
def test_killed_with_its_watchdog_the_next_list_finishes_the_work(place):
    """When nobody is left to undo things, `moat list` does it before it lists."""
    steps = place("alive", sandbox=False).live(LIBRARY)

    def dies(at):
        here = place(f"step-{at}", sandbox=False)
        here.die(LIBRARY, at, watchdog_too=True)
        done = here.command((*MOAT, "list"))
        assert done.returncode == 0, done.stderr
        return at, steps[at - 1], here.wait_until_empty(1)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        left = [result for result in pool.map(dies, range(1, len(steps) + 1)) if result[2]]
    assert not left
