"""200 runs from 8 processes that come, go, move and are killed, on few ports, while the proxy is killed, too."""

from __future__ import annotations

import asyncio
import collections
import json
import os
import random
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from routing_process import OPTIONS, kill, sweep
from routing_stress import AT_ONCE
from routing_world import Connection, World, ask

from moat_plugins.routing.process import ensure

PROCESSES, RUNS, PORTS = 8, 25, 28
RIGHT = {"unknown-agent", "starting", "run-ended", "not-listening"}


@pytest.fixture
def home(moat):
    """With a list of ports that all runs share."""
    path = Path(moat.home.path)
    World(path).close()
    (path / "stress").mkdir()
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(PORTS)]
        ports = [each.getsockname()[1] for each in taken]
    (path / "stress" / "ports").write_text(json.dumps(ports))
    yield path
    sweep(path)


class Clients:
    """They ask for every name, again and again, and count what they are told.

    Who is cut off, as all are when the proxy is killed, was told nothing wrong.
    """

    def __init__(self, port, names):
        self.port, self.names = port, names
        self.counts, self.wrong, self.lost = collections.Counter(), [], 0
        self.is_over = False

    async def hammer(self, seed):
        """On connections of their own, until it is over."""
        rng, connection = random.Random(seed), Connection(self.port)
        while not self.is_over:
            name = rng.choice(self.names)
            try:
                answer = await connection.ask(rng.choice([f"web.{name}.localhost", f"{name}.localhost:8080"]))
            except (OSError, EOFError):
                self.lost += 1
                await asyncio.sleep(0.005)
                continue
            self.judge(name, answer)
        connection.close()

    def judge(self, name, answer):
        """A service answers for itself, and an error is one that can be."""
        if answer.status == 200 and not answer.code:
            self.counts["answered"] += 1
            if answer.said.partition(" ")[0] != name:
                self.wrong.append((name, answer.said))
        else:
            self.counts[answer.code] += 1
            if answer.code not in RIGHT:
                self.wrong.append((name, answer.status, answer.said))


@pytest.mark.slow
async def test_no_request_ever_reaches_the_wrong_service(home):
    """Every answer is by a run of that name, or an error that is right; whatever becomes of runs and proxy meanwhile."""
    running = await ensure(home, 0, OPTIONS)
    names = [f"agent-{number}-{lane}" for number in range(PROCESSES) for lane in range(AT_ONCE)]
    clients = Clients(running.port, names)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    owners = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "routing_stress", str(home), str(number), str(RUNS), "7", env=environ
        )
        for number in range(PROCESSES)
    ]
    try:
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            for seed in range(12):
                group.create_task(clients.hammer(seed))
            ends = [asyncio.create_task(owner.wait()) for owner in owners]
            while clients.counts["answered"] < 500:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(kill, home)
            assert (await ensure(home, running.port, OPTIONS)).port == running.port
            codes = await asyncio.gather(*ends)
            clients.is_over = True
    finally:
        for owner in owners:
            if owner.returncode is None:
                owner.kill()
                await owner.wait()
    assert codes == [0] * PROCESSES
    assert clients.wrong == [], (len(clients.wrong), clients.counts)
    assert clients.counts["answered"] > 600, clients.counts
    assert clients.counts["unknown-agent"] + clients.counts["run-ended"] > 0, clients.counts
    for name in names:
        assert (await ask(running.port, f"web.{name}.localhost")).code == "run-ended"
