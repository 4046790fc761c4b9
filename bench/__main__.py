"""Measure moat against the engine it drives: ``python bench [--rounds N] [--json FILE] [PART ...]``.

Ratios are of neighbours in one run on one machine; nothing here asserts an absolute time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys

import build
import command
import guard
import memory
import overhead
import router
from measure import show

from moat_core.errors import MoatError

PARTS = {"overhead": overhead, "command": command, "memory": memory, "build": build, "guard": guard, "router": router}


async def main():
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default all")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", metavar="FILE", help="write the rows there, too")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    rows = []
    for name in options.parts or PARTS:
        print(f"# {name}", file=sys.stderr, flush=True)
        rows += await PARTS[name].measure(options.rounds)
    show(rows)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(
                {"machine": platform.platform(), "python": platform.python_version(), "rows": rows}, file, indent=2
            )


try:
    asyncio.run(main())
except MoatError as error:
    sys.exit(f"bench: {error}\n{error.hint}")
