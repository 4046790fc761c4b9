"""Docker inside a run: an exec through the guard against the bare socket, and what each mode adds to a run's start."""

from __future__ import annotations

import functools
import tempfile
import time
from pathlib import Path

import aiohttp
from bare import Bare, connect
from measure import alternate, row

from moat_core import Moat

ECHO = ["/bin/echo", "hello"]
GUEST = {"Image": "debian:bookworm-slim", "Cmd": ["sleep", "3600"]}


async def execs(moat, folder, bare, rounds):
    """The same exec in the same container, made through the guard; the guard is in this process, and so is its client."""
    async with moat.run(folder, sandbox=False, dependencies=["docker:host"]) as run:
        path = f"{moat.home.path}/runs/{run.id}/docker-host/docker.sock"
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
            guarded = Bare(session)
            container = (await guarded.call("POST", "/containers/create", GUEST))["Id"]
            await guarded.call("POST", f"/containers/{container}/start")

            async def through():
                code, output = await guarded.exec(container, ECHO, "")
                assert code == 0
                assert b"hello\n" in output

            async def past():
                code, output = await bare.exec(container, ECHO, "")
                assert code == 0
                assert b"hello\n" in output

            times = await alternate(rounds, moat=through, **{"bare API": past})
            await guarded.call("DELETE", f"/containers/{container}?force=1")
    return [row("exec through the guard of docker:host", times, "bare API", limit=1.10)]


async def starts(moat, folder, rounds, sandbox):
    """A run that does nothing, until it is ready: with Docker inside, and with Docker's command line alone."""

    async def one(dependency):
        started = time.perf_counter()
        async with moat.run(folder, sandbox=sandbox, dependencies=[dependency]):
            return time.perf_counter() - started

    ways = {"moat": "docker:host", "dind": "docker:dind", "without": "docker-cli"}
    times = await alternate(rounds, **{name: functools.partial(one, each) for name, each in ways.items()})
    where = "gVisor" if sandbox else "runc"
    return [
        row(f"a run with docker:host, {where}", times, "without", limit=1.15),
        row(f"a run with docker:dind, {where}", times, "without", "dind", limit=2.0 if sandbox else None),
    ]


async def measure(rounds):
    rows = []
    with tempfile.TemporaryDirectory(prefix="m") as home, tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "agent.yaml").write_text("buildkit: off\n")
        async with Moat(home=home) as moat, connect() as bare:
            rows += await execs(moat, folder, bare, rounds * 2)
            for sandbox in (False, True):
                rows += await starts(moat, folder, rounds, sandbox)
    return rows
