"""(a) A run of /bin/echo and (b) an exec, against the bare engine API and `docker run --rm`."""

from __future__ import annotations

import asyncio
import copy
import shutil
import subprocess
import tempfile
import time

from bare import connect
from measure import alternate, row

from moat_core import Moat

ECHO = ["/bin/echo", "hello"]


async def captured_config(moat, folder, sandbox):
    """The very create body that moat sends for this run: the bare API gets the same container."""
    from moat_plugins.docker.resources import DockerContainer

    seen = []

    class Spy:
        from moat_core import hookimpl

        @hookimpl
        async def moat_on_ledger_step(self, step):
            if step.step == "intent" and isinstance(step.resource, DockerContainer):
                seen.append(step.resource.config)

    async with Moat(home=moat.home.path + "-spy", plugins={"spy": Spy()}) as other:
        async with other.run(folder, command=ECHO, sandbox=sandbox) as run:
            await run.wait()
    config = copy.deepcopy(dict(seen[0]))
    config["Labels"] = {"moat.bench": "true"}
    # Nobody holds the yardstick until its mounts are looked at: that it takes no time is a part of what is measured.
    shell, option, text, *rest = config["Entrypoint"]
    config["Entrypoint"] = [shell, option, text[text.index("set -eu") :], *rest]
    return config | {"OpenStdin": False, "StdinOnce": False, "AttachStdin": False}


async def one_at_a_time(moat, folder, bare, sandbox, rounds):
    config = await captured_config(moat, folder, sandbox)
    plain = {
        "Image": "debian:bookworm-slim",
        "Cmd": ECHO,
        "HostConfig": {"Runtime": config["HostConfig"].get("Runtime", "runc")},
    }

    async def ours():
        async with moat.run(folder, command=ECHO, sandbox=sandbox) as run:
            result = await run.wait()
        assert result.stdout == b"hello\n", result

    async def api():
        assert b"hello\n" in await bare.run(config)

    async def default_api():
        assert b"hello\n" in await bare.run(plain)

    runtime = plain["HostConfig"]["Runtime"]

    async def cli():
        process = await asyncio.create_subprocess_exec(
            shutil.which("docker"), "run", "--rm", "--runtime", runtime, "debian:bookworm-slim", *ECHO,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
        assert out == b"hello\n"

    times = await alternate(rounds, moat=ours, **{"bare API": api, "docker run --rm": cli, "API, default": default_api})
    name = "gVisor" if sandbox else "runc"
    rows = [
        row(f"run /bin/echo, {name}", times, "bare API", limit=1.10),
        row(f"run /bin/echo, {name}", times, "docker run --rm", limit=1.10),
        row(f"run /bin/echo, {name}", times, "API, default"),
        # What moat asks of the engine costs this by itself: no code of moat's is on either side.
        row(f"(that container by the bare API), {name}", times, "docker run --rm", subject="bare API"),
    ]

    async def ours_first():
        started = time.perf_counter()
        first = []

        async def on_output(_):
            first.append(time.perf_counter() - started)

        async with moat.run(folder, command=ECHO, sandbox=sandbox, on_output=on_output) as run:
            await run.wait()
        return first[0]

    times = await alternate(rounds, moat=ours_first, **{"bare API": lambda: bare.first_byte(config)})
    first = row(f"first byte of output, {name}", times, "bare API")
    first["extra_ms"] = round(first["moat_ms"] - first["baseline_ms"], 1)
    first["what"] += f" (+{first['extra_ms']} ms, may be +30)"
    return [*rows, first]


async def many_at_once(moat, folder, bare, sandbox, count, rounds, limit):
    config = await captured_config(moat, folder, sandbox)

    async def ours():
        async def one():
            async with moat.run(folder, command=ECHO, sandbox=sandbox) as run:
                assert (await run.wait()).stdout == b"hello\n"

        await asyncio.gather(*(one() for _ in range(count)))

    async def api():
        await asyncio.gather(*(bare.run(config) for _ in range(count)))

    times = await alternate(rounds, moat=ours, **{"bare API": api})
    name = "gVisor" if sandbox else "runc"
    return [row(f"{count} at once, {name}", times, "bare API", limit=limit)]


async def execs(moat, folder, bare, sandbox, rounds):
    async with moat.run(folder, sandbox=sandbox) as run:
        container, user = run.sandbox.info.id, f"{run.run.plan.user.uid}:{run.run.plan.user.gid}"

        async def ours():
            assert (await run.exec(ECHO)).stdout == b"hello\n"

        async def api():
            code, output = await bare.exec(container, ECHO, user)
            assert code == 0
            assert b"hello\n" in output

        times = await alternate(rounds, moat=ours, **{"bare API": api})
    return [row(f"exec /bin/echo, {'gVisor' if sandbox else 'runc'}", times, "bare API", limit=1.10)]


async def measure(rounds):
    rows = []
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as folder:
        async with Moat(home=home) as moat, connect() as bare:
            for sandbox in (False, True):
                rows += await one_at_a_time(moat, folder, bare, sandbox, rounds)
                rows += await many_at_once(moat, folder, bare, sandbox, 16, max(2, rounds // 5), 1.15)
                rows += await many_at_once(moat, folder, bare, sandbox, 32, max(2, rounds // 5), 1.15)
                rows += await execs(moat, folder, bare, sandbox, rounds * 2)
        shutil.rmtree(home + "-spy", ignore_errors=True)
    return rows
