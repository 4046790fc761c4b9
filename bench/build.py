"""Builds by our BuildKit client, as a library, against `docker buildx build`."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import alternate, row

from moat_plugins.buildkit.api import BuildKit

FILES, SIZE = 10_000, 20_000  # 200 MB
DOCKERFILE = "FROM scratch\nCOPY . /\n"
AS_A_PROGRAM = """
import asyncio, sys
from moat_plugins.buildkit.api import BuildKit
async def main():
    async with BuildKit.connect("docker+" + sys.argv[1]) as buildkit:
        await buildkit.build(sys.argv[2], outputs=[])
asyncio.run(main())
"""


def address():
    return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


async def run(*argv):
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, err = await process.communicate()
    assert process.returncode == 0, err


def buildx(context):
    return run("docker", "buildx", "build", "-q", "--output", "type=cacheonly", context)


async def ours(context, times=1):
    """In this process, connecting each time; what a program costs that does nothing else is another row."""
    async with BuildKit.connect("docker+" + address()) as buildkit:
        await asyncio.gather(*(buildkit.build(context, outputs=[]) for _ in range(times)))


def program(context):
    return run(sys.executable, "-c", AS_A_PROGRAM, address(), context)


def fill(folder):
    """Write a context of 200 MB whose contents nobody has seen."""
    data = secrets.token_bytes(SIZE - 16)
    for number in range(FILES):
        path = Path(folder) / str(number % 100)
        path.mkdir(exist_ok=True)
        (path / str(number)).write_bytes(data + secrets.token_bytes(16))
    (Path(folder) / "Dockerfile").write_text(DOCKERFILE)


async def cold(way):
    """Build a new context; making it does not count."""
    with tempfile.TemporaryDirectory() as folder:
        await asyncio.to_thread(fill, folder)
        started = asyncio.get_running_loop().time()
        await way(folder)
        return asyncio.get_running_loop().time() - started


async def measure(rounds):
    rows = []
    with tempfile.TemporaryDirectory() as small, tempfile.TemporaryDirectory() as large:
        (Path(small) / "Dockerfile").write_text("FROM debian:bookworm-slim\nCOPY a /a\nRUN true\n")
        (Path(small) / "a").write_text("a")
        fill(large)
        baseline = "docker buildx"
        ways = {baseline: lambda: buildx(small), "program": lambda: program(small)}
        times = await alternate(rounds, moat=lambda: ours(small), **ways)
        rows.append(row("build, small, all cached", times, baseline, limit=0.5))
        rows.append(row("build, small, all cached, Python's start included", times, baseline, subject="program"))
        times = await alternate(max(2, rounds // 4), moat=lambda: cold(ours), **{baseline: lambda: cold(buildx)})
        rows.append(row("build, 10,000 files of 200 MB, cold", times, baseline, limit=1.0))
        times = await alternate(rounds, moat=lambda: ours(large), **{baseline: lambda: buildx(large)})
        rows.append(row("build, the same, unchanged", times, baseline, limit=0.6))

        async def many():
            await asyncio.gather(*(buildx(small) for _ in range(30)))

        times = await alternate(max(2, rounds // 4), moat=lambda: ours(small, 30), **{baseline: many})
        rows.append(row("30 small builds at once, one channel", times, baseline))
    return rows
