"""Owners killed at every step of the ledger, on the fake engine: see also tests/engine/test_chaos.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from chaos import DETACHED, FOREGROUND, LIBRARY, MOAT, WITHIN_S, Place

from moat_core.testing import FakeEngine

AT_ONCE = 3


def place(folder):
    """A place on a fake engine of its own."""
    engine = FakeEngine(folder / "engine")
    environ = {
        "MOAT_FAKE_ENGINE": engine.folder,
        "MOAT_PLUGINS": "moat_core.testing.fake",
        "MOAT_DISABLE": "buildkit,dependencies,docker,docker_dind,docker_host,gvisor,host_ca,workspace",
    }
    return Place(folder, environ, lambda store: engine.left())


@pytest.mark.parametrize("owner", [LIBRARY, DETACHED], ids=str)
def test_killed_at_any_step_nothing_is_left_within_ten_seconds(tmp_path, owner):
    """With no later command, the watchdog's reaper undoes all that the dead owner left, and goes."""
    steps = place(tmp_path / "alive").live(owner)
    assert steps[0] == "opened run"
    assert steps[-1] == "closed run"
    assert {"intent fake.container", "created fake.container", "live fake.container"} <= set(steps)

    def dies(at):
        here = place(tmp_path / f"step-{at}")
        return at, steps[at - 1], here.left_by(owner, at)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        left = [result for result in pool.map(dies, range(1, len(steps) + 1)) if result[2]]
    assert not left


@pytest.mark.parametrize("owner", [FOREGROUND], ids=str)
def test_killed_with_its_watchdog_the_next_list_finishes_the_work(tmp_path, owner):
    """When nobody is left to undo things, any later command does it first."""
    steps = place(tmp_path / "alive").live(owner)

    def dies(at):
        here = place(tmp_path / f"step-{at}")
        here.die(owner, at, watchdog_too=True)
        wait_for_no_process(here)
        if steps[at - 1] not in {"closed run"}:
            assert here.left(), "somebody undid it already, so this proves nothing"
        done = here.command((*MOAT, "list"))
        assert done.returncode == 0, done.stderr
        return at, steps[at - 1], here.left()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        left = [result for result in pool.map(dies, range(1, len(steps) + 1)) if result[2]]
    assert not left


def wait_for_no_process(here):
    """Wait until the dead owner's processes are gone from the process table."""
    deadline = time.monotonic() + 5
    while any("process" in what for what in here.left()) and time.monotonic() < deadline:
        time.sleep(0.02)


def test_what_a_dead_client_asked_for_and_appears_later_is_removed(tmp_path):
    """The owner is killed while its container is being made; it appears a second later and goes."""
    here = place(tmp_path / "place")
    engine = FakeEngine(here.environ["MOAT_FAKE_ENGINE"])
    engine.set_timeout(60)
    engine.misbehave("late", call="create_container")
    with subprocess.Popen(LIBRARY.argv, cwd=here.folder / "workspace", env=here.full_environ) as process:
        deadline = time.monotonic() + 60
        making = Path(engine.folder, "containers")
        while not any(making.glob("*.new")) and time.monotonic() < deadline:  # the engine has begun
            time.sleep(0.02)
        process.kill()
    assert here.wait_until_empty(WITHIN_S) == []
    assert engine.calls("remove_container")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGABRT])
def test_other_deaths_of_an_owner_are_seen_too(tmp_path, number):
    """Whatever signal ends a library's program, the watchdog sees it."""
    here = place(tmp_path / "place")
    with holder(here, "await asyncio.sleep(3600)") as process:
        process.send_signal(number)
    assert here.wait_until_empty(WITHIN_S) == []


_HOLDER = """
import asyncio, os, subprocess, sys, time
from moat_core import Moat

async def main():
    async with Moat() as moat:
        async with moat.run("."):
            print(os.getpid(), flush=True)
            {body}

asyncio.run(main())
"""


@contextmanager
def holder(here, body):
    """Start a program that holds a run and does BODY, whose output can be read; wait for its end."""
    program = _HOLDER.replace("{body}", body)
    argv = [sys.executable, "-c", program]
    with subprocess.Popen(
        argv, cwd=here.folder / "workspace", env=here.full_environ, stdout=subprocess.PIPE, text=True
    ) as process:
        assert int(process.stdout.readline()) == process.pid
        yield process


FORKS = {
    "os.fork": "pid = os.fork() or time.sleep(3600); print(pid, flush=True); await asyncio.sleep(3600)",
    "subprocess": "p = subprocess.Popen(['sleep', '3600']); print(p.pid, flush=True); await asyncio.sleep(3600)",
    "all descriptors open": (
        "p = subprocess.Popen(['sleep', '3600'], close_fds=False); print(p.pid, flush=True); await asyncio.sleep(3600)"
    ),
}


@pytest.mark.parametrize("fork", FORKS)
def test_a_child_of_a_dead_owner_keeps_neither_its_lock_nor_its_watchdog_alive(tmp_path, fork):
    """A process that the owner's program has forked lives on, and the run is undone all the same."""
    here = place(tmp_path / "place")
    with holder(here, FORKS[fork]) as process:
        child = int(process.stdout.readline())
        process.kill()
    try:
        deadline = time.monotonic() + WITHIN_S
        left = here.left()
        while time.monotonic() < deadline:
            left = [what for what in here.left() if not what.startswith(f"process {child}:")]
            if not left:
                break
            time.sleep(0.05)
        assert left == []
        os.kill(child, 0)  # it still lives
    finally:
        os.kill(child, signal.SIGKILL)
