"""The engine stands still while owners die, fifty die at once, signals come at any moment: nothing is left.

No command of moat's is given afterwards. What stands still is a proxy before the real engine, which hears later what
was said meanwhile, also by owners who have died since.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from chaos import FOREGROUND, MOAT, Owner, Place, processes_of, wait_until_still
from fault_proxy import FaultProxy
from world import ask_engine

from moat_core.store import Store

WITHIN_S = 10.0
FREEZES = (9, 45, 120)
"""For how many seconds; an owner dies at each of its steps meanwhile."""
OWNERS = 50
STARTING = 4
"""Owners that start at a time: the machine has two cores."""
_TO_THE_ENGINE_S = 1.0


@pytest.fixture
def place(engine, tmp_path):
    """Make places, which may have an engine of their own; what a failed test leaves is removed."""
    made = []

    def make(name, address=engine):
        environ = {"MOAT_NO_SANDBOX": "1", "DOCKER_HOST": address}
        here = Place(tmp_path / name, environ, lambda _: _on_engine(engine, here.home.owner))
        (here.folder / "workspace/agent.yaml").write_text("network: none\n")
        made.append(here)
        return here

    yield make
    for here in made:
        for container in here.remains(None):
            subprocess.run(["docker", "rm", "-f", "-v", container], capture_output=True, check=False)


def _on_engine(engine, owner):
    """All containers of a home's runs, with one question."""
    return [item["Id"] for item in ask_engine(engine, "/containers/json?all=1&", f"moat.owner={owner}")]


def endings(here):
    """How the runs ended, as far as the state tells."""
    store = Store(here.home)
    try:
        return {run.id: (run.status, run.error) for run in store.runs()}
    finally:
        store.close()


def start_all(here, owner, stops):
    """Start an owner for each of STOPS and wait until all stand still there."""
    with ThreadPoolExecutor(STARTING) as pool:

        def start(numbered):
            number, stop = numbered
            process = here.start(owner, str(number), stop)
            wait_until_still([process], 120)
            return process

        return list(pool.map(start, enumerate(stops)))


@pytest.mark.slow
def test_owners_that_die_while_the_engine_stands_still_leave_nothing(place, engine, tmp_path):
    """At every step, over 9, 45 and 120 s; ten seconds after it goes on nothing is left, and every ending is true."""
    steps = place("alive").live(FOREGROUND)
    with contextlib.ExitStack() as stack:
        frozen = {}
        for seconds in FREEZES:
            proxy = stack.enter_context(FaultProxy(tmp_path / f"{seconds}.sock", engine))
            here = place(f"frozen-{seconds}", proxy.address)
            frozen[seconds] = proxy, here, start_all(here, FOREGROUND, range(1, len(steps) + 1))
        began = time.monotonic()
        for proxy, _, owners in frozen.values():
            proxy.freeze()
            for each in owners:
                with contextlib.suppress(ProcessLookupError):
                    each.send_signal(signal.SIGCONT)
        # Each gets as far as it does: its next word is to the engine, which does not hear it.
        time.sleep(_TO_THE_ENGINE_S)
        for _, _, owners in frozen.values():
            for each in owners:
                each.kill()
                each.wait()
        left = {}
        for seconds, (proxy, here, _) in sorted(frozen.items()):
            time.sleep(max(0.0, began + seconds - time.monotonic()))
            assert here.left() != [], "somebody was quicker than the engine, so this proves nothing"
            proxy.thaw()
            left[seconds] = here.wait_until_empty(WITHIN_S)
    assert not any(left.values()), left
    for _, here, _ in frozen.values():
        assert "Traceback" not in here.errors()
        ends = endings(here)
        assert set(ends.values()) <= {("finished", None), ("failed", "Its owner died; moat undid it.")}, ends


@pytest.mark.slow
def test_fifty_owners_that_die_at_once_leave_nothing(place):
    """One sees to all of it; the others' watchdogs end at once."""
    here = place("fifty")
    owners = start_all(here, FOREGROUND, ["live docker.container"] * OWNERS)
    assert len(here.remains(None)) == OWNERS
    for each in owners:
        each.kill()
    for each in owners:
        each.wait()
    assert here.wait_until_empty(WITHIN_S) == []
    assert "Traceback" not in here.errors()
    assert set(endings(here).values()) == {("failed", "Its owner died; moat undid it.")}


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGKILL)
MOMENTS = 50


@pytest.mark.slow
def test_signals_at_fifty_moments_leave_nothing(place):
    """From the first step to the last, five kinds in turn: no traceback, no false ending, nothing left."""
    owner = Owner("moat run", (*MOAT, "run", "--", "sh", "-c", "sleep 0.3"))
    alive = place("alive")
    began = time.monotonic()
    alive.live(owner)
    whole = time.monotonic() - began
    here = place("signals")

    def strike(number):
        process = here.start(owner, str(number), 0)
        steps = here.folder / f"steps-{number}"
        while not steps.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(whole * number / MOMENTS)
        process.send_signal(SIGNALS[number % len(SIGNALS)])
        return SIGNALS[number % len(SIGNALS)], process.wait(60)

    with ThreadPoolExecutor(STARTING) as pool:
        codes = list(pool.map(strike, range(MOMENTS)))
    assert here.wait_until_empty(WITHIN_S) == []
    said = here.errors()
    assert "Traceback" not in said, said[-4000:]
    for sent, code in codes:
        assert code in {0, -sent, 128 + sent}, (sent, code)
    for status, error in endings(here).values():
        assert status in {"finished", "cancelled", "failed"}
        assert error in {None, "Its owner died; moat undid it."}


def zeroed(path):
    os.truncate(path, 0)


def deleted(path):
    path.unlink()


def overwritten(path):
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.write_bytes(b"\xff" * 100 + path.read_bytes()[100:])


def made_newer(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def locked(path):
    """Somebody writes for two seconds, and nobody else can."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    threading.Timer(2.0, connection.close).start()


@pytest.mark.slow
@pytest.mark.parametrize("lose", [zeroed, deleted, overwritten, made_newer, locked])
def test_a_store_that_is_lost_under_live_owners_leaves_nothing(place, lose):
    """One of two owners is killed then, the other ends in order, and says how."""
    here = place(lose.__name__)
    killed, lives = start_all(here, FOREGROUND, ["live docker.container"] * 2)
    lose(Path(here.home.database))
    killed.kill()
    killed.wait()
    lives.send_signal(signal.SIGCONT)
    assert lives.wait(60) == 0, here.errors()
    deadline = time.monotonic() + WITHIN_S
    while (left := here.remains(None)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
    while (left := processes_of(here.home)) and time.monotonic() < deadline + WITHIN_S:
        time.sleep(0.05)
    assert left == []
    assert "Traceback" not in here.errors()
    if lose is made_newer:
        Path(here.home.database).unlink()
    assert here.left() == []
    ends = sorted(endings(here).values(), key=str)
    assert ends == [("failed", "Its owner died; moat undid it."), ("finished", None)]
