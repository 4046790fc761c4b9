"""A guard in a process of its own, whose peak of memory can be told: ``python guard_process.py ENGINE FOLDER defended``.

It says when it listens, serves until its standard input ends, and prints the most that it ever held, in KiB. As a
``control`` it is without what bounds it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

import anyio
import attrs
from guarded import make_scope

from moat_core.runtime.facets import EngineApi
from moat_core.types import User
from moat_plugins.docker.guests import DockerGuestBook
from moat_plugins.docker_host import budget, client, grpc, guard, items, upstream
from moat_plugins.docker_host.guard import Guard
from moat_plugins.docker_host.listen import serve_guard
from moat_plugins.docker_host.policy import shape


class Engine(EngineApi):
    """What answers at a Unix socket."""

    version, address = "1.45", "unix:///nowhere"

    def __init__(self, path):
        self._path = path

    async def connect(self):
        return await anyio.connect_unix(self._path)

    async def hold_guests(self, run):
        return {}


def take_defence_away():
    """Make of the guard what it was: answers and bodies are read whole, by as many as ask."""
    endless = 1 << 50
    budget.MOST_VALUES = endless
    for module in (budget, client, items, shape, upstream):
        module.weigh = lambda _: 0
    Guard.__init__.__globals__["Budget"] = lambda: budget.Budget(endless)
    client._HEAD_BYTES, client._MOST_HEADERS, client._SEND_S = 1 << 20, endless, 600
    upstream._BODY_BYTES = grpc._MOST_HELD = endless

    async def whole(answer, listing, account):
        data = bytearray()
        while piece := await answer.read_piece():
            data += piece
        yield json.dumps(json.loads(data)).encode()

    guard.filter_items = whole


async def main(engine, folder):
    user = User(os.getuid(), os.getgid())
    scope = attrs.evolve(make_scope(Path(folder)), plan=attrs.evolve(make_scope().plan, user=user))
    DockerGuestBook.is_own = lambda *_: True  # what is shown is another matter
    made = Guard(Engine(engine), scope)
    made.engine.images.add("sha256:1")
    async with anyio.create_task_group() as group:
        await group.start(serve_guard, made, folder)
        print("listening", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
        group.cancel_scope.cancel()


if __name__ == "__main__":
    if sys.argv[3] == "control":
        take_defence_away()
    anyio.run(main, *sys.argv[1:3])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
