"""docker:host: (a) an exec through the guard against the engine's bare socket, (b) what the guard adds to a run's start."""

from __future__ import annotations

import tempfile
import time

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
    """A run that does nothing, with the guard and with Docker's command line alone: the same image."""

    async def one(dependency):
        started = time.perf_counter()
        async with moat.run(folder, sandbox=sandbox, dependencies=[dependency]):
            return time.perf_counter() - started

    async def guarded():
        return await one("docker:host")

    async def plain():
        return await one("docker-cli")

    times = await alternate(rounds, moat=guarded, without=plain)
    return [row(f"a run with docker:host, {'gVisor' if sandbox else 'runc'}", times, "without", limit=1.15)]


async def measure(rounds):
    rows = []
    with tempfile.TemporaryDirectory(prefix="m") as home, tempfile.TemporaryDirectory() as folder:
        async with Moat(home=home) as moat, connect() as bare:
            rows += await execs(moat, folder, bare, rounds * 2)
            for sandbox in (False, True):
                rows += await starts(moat, folder, rounds, sandbox)
    return rows
