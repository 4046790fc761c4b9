"""A BuildKit sidecar as docker:dind has it, without the rest of such a run."""

from __future__ import annotations

from contextlib import asynccontextmanager

from docker_support import NAME_SERVERS, FakeRun, make_plan
from world import BUILDKIT_IMAGE

from moat_core.ledger import Connections
from moat_plugins.buildkit.cache import IsKept
from moat_plugins.buildkit.sidecar import open_sidecar
from moat_plugins.docker.network import open_network


@asynccontextmanager
async def open_beside(engine, folder, kind):
    """Start it in KIND (``gVisor`` or ``runc``) and yield its address."""
    details = {"buildkit": {"mode": "on", "image": BUILDKIT_IMAGE, "cache_limit": 1 << 30}, "docker": {"pull": "never"}}
    options = {"sandboxed": True, "oci_runtime": "runsc-dind"} if kind == "gVisor" else {"oci_runtime": "runc"}
    fields = {"own_network": True, "details": details, "dns": NAME_SERVERS, **options}
    async with Connections() as connections:
        run = FakeRun(make_plan(**fields), engine, folder, connections)
        run.name, run.add_host, run.add_file = "beside", run.hosts.__setitem__, run.files.append
        run.provide(IsKept(here=False))
        try:
            async with open_network(run), open_sidecar(run):
                yield run.hosts["buildkit"]
        finally:
            await run.release_all()
