"""What the sweep, the doctor and the status find on the real engine."""

from __future__ import annotations

import os

import anyio
import pytest
from docker_support import FakeRun, FakeUpkeep, get_engine, make_plan, open_run

from moat_core.ledger import Connections
from moat_plugins.docker import labels
from moat_plugins.docker.leftovers import find_leftovers
from moat_plugins.docker.resources import DockerContainer, DockerNetwork, DockerVolume
from moat_plugins.docker.runtime import DockerRuntime
from moat_plugins.docker.upkeep import add_to_status, find_faults

pytestmark = pytest.mark.alone  # it looks at all that there is


async def make_things(run, *, state="created", **more):
    marks = {**run.labels, **more}
    await run.acquire(DockerNetwork(run.address, f"moat-{run.id}", {"Driver": "bridge", "Labels": marks}))
    await run.acquire(DockerVolume(run.address, f"moat-{run.id}", marks))
    config = {"Image": "debian:bookworm-slim", "Cmd": ["sleep", "1000"], "Labels": marks}
    container = await run.acquire(DockerContainer(run.address, f"moat-{run.id}", config))
    if state != "created":
        await (await get_engine(run)).containers.start(container)


@pytest.mark.parametrize("state", ["created", "running"])
async def test_sweep_finds_and_removes_what_nobody_remembers(engine, tmp_path, state):
    """A dead run's container, network and volume are found by label in every state, in an order that can be undone."""
    async with open_run(engine, tmp_path) as run, Connections(tmp_path) as connections:
        await make_things(run, state=state)
        upkeep = FakeUpkeep(connections, address=engine)
        found = await find_leftovers(upkeep)
        assert [(left.kind, left.name, left.run_id, left.automatic) for left in found] == [
            (kind, f"moat-{run.id}", run.id, True) for kind in ("container", "network", "volume")
        ]
        assert all(left.created is not None for left in found)
        for left in found:
            assert await left.resource.release(run) is True
        assert await find_leftovers(upkeep) == []


async def test_sweep_leaves_what_is_somebodys(engine, tmp_path):
    """Live runs, runs with rows, and those of another MOAT_HOME are not the sweep's; a kept one goes only when asked."""
    async with open_run(engine, tmp_path) as run, Connections(tmp_path) as connections:
        await make_things(run)
        assert await find_leftovers(FakeUpkeep(connections, live=[run.id], address=engine)) == []
        assert await find_leftovers(FakeUpkeep(connections, known=[run.id], address=engine)) == []
        assert await find_leftovers(FakeUpkeep(connections, owner="f" * 16, address=engine)) == []
    async with open_run(engine, tmp_path) as run, Connections(tmp_path) as connections:
        await make_things(run, **{labels.KEEP: "true"})
        found = await find_leftovers(FakeUpkeep(connections, address=engine))
        assert {left.automatic for left in found} == {False}


async def test_shared_things_are_offered_when_asked_only(engine, tmp_path):
    """An unused image of ours is offered to `moat clean`, never to the reaper, and not while a container uses it."""
    from moat_core.types import ImageSpec
    from moat_plugins.docker.images import resolve_image

    tag = f"moat/test:{os.urandom(8).hex()}"
    image = ImageSpec("x", f"FROM debian:bookworm-slim\nENV A={tag}\n", tag)
    async with open_run(engine, tmp_path, image=image) as run, Connections(tmp_path) as connections:
        await resolve_image(run)

        async def names(*, automatic):
            found = await find_leftovers(FakeUpkeep(connections, automatic=automatic, address=engine))
            return {left.name: left for left in found}

        assert tag not in await names(automatic=True)
        left = (await names(automatic=False))[tag]
        assert (left.kind, left.automatic, left.run_id) == ("image", False, None)
        assert left.size_bytes > 1_000_000
        user = DockerContainer(engine, f"moat-{run.id}", {"Image": tag, "Cmd": ["true"], "Labels": run.labels})
        await user.create(run)
        assert tag not in await names(automatic=False)
        await user.release(run)
        assert await left.resource.release(run) is True


async def test_dead_engine_hides_nothing_of_a_living_one(engine, tmp_path):
    """Of engines that hang or are gone `moat clean` hears, soon; what the others have is found all the same."""
    hanging, gone = f"{tmp_path}/hang.sock", f"unix://{tmp_path}/gone.sock"
    async with (
        open_run(engine, tmp_path) as run,
        Connections(tmp_path) as connections,
        await anyio.create_unix_listener(hanging) as _,  # nobody accepts: connections wait for ever
    ):
        await make_things(run)
        addresses = [f"unix://{hanging}", gone, engine]
        upkeep = FakeUpkeep(connections, address=addresses, automatic=False)
        with anyio.fail_after(10):
            found = await find_leftovers(upkeep)
        assert {left.kind for left in found if left.run_id == run.id} == {"container", "network", "volume"}
        assert sorted(problem.where for problem in upkeep.problems) == sorted(addresses[:2])
        quiet = FakeUpkeep(connections, address=addresses)
        assert {left.run_id for left in await find_leftovers(quiet)} >= {run.id}
        assert quiet.problems == []


async def test_doctor_and_status_tell_of_the_engine(engine, tmp_path, monkeypatch):
    """The doctor names version, storage and disk; the status the engine and the shared network."""
    monkeypatch.setenv("DOCKER_HOST", engine)
    async with Connections(tmp_path) as connections:
        upkeep = FakeUpkeep(connections)
        checks = {check.name: check for check in await find_faults(upkeep)}
        assert checks["docker engine"].status in {"ok", "warning"}
        assert checks["docker storage"].message == "The storage driver is overlay2."
        assert "free" in checks["docker disk"].message
        run = FakeRun(make_plan(), engine, tmp_path, connections)
        from moat_plugins.docker.network import ensure_shared

        await ensure_shared(await get_engine(run), run.locks)
        lines = {(line.section, line.name): line for line in await add_to_status(upkeep)}
        assert lines["engine", "docker"].data["address"] == engine
        assert lines["networks", "moat"].text == "shared by runs"


async def test_doctor_without_an_engine_says_what_to_do(tmp_path, monkeypatch):
    """No engine is an error of the doctor with a fix, and a line of the status."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    async with Connections(tmp_path) as connections:
        upkeep = FakeUpkeep(connections)
        (check,) = await find_faults(upkeep)
        assert check.status == "error"
        assert "DOCKER_HOST" in check.fix
        (line,) = await add_to_status(upkeep)
        assert "does not answer" in line.text
        assert await find_leftovers(upkeep) == []


async def test_oci_runtimes_are_told(engine):
    """What the engine can start containers with, as other plugins ask for it."""
    runtime = await DockerRuntime.connect(engine)
    try:
        known = await runtime.oci_runtimes()
    finally:
        await runtime.aclose()
    assert {"runc", "runsc"} <= set(known.names)
    assert (known.default, known.engine_os, known.is_desktop, known.maps_users) == ("runc", "linux", False, False)
