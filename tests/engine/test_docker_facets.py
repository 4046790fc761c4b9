"""What the docker plugin offers beyond a run's container: sidecars, volumes, raw connections, guests."""

from __future__ import annotations

import json

import pytest
from docker_support import OWNER, FakeUpkeep, get_engine, open_live, open_run, run_command

from moat_core.errors import EngineError, ImageError
from moat_core.ledger import Connections
from moat_core.runtime.facets import SidecarSpec
from moat_core.runtime.locks import make_cache_key
from moat_core.types import Command, Limits, Tmpfs, Volume
from moat_plugins.docker.leftovers import find_leftovers
from moat_plugins.docker.network import open_network
from moat_plugins.docker.runtime import DockerRuntime

pytestmark = pytest.mark.engine
IMAGE = "debian:bookworm-slim"
SLEEP = ("sleep", "infinity")


async def facets(run):
    return await run.connection(DockerRuntime, run.address)


@pytest.mark.parametrize("oci", ["runc", "runsc"])
async def test_a_sidecar_is_found_by_the_runs_container(engine, tmp_path, oci):
    """At its address, with what was asked for; it has no privileges, carries the run's labels, and goes with it."""
    async with open_run(engine, tmp_path, own_network=True, oci_runtime=oci) as run, open_network(run):
        runtime = await facets(run)
        spec = SidecarSpec(
            role="helper",
            image=IMAGE,
            command=("perl", "-e", _SERVER),
            env={"WORD": "hello"},
            oci_runtime=oci,
            tmpfs=(Tmpfs("/scratch"),),
            volumes=(Volume("store", "/store"),),
            limits=Limits(memory_bytes=256 * 1024 * 1024),
        )
        sidecar = await runtime.sidecars.start(run, spec)
        found = await runtime.engine.containers.inspect(sidecar.sandbox.info.id)
        assert found["Name"] == f"/moat-{run.id}-helper"
        assert found["Config"]["Labels"].items() >= {**run.labels, "moat.role": "helper"}.items()
        host = found["HostConfig"]
        assert (host["Privileged"], host["CapDrop"], host["SecurityOpt"]) == (False, ["ALL"], ["no-new-privileges"])
        assert (host["Runtime"], host["Memory"], host["PortBindings"] or {}) == (oci, 256 * 1024 * 1024, {})
        assert sidecar.sandbox.info.oci_runtime == oci
        asker = await runtime.sidecars.start(
            run,
            SidecarSpec(role="asker", image=IMAGE, command=SLEEP, hosts={"helper": sidecar.address}, oci_runtime=oci),
        )
        ask = ("perl", "-e", _CLIENT, "helper")
        assert await run_command(asker.sandbox, *ask) == (0, b"hello /scratch /store\n", b"")
        volume = await runtime.engine.volumes.inspect(f"moat-{run.id}-store")
        assert volume["Labels"].items() >= run.labels.items()
        assert all(await run.release_all())
        assert await runtime.engine.containers.list_labelled(f"moat.run-id={run.id}") == []
        assert await runtime.engine.volumes.list_labelled(f"moat.run-id={run.id}") == []


_SERVER = r"""
use IO::Socket::INET; $| = 1;
my $s = IO::Socket::INET->new(LocalPort => 4321, Listen => 5, ReuseAddr => 1) or die;
my ($a, $b) = map { -d $_ && -w $_ ? $_ : "no" } "/scratch", "/store";
while (my $c = $s->accept) { print $c "$ENV{WORD} $a $b\n"; close $c }
"""
_CLIENT = r"""
use IO::Socket::INET;
for (1..200) { my $c = IO::Socket::INET->new(PeerAddr => $ARGV[0], PeerPort => 4321) or do { select undef, undef, undef, 0.05; next };
print <$c>; exit 0 } exit 1
"""


async def test_a_sidecar_may_be_privileged_for_a_reason_only(engine, tmp_path):
    """Privileges are what the spec says."""
    async with open_run(engine, tmp_path, own_network=True) as run, open_network(run):
        runtime = await facets(run)
        for role, fields, wanted in [
            ("root", {"privileged": "a test"}, (True, None, None)),
            ("caps", {"capabilities": {"ALL": "a test"}}, (False, ["ALL"], None)),
        ]:
            sidecar = await runtime.sidecars.start(run, SidecarSpec(role=role, image=IMAGE, command=SLEEP, **fields))
            host = (await runtime.engine.containers.inspect(sidecar.sandbox.info.id))["HostConfig"]
            assert (host["Privileged"], host["CapAdd"], host["CapDrop"]) == wanted


async def test_a_sidecars_image_that_cannot_be_had_is_told(engine, tmp_path):
    """By its name."""
    details = {"docker": {"pull": "never"}}
    async with open_run(engine, tmp_path, own_network=True, details=details) as run, open_network(run):
        with pytest.raises(ImageError, match="no-such/image"):
            await (await facets(run)).sidecars.start(run, SidecarSpec(role="x", image="no-such/image"))
        assert [resource.kind for resource in run.acquired] == ["docker.network"]


async def test_a_cache_outlives_its_run_until_it_is_cleaned(engine, tmp_path):
    """The next run of that agent finds what was in it, `moat clean` finds it when no container has it mounted."""
    volumes = (Volume("images", "/cache", cache="fox"), Volume("own", "/own"))
    name = f"moat-cache-{OWNER}-{make_cache_key('fox', '/')}-images"
    async with Connections(tmp_path) as connections:
        upkeep = FakeUpkeep(connections, automatic=False, address=engine)

        async def caches():
            return [leftover for leftover in await find_leftovers(upkeep) if leftover.resource.kind == "docker.cache"]

        async with open_live(engine, tmp_path, volumes=volumes) as (_, sandbox):
            assert (await run_command(sandbox, "sh", "-c", "echo one >/cache/a; echo two >/own/a"))[0] == 0
            assert await caches() == []
        async with open_live(engine, tmp_path, volumes=volumes) as (run, sandbox):
            assert (await run_command(sandbox, "sh", "-c", "cat /cache/a; ls /own"))[1] == b"one\n"
            with pytest.raises(EngineError, match="in use"):
                await (await get_engine(run)).volumes.remove(name)
        (cache,) = await caches()
        assert (cache.name, cache.automatic) == (name, False)
        assert await cache.resource.release(run_context(connections))
        assert await caches() == []


def run_context(connections):
    return FakeUpkeep(connections)


async def test_a_raw_connection_speaks_the_engines_api(engine, tmp_path):
    """Nothing has been said on it yet."""
    async with open_run(engine, tmp_path) as run:
        api = (await facets(run)).api
        assert api.address == engine
        assert tuple(map(int, api.version.split("."))) >= (1, 42)
        async with await api.connect() as stream:
            await stream.send(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
            assert (await stream.receive()).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_guests_are_released_with_the_run(engine, tmp_path):
    """Containers in any state, networks, volumes and images that are signed or named; not what has their labels only."""
    async with open_run(engine, tmp_path) as run:
        runtime = await facets(run)
        guests = await runtime.api.hold_guests(run)
        assert guests.marks.items() >= {**run.labels, "moat.role": "guest"}.items()
        calls, copied = runtime.engine, guests.sign("container", f"mine-{run.id}", {})
        network = f"guests-{run.id}"
        await calls.networks.create(network, {"Labels": guests.sign("network", network, {})})
        for word in ("mine", "other"):
            name = f"{word}-{run.id}"

            def mark(kind, name=name, word=word):
                return guests.sign(kind, name, {}) if word == "mine" else copied

            config = {"Image": IMAGE, "Cmd": list(SLEEP), "Labels": mark("container")}
            config["HostConfig"] = {"NetworkMode": network if word == "mine" else "none"}
            container = await calls.containers.create(name, config)
            await calls.containers.start(container)
            await calls.volumes.create(name, mark("volume"))
            made = await calls.call(
                "commit", "POST", "/commit", params={"container": container, "repo": name}, body={"Labels": {}}
            )
            for also in [guests.name_image(made["Id"]), guests.name_image(made["Id"], f"{name}:latest")][
                : 2 * (word == "mine")
            ]:
                repo, _, tag = also.rpartition(":")
                await calls.call("tag", "POST", f"/images/{made['Id']}/tag", params={"repo": repo, "tag": tag})
        try:
            assert all(await run.release_all())
            left = {
                "containers": [
                    item["Names"][0] for item in await calls.containers.list_labelled() if run.id in str(item)
                ],
                "networks": [item["Name"] for item in await calls.networks.list_labelled() if run.id in str(item)],
                "volumes": [item["Name"] for item in await calls.volumes.list_labelled() if run.id in str(item)],
                "images": [
                    tag
                    for item in await calls.images.list_labelled()
                    for tag in item["RepoTags"] or []
                    if run.id in tag
                ],
            }
            assert left == {
                "containers": [f"/other-{run.id}"], "networks": [], "volumes": [f"other-{run.id}"],
                "images": [f"other-{run.id}:latest"],
            }, json.dumps(left)  # fmt: skip
        finally:
            await calls.containers.remove(f"other-{run.id}")
            await calls.volumes.remove(f"other-{run.id}")
            await calls.images.remove(f"other-{run.id}")


async def test_a_row_that_was_tampered_with_removes_nothing(engine, tmp_path):
    """The marks must be those of a run's guests, and of that run."""
    async with open_run(engine, tmp_path) as run:
        await (await facets(run)).api.hold_guests(run)
        (guests,) = run.acquired
        for marks in ({}, {"moat.role": "guest"}, {**guests.marks, "moat.role": "main"}):
            assert not await type(guests)(guests.address, marks).release(run)


async def test_commands_of_a_sidecar_run_as_root_of_it(engine, tmp_path):
    """It is a sandbox like the run's own: exec, logs, wait."""
    async with open_run(engine, tmp_path, own_network=True) as run, open_network(run):
        command = ("sh", "-c", "echo hello; exec sleep infinity")
        sidecar = await (await facets(run)).sidecars.start(run, SidecarSpec(role="x", image=IMAGE, command=command))
        async with sidecar.sandbox.open_process(Command(("id", "-u"))) as process:
            assert (await anext(aiter(process))).data == b"0\n"
        await sidecar.sandbox.stop(0)
        assert (await sidecar.sandbox.wait()).exit_code in {137, 143}
        assert [piece.data async for piece in sidecar.sandbox.logs(tail=None, follow=False)] == [b"hello\n"]
