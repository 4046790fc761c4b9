"""One of several processes whose runs come and go: ``python -m routing_stress HOME NUMBER RUNS SEED``.

Each run has real rows, a real lock and a service on a port that others have just left. Some end in order, some are
killed: their lock goes, their rows stay until this process undoes them, as a reaper would. What is known of each name
is written into a file that the clients read: an answer under it must have come from a run of that name.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import random
import sys

from routing_world import Backend, World

LIFE_S = 1.2
AT_ONCE = 3


class Ports:
    """A few ports for all processes, so that each is taken again at once; a lock file each says whose it is."""

    def __init__(self, folder, numbers):
        self.folder, self.numbers = folder, numbers

    @contextlib.contextmanager
    def hold(self, rng):
        """Have one of them."""
        while True:
            number = rng.choice(self.numbers)
            fd = os.open(f"{self.folder}/port-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            try:
                yield number
            finally:
                os.close(fd)
            return


async def listen(backend):
    """Listen where somebody else has just gone."""
    while True:
        try:
            return await backend.__aenter__()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            await asyncio.sleep(0.002)


async def live(world, ports, rng, name):
    """One run, from its claim to its end."""
    run = world.run(name).remember()
    backend = Backend(f"{name} {run.id}")
    with ports.hold(rng) as port:
        backend.port = port
        await listen(backend)
        run.route(web=port)
        await asyncio.sleep(rng.random() * LIFE_S)
        how = rng.choice(["ends", "ends", "is killed", "moves"])
        if how == "moves":
            await move(run, backend, ports, rng)
            how = "ends"
        if how == "is killed":
            run.die()
            # Its container goes before anybody has undone what it wrote down, and another's takes the port.
            await backend.stop()
        else:
            run.unroute()
            if rng.random() < 0.5:
                await backend.stop_listening()  # what is connected still is for a moment
            else:
                await backend.stop()
    await asyncio.sleep(rng.random() * 0.1)
    run.end()
    await backend.stop()
    world.runs.remove(run)


async def move(run, backend, ports, rng):
    """Its engine starts it anew, and it has another port; the old one is nobody's before that is written down."""
    with ports.hold(rng) as port:
        run.unroute()
        await backend.stop()
        moved = Backend(backend.name, port)
        await listen(moved)
        run.route(web=port)
        await asyncio.sleep(rng.random() * LIFE_S / 2)
        run.unroute()
        await moved.stop()


async def main(home, number, runs, seed):
    """Have RUNS runs, some at a time."""
    rng = random.Random(seed * 1000 + number)
    world = World(home)
    with open(f"{home}/stress/ports", encoding="ascii") as file:
        ports = Ports(f"{home}/stress", json.load(file))
    left = iter(range(runs))

    async def worker(lane):
        for _ in left:
            await live(world, ports, rng, f"agent-{number}-{lane}")

    await asyncio.gather(*(worker(lane) for lane in range(AT_ONCE)))
    world.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
