"""Making the container when what it needs has gone since it was looked at."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from scripted_engine import answer

from moat_core.errors import EngineError
from moat_core.plan import PlanBuilder
from moat_core.runtime.facets import RunNetwork
from moat_plugins.docker.network import SHARED
from moat_plugins.docker.open_sandbox import _create
from moat_plugins.docker.runtime import DockerRuntime

GONE = answer(json.dumps({"message": f"network {SHARED} not found"}).encode(), "404 Not Found")
NETWORK = json.dumps({"Options": {"com.docker.network.bridge.enable_icc": "false"}}).encode()


def make_run(runtime, locks, network):
    """A run that is about to make its container."""

    async def connection(kind, address):
        return runtime

    async def acquire(resource):
        return await resource.create(SimpleNamespace(run_id=plan.run_id, connection=connection))

    plan = PlanBuilder(run_id="run-00000001", name="a", runtime="docker", workspace=Path("/")).freeze()
    fields = {"image": "x", "labels": {}, "hosts": {}, "grace_s": 10.0, "locks": locks}
    return SimpleNamespace(plan=plan, id=plan.run_id, acquire=acquire, get=lambda kind: network, files=[], **fields)


@pytest.mark.parametrize(("network", "tries"), [(RunNetwork(SHARED, shared=True), 2), (RunNetwork("own"), 1)])
async def test_shared_network_that_has_gone_is_made_again(scripted, tmp_path, network, tries):
    """Engines that miss it at the creation are asked again, once; a run's own network nobody else can have removed."""
    creations = []

    async def script(stream, request):
        method, path, _ = request
        if "/containers/create" in path:
            creations.append(path)
            await stream.send(GONE if len(creations) == 1 else answer(b'{"Id":"abc"}'))
        else:
            assert (method, path) == ("GET", f"/v1.45/networks/{SHARED}")
            await stream.send(answer(NETWORK))

    async with scripted(script) as (_, engine):
        runtime = DockerRuntime(engine, str(tmp_path))
        engine.ready_networks.add(SHARED)
        run = make_run(runtime, tmp_path, network)
        if network.shared:
            assert (await _create(run, runtime)).info.id == "abc"
        else:
            with pytest.raises(EngineError, match="not found"):
                await _create(run, runtime)
        assert len(creations) == tries
