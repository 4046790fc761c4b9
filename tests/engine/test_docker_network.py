"""Runs on the shared network cannot see each other; a run's own network lets its containers meet."""

from __future__ import annotations

import anyio
import attrs
import pytest
from docker_support import FakeRun, FakeUpkeep, get_engine, make_plan, open_live, open_run, run_command

from moat_core.errors import EngineError
from moat_core.ledger import Connections
from moat_core.runtime.facets import RunNetwork
from moat_core.types import Command
from moat_plugins.docker import network
from moat_plugins.docker.leftovers import find_leftovers
from moat_plugins.docker.network import ensure_shared, open_network
from moat_plugins.docker.resources import DockerSharedNetwork
from moat_plugins.docker.runtime import DockerRuntime

pytestmark = pytest.mark.alone  # it looks at all that there is

SERVER = "use IO::Socket::INET; $|=1; $s=IO::Socket::INET->new(LocalPort=>8000,Listen=>9); print qq(up\\n); while($c=$s->accept){print $c q(hello); close $c}"


def client(address):
    return ("timeout", "2", "bash", "-c", f"cat </dev/tcp/{address}/8000")


async def address_of(run, sandbox):
    found = await (await get_engine(run)).containers.inspect(sandbox.info.id)
    (attached,) = found["NetworkSettings"]["Networks"].values()
    return attached["IPAddress"], attached["Gateway"]


@pytest.fixture
def own_shared(monkeypatch, tmp_path):
    """A shared network of this test's own, so that it can be removed without disturbing others."""
    name = f"moat-test-{tmp_path.name.replace('_', '-')[-40:]}"
    monkeypatch.setattr(network, "SHARED", name)
    return name


@pytest.mark.parametrize("servers", ["runc", "runsc"])
async def test_runs_on_the_shared_network_cannot_see_each_other(engine, tmp_path, servers):
    """Neither runc nor gVisor reaches a server of another run, by TCP or by broadcast; itself it does."""
    async with (
        open_live(engine, tmp_path, oci_runtime=servers) as (run, server),
        open_live(engine, tmp_path, oci_runtime="runc") as (other, plain),
        open_live(engine, tmp_path, oci_runtime="runsc") as (_, gvisor),
    ):
        assert run.get(RunNetwork) == other.get(RunNetwork) == RunNetwork("moat", shared=True)
        address, _ = await address_of(run, server)
        async with server.open_process(Command(("perl", "-e", SERVER))) as process:
            assert (await anext(aiter(process))).data == b"up\n"
            assert await run_command(server, *client(address)) == (0, b"hello", b"")
            for neighbour in (plain, gvisor):
                code, out, _ = await run_command(neighbour, *client(address))
                assert (code, out) == (124, b"")
        script = "use Socket; socket(S,PF_INET,SOCK_RAW,1) or print qq(no raw: $!); "
        assert b"no raw" in (await run_command(plain, "perl", "-e", script, user="root"))[1]


@pytest.mark.parametrize("oci", ["runc", "runsc"])
async def test_world_is_reached_and_names_resolve(engine, tmp_path, oci):
    """From the shared network a package mirror answers by name; in gVisor with name servers of the plan's."""
    from docker_support import NAME_SERVERS

    from moat_core.types import InitStep

    lines = "".join(f"nameserver {server}\\n" for server in NAME_SERVERS)
    steps = (InitStep("names", f"printf '{lines}' >/etc/resolv.conf"),) if oci == "runsc" else ()
    async with open_live(engine, tmp_path, oci_runtime=oci, init_steps=steps) as (_, sandbox):
        code, out, err = await run_command(sandbox, "getent", "hosts", "deb.debian.org")
        assert code == 0, err
        assert b"deb.debian.org" in out


async def test_no_network_is_none(engine, tmp_path):
    """A run without network has the loopback only."""
    async with open_live(engine, tmp_path, network="none") as (run, sandbox):
        assert run.get(RunNetwork) == RunNetwork("none")
        assert (await run_command(sandbox, "ls", "/sys/class/net"))[1] == b"lo\n"
        assert run.acquired[0].kind == "docker.container"


@pytest.mark.parametrize("oci", ["runc", "runsc"])
async def test_own_network_lets_the_runs_containers_meet(engine, tmp_path, oci):
    """Two containers on a run's own network reach each other; it is the run's resource and goes with it."""
    fields = {"own_network": True, "oci_runtime": oci}
    async with open_live(engine, tmp_path, **fields) as (run, server):
        engine_ = await get_engine(run)
        found = await engine_.networks.inspect(f"moat-{run.id}")
        (pool,) = found["IPAM"]["Config"]
        assert run.get(RunNetwork) == RunNetwork(f"moat-{run.id}", gateway=pool["Gateway"], subnet=pool["Subnet"])
        assert found["Labels"]["moat.run-id"] == run.id
        async with server.open_process(Command(("perl", "-e", SERVER))) as process:
            assert (await anext(aiter(process))).data == b"up\n"
            address, _ = await address_of(run, server)
            config = {
                "Image": "debian:bookworm-slim",
                "Cmd": list(client(address)),
                "Labels": run.labels,
                "HostConfig": {"NetworkMode": f"moat-{run.id}", "Runtime": oci},
            }
            from moat_plugins.docker.resources import DockerContainer

            sidecar = await run.acquire(DockerContainer(engine, f"moat-{run.id}-sidecar", config))
            await engine_.containers.start(sidecar)
            assert await engine_.containers.wait(sidecar) == 0
    async with Connections(tmp_path) as connections:
        engine_ = (await connections.get(DockerRuntime, engine)).engine
        assert await engine_.networks.list_labelled(f"moat.run-id={run.id}") == []


@pytest.mark.parametrize("capability", ["NET_RAW", "NET_ADMIN", "ALL"])
def test_packet_forgers_do_not_share(capability):
    """A run that may forge packets gets a segment of its own."""
    assert network.needs_own_network(make_plan(capabilities={capability: "test"}))
    assert not network.needs_own_network(make_plan(capabilities={"SYS_NICE": "test"}))


async def test_shared_network_is_made_once_and_again_when_it_has_gone(engine, tmp_path, own_shared):
    """Many who need it at once make one; removed under a run that is about to start, it is made again."""
    async with open_run(engine, tmp_path) as run, Connections(tmp_path) as others:
        first = await get_engine(run)
        second = (await others.get(DockerRuntime, engine)).engine
        try:
            async with anyio.create_task_group() as group:
                for one in (first, second, first, second):
                    group.start_soon(ensure_shared, one, run.locks)
            made = await first.networks.inspect(own_shared)
            assert made["Options"]["com.docker.network.bridge.enable_icc"] == "false"
            await first.networks.remove(own_shared)
            plan = attrs.evolve(make_plan(command=("true",)), run_id=run.id)
            run.plan = plan
            from moat_plugins.docker.open_sandbox import open_sandbox

            async with open_network(run), open_sandbox(run) as sandbox:
                await sandbox.admit()
                assert (await sandbox.wait()).exit_code == 0
        finally:
            await run.release_all()
            assert await DockerSharedNetwork(engine, own_shared).release(run) is True


async def test_shared_network_is_never_taken_from_a_live_run(engine, tmp_path, own_shared):
    """Offered as unused, then used after all: its removal leaves it, and the run on it, alone."""
    async with open_run(engine, tmp_path) as run, Connections(tmp_path) as connections:
        await ensure_shared(await get_engine(run), run.locks)
        upkeep = FakeUpkeep(connections, automatic=False, address=engine)
        (left,) = [left for left in await find_leftovers(upkeep) if left.name == own_shared]
        async with open_live(engine, tmp_path) as (user, sandbox):
            before = await address_of(user, sandbox)
            assert before[0]
            assert await left.resource.release(run) is False
            assert await address_of(user, sandbox) == before
            assert own_shared not in {each.name for each in await find_leftovers(upkeep)}
        assert await left.resource.release(run) is True
        assert await left.resource.release(run) is False


async def test_network_that_does_not_isolate_is_refused(engine, tmp_path, own_shared):
    """A network of the shared one's name that lets containers see each other is not used."""
    async with open_run(engine, tmp_path) as run:
        engine_ = await get_engine(run)
        await engine_.networks.create(own_shared, {"Driver": "bridge"})
        try:
            with pytest.raises(EngineError, match="see each other") as caught:
                await ensure_shared(engine_, run.locks)
            assert f"docker network rm {own_shared}" in caught.value.hint
        finally:
            assert await DockerSharedNetwork(engine, own_shared).release(run) is True


async def test_connections_of_one_process_are_shared(engine, tmp_path):
    """A run and its resources use one connection, and closing it twice is fine."""
    async with Connections(tmp_path) as connections:
        run = FakeRun(make_plan(), engine, tmp_path, connections)
        assert await get_engine(run) is await get_engine(run)
    runtime = await DockerRuntime.connect(engine)
    assert runtime.address == engine
    await runtime.aclose()
    await runtime.aclose()
