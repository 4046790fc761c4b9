"""(d) The owner's memory while 200 MB of output stream through, over what it has when idle."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile

_OWNER = """
import asyncio, os, sys
from moat_core import Moat

def rss(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field))

async def main(home, folder, sandbox):
    seen = 0
    async def on_output(output):
        nonlocal seen
        seen += len(output.data)
    async with Moat(home=home) as moat:
        async with moat.run(folder, command=["true"], sandbox=sandbox, on_output=on_output) as run:
            await run.wait()
        idle = rss("VmRSS")
        open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far: proc(5)
        command = ["sh", "-c", "yes 0123456789012345678901234567890123456789 | head -c 200000000"]
        async with moat.run(folder, command=command, sandbox=sandbox, on_output=on_output) as run:
            await run.wait()
        assert seen == 200_000_000, seen
        print(idle, rss("VmHWM"))

asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3] == "gvisor"))
"""


async def measure(rounds):
    rows = []
    for name in ("runc", "gvisor"):
        with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as folder:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _OWNER, home, folder, name, stdout=subprocess.PIPE, env=dict(os.environ)
            )
            out, _ = await process.communicate()
            assert process.returncode == 0
        idle, peak = (int(word) / 1024 for word in out.split())
        rows.append(
            {
                "what": f"owner's peak, 200 MB streamed, {name} (may be +20)",
                "baseline": "idle",
                "unit": "MiB",
                "moat": round(peak, 1),
                "base": round(idle, 1),
                "ratio": round(peak / idle, 3),
                "limit": None,
                "extra_mib": round(peak - idle, 1),
                "rounds": 1,
            }
        )
        rows[-1]["what"] += f": +{rows[-1]['extra_mib']}"
    return rows
