"""Only what is ours is removed, and only what has stopped is kept."""

from __future__ import annotations

import pytest
from docker_support import FakeRun, get_engine, make_plan, open_run

from moat_core.errors import EngineError
from moat_core.ledger import Connections
from moat_core.ledger.resource import from_row, to_row
from moat_plugins.docker.resources import DockerContainer, DockerNetwork, DockerVolume
from moat_plugins.docker.runtime import connect_run

BODY = {"Image": "debian:bookworm-slim", "Cmd": ["sh", "-c", "trap '' TERM; sleep 1000"]}


class Containers:
    """How to make, find and remove a container by hand, and ours of the same name."""

    @staticmethod
    def ours(run):
        return DockerContainer(run.address, f"moat-{run.id}", {**BODY, "Labels": run.labels})

    @staticmethod
    async def make(engine, name, labels):
        await engine.containers.create(name, {**BODY, "Labels": labels})

    @staticmethod
    async def is_there(engine, name):
        return name in {item["Names"][0][1:] for item in await engine.containers.list_labelled()}

    @staticmethod
    async def remove(engine, name):
        await engine.containers.remove(name)


class Networks:
    """The same for networks."""

    @staticmethod
    def ours(run):
        return DockerNetwork(run.address, f"moat-{run.id}", {"Driver": "bridge", "Labels": run.labels})

    @staticmethod
    async def make(engine, name, labels):
        await engine.networks.create(name, {"Driver": "bridge", "Labels": labels})

    @staticmethod
    async def is_there(engine, name):
        return name in {item["Name"] for item in await engine.networks.list_labelled()}

    @staticmethod
    async def remove(engine, name):
        await engine.networks.remove(name)


class Volumes:
    """The same for volumes."""

    @staticmethod
    def ours(run):
        return DockerVolume(run.address, f"moat-{run.id}", run.labels)

    @staticmethod
    async def make(engine, name, labels):
        await engine.volumes.create(name, labels)

    @staticmethod
    async def is_there(engine, name):
        return name in {item["Name"] for item in await engine.volumes.list_labelled()}

    @staticmethod
    async def remove(engine, name):
        await engine.volumes.remove(name)


@pytest.mark.parametrize("kind", [Containers, Networks, Volumes])
@pytest.mark.parametrize("change", ["no labels", "moat.run-id", "moat.owner"])
async def test_what_is_somebody_elses_stays(engine, tmp_path, kind, change):
    """A name that is taken is an error, and neither that failure nor the reaper removes what has it."""
    async with open_run(engine, tmp_path) as run:
        api, resource = await get_engine(run), kind.ours(run)
        labels = {} if change == "no labels" else {**run.labels, change: "f" * 16}
        await kind.make(api, resource.name, labels)
        try:
            with pytest.raises(EngineError, match=r"exists|in use"):
                await resource.create(run)
            assert await resource.release(run) is False
            assert await from_row(type(resource), to_row(resource)).release(run) is False
            assert await kind.is_there(api, resource.name)
        finally:
            await kind.remove(api, resource.name)


@pytest.mark.parametrize("kind", [Containers, Networks, Volumes])
async def test_what_a_dead_owner_made_goes(engine, tmp_path, kind):
    """Another process that has only the row removes what this one made."""
    async with open_run(engine, tmp_path) as run, Connections(tmp_path) as connections:
        resource = kind.ours(run)
        await resource.create(run)
        reaper = FakeRun(run.plan, engine, tmp_path, connections)
        stored = from_row(type(resource), to_row(resource))
        assert await stored.release(reaper) is True
        assert await stored.release(reaper) is False
        assert not await kind.is_there(await get_engine(run), resource.name)


async def test_container_is_kept_stopped(engine, tmp_path):
    """One that still runs, deaf to SIGTERM, is stopped before it is kept; other things are not kept at all."""
    async with open_run(engine, tmp_path) as run:
        api, resource = await get_engine(run), Containers.ours(run)
        await run.acquire(resource)
        await api.containers.start(resource.name)
        for _ in range(2):
            assert await resource.keep(run) is True
            assert (await api.containers.inspect(resource.name))["State"]["Running"] is False
        assert await Networks.ours(run).keep(run) is False
        assert await Volumes.ours(run).keep(run) is False


async def test_deadline_of_one_run_is_its_own(engine, tmp_path):
    """`docker.timeout` holds for the run that has it, not for others on the same connection."""
    async with Connections(tmp_path) as connections:

        def make_run(timeout_s):
            plan = make_plan(details={"docker": {"timeout_s": timeout_s}})
            return FakeRun(plan, engine, tmp_path, connections)

        first, patient, last = [(await connect_run(make_run(each))).engine for each in (None, 77.0, None)]
        shared = (await connections.get(type(await connect_run(make_run(None))), engine)).engine
        assert patient.timeout_s == patient.containers._engine.timeout_s == 77.0
        assert first.timeout_s == last.timeout_s == shared.timeout_s == 30.0
        assert patient.ready_networks is shared.ready_networks
        assert await patient.info() is await shared.info()
