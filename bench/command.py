"""(c) `moat version` and `moat list` against `python -c pass`, each a process of its own."""

from __future__ import annotations

import asyncio
import compileall
import os
import shutil
import subprocess
import sys
import tempfile

from measure import alternate, row

from moat_core import Moat
from moat_core.store import Home, RunRow, Store

PAST_RUNS = 100_000


async def measure(rounds):
    # An installed package has its byte code; a checkout on a machine that writes none would be compiled each time.
    for package in ("moat_core", "moat_plugins"):
        compileall.compile_dir(os.path.join(os.path.dirname(__file__), "..", package), quiet=1)
    moat = os.path.join(os.path.dirname(sys.executable), "moat")

    def process(*argv, home):
        async def run():
            environ = {**os.environ, "MOAT_HOME": home}
            process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.DEVNULL, env=environ)
            assert await process.wait() == 0

        return run

    rows = []
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as folder:
        python = process(sys.executable, "-c", "pass", home=home)
        times = await alternate(rounds, moat=process(moat, "version", home=home), **{"python -c pass": python})
        rows.append(row("moat version", times, "python -c pass", limit=5))
        times = await alternate(rounds, moat=process(moat, "list", home=home), **{"python -c pass": python})
        rows.append(row("moat list, no run", times, "python -c pass", limit=5))
        async with Moat(home=home) as library, library.run(folder, sandbox=False), library.run(folder, sandbox=False):
            times = await alternate(rounds, moat=process(moat, "list", home=home), **{"python -c pass": python})
            rows.append(row("moat list, two live runs", times, "python -c pass", limit=5))
    with tempfile.TemporaryDirectory() as none, tempfile.TemporaryDirectory() as long:
        remember(long, PAST_RUNS)
        ways = {"moat": process(moat, "list", home=long), "no history": process(moat, "list", home=none)}
        rows.append(row("moat list, 100,000 old runs", await alternate(rounds, **ways), "no history", limit=1.5))
    shutil.rmtree(home, ignore_errors=True)
    return rows


def remember(home, count):
    """Write down COUNT runs that are over, as their owners would have."""
    store = Store(Home(home))
    texts = dict.fromkeys(("name", "runtime", "address", "probe", "workspace", "owner_kind"), "x")
    others = {"owner_pid": 1, "sandboxed": 0, "env_names": [], "ports": {}, "urls": {}, "phase": "over"}
    rows = (RunRow(id=f"run-{n:08x}", created=float(n), ended=float(n), **texts, **others) for n in range(count))
    store.add_past(rows)
    store.close()
