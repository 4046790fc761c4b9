"""Making and removing, against engines that are busy, full, restarting or wrong."""

from __future__ import annotations

import ipaddress
from types import SimpleNamespace

import anyio
import pytest

from moat_core.errors import EngineError, EngineTimeout, RuntimeUnavailable
from moat_plugins.docker import objects


def refusal(status, text):
    return EngineError(text, status=status, engine_message=text)


class Script:
    """Calls that answer from a list: an exception is raised, anything else returned; the last one stays."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.calls = []

    async def __call__(self, *arguments):
        self.calls.append(arguments)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No pause between attempts."""
    monkeypatch.setattr(objects, "_PAUSE_S", 0)


def containers(*answers, removed=None):
    calls = SimpleNamespace(remove=Script(*answers), wait_removed=Script(removed))
    return SimpleNamespace(containers=calls, made={("container", "x"): "1d"})


BUSY = refusal(409, "removal of container x is already in progress")
MISSING = refusal(404, "No such container: x")


@pytest.mark.parametrize(
    ("answers", "found", "calls"),
    [
        ((None,), True, 1),
        ((MISSING,), False, 1),
        ((BUSY, MISSING), True, 2),
        ((BUSY, BUSY, None), True, 3),
        ((refusal(500, "device busy"), None), True, 2),
        ((RuntimeUnavailable("away"), None), True, 2),
        ((RuntimeUnavailable("away"), MISSING), False, 2),
    ],
    ids=range(7),
)
async def test_container_goes_in_the_end(answers, found, calls):
    """A busy or restarting engine is tried again; what was not there is told."""
    engine = containers(*answers)
    assert await objects.remove_container(engine, "x", {}) is found
    assert len(engine.containers.remove.calls) == calls


@pytest.mark.parametrize(
    ("answer", "calls"),
    [(refusal(500, "broken"), 8), (refusal(400, "bad"), 1), (EngineTimeout("slow"), 1)],
    ids=range(3),
)
async def test_what_cannot_be_removed_is_an_error(answer, calls):
    """What does not get better is raised, so that the ledger keeps its row."""
    engine = containers(answer)
    with pytest.raises(EngineError):
        await objects.remove_container(engine, "x", {})
    assert len(engine.containers.remove.calls) == calls


async def test_engine_that_stays_away_is_an_error(monkeypatch):
    """A restart is waited for, a missing engine is not waited for for ever."""
    monkeypatch.setattr(objects, "_RESTART_S", 0)
    with pytest.raises(RuntimeUnavailable):
        await objects.remove_container(containers(RuntimeUnavailable("away")), "x", {})


async def test_network_is_emptied_first():
    """What is still connected is disconnected, one that refuses does not save the others."""
    networks = SimpleNamespace(
        remove=Script(refusal(403, "network x has active endpoints"), None),
        inspect=Script({"Containers": {"a": {}, "b": {}}}),
        disconnect=Script(refusal(404, "gone"), None),
    )
    assert (
        await objects.remove_network(SimpleNamespace(networks=networks, made={("network", "x"): "x"}), "x", {}) is True
    )
    assert networks.disconnect.calls == [("x", "a"), ("x", "b")]


FULL = refusal(400, "all predefined address pools have been fully subnetted")
OVERLAP = refusal(403, "Pool overlaps with other one on this address space")


async def test_full_address_pools_get_a_small_subnet():
    """When the engine has no subnet left, small ones are tried until one is free."""
    networks = SimpleNamespace(create=Script(FULL, OVERLAP, OVERLAP, "id"))
    assert await objects.create_network(SimpleNamespace(networks=networks, made={}), "x", {"Driver": "bridge"}) == "id"
    subnets = [call[1]["IPAM"]["Config"][0]["Subnet"] for call in networks.create.calls[1:]]
    assert len(set(subnets)) == 3
    for subnet in subnets:
        network = ipaddress.ip_network(subnet)
        assert network.prefixlen == 26
        assert network.subnet_of(ipaddress.ip_network("10.200.0.0/13"))
    assert networks.create.calls[0][1] == {"Driver": "bridge"}


@pytest.mark.parametrize(
    ("answers", "words"), [((FULL, OVERLAP), "subnetted"), ((FULL, refusal(500, "x")), "x")], ids=range(2)
)
async def test_no_free_subnet_is_the_first_error(answers, words):
    """When that does not help either, the error is the engine's, with its hint."""
    engine = SimpleNamespace(networks=SimpleNamespace(create=Script(*answers)), made={})
    with pytest.raises(EngineError, match=words):
        await objects.create_network(engine, "x", {})
    assert engine.made == {}


async def test_making_is_not_interrupted():
    """A request under way is heard out before the cancellation goes on: what it makes must be known."""
    made = []
    release = anyio.Event()

    async def create(name, config):
        await release.wait()
        made.append(name)
        return "id"

    engine = SimpleNamespace(containers=SimpleNamespace(create=create), made={})
    returned = []
    async with anyio.create_task_group() as group:

        async def work():
            returned.append(await objects.create_container(engine, "x", {}))

        group.start_soon(work)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.wait_all_tasks_blocked()
            assert made == []
            release.set()
    assert (made, returned) == (["x"], [])
