"""What resources ask of the engine, and when they refrain from it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from scripted_engine import answer

from moat_core.errors import EngineError
from moat_core.runtime.proof import Proof
from moat_plugins.docker import labels, objects
from moat_plugins.docker.resources import DockerContainer, DockerSharedNetwork
from moat_plugins.docker.runtime import DockerRuntime

LABELS = {"moat.run-id": "run-1", "moat.owner": "0" * 16}


def context(engine, home):
    async def connection(kind, address):
        return DockerRuntime(engine, str(home))

    return SimpleNamespace(run_id="run-1", connection=connection)


def container(address):
    return DockerContainer(address, "moat-run-1", {"Labels": LABELS})


def script(**answers):
    """Answer by ``METHOD`` or ``METHOD_last path part``."""

    async def reply(stream, request):
        method, path, _ = request
        what = path.partition("?")[0].rsplit("/", 1)[-1]
        body, status = answers.get(f"{method}_{what}") or answers[method]
        await stream.send(answer(json.dumps(body).encode(), status))

    return reply


MADE = ({"Id": "abc"}, "201 Created")
DONE = ({}, "200 OK")


def said(theirs):
    return [f"{method} {path.removeprefix('/v1.45').partition('?')[0]}" for method, path, _ in theirs.requests[1:]]


async def test_usual_path_asks_nothing_twice(scripted, tmp_path):
    """What this process made is removed by its id at once."""
    async with scripted(script(POST=MADE, DELETE=DONE)) as (theirs, engine):
        ctx, resource = context(engine, tmp_path), container("x")
        await resource.create(ctx)
        assert await resource.release(ctx) is True
        assert said(theirs) == ["POST /containers/create", "DELETE /containers/abc"]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, True),
        ({"moat.owner": "1" * 16}, False),
        ({"moat.run-id": "run-2"}, False),
        ({labels.PROOF: "0" * 32}, False),
        ({"name": "moat-run-2"}, False),
    ],
    ids=range(5),
)
async def test_what_has_only_a_row_is_looked_at_first(scripted, tmp_path, change, found):
    """It is removed by the id that was looked at, so that a namesake made in between stays."""
    signed = labels.sign(Proof(tmp_path), "container", "moat-run-1", LABELS) | change
    seen = ({"Id": "abc", "Name": f"/{change.get('name', 'moat-run-1')}", "Config": {"Labels": signed}}, "200 OK")
    async with scripted(script(GET=seen, DELETE=DONE)) as (theirs, engine):
        assert await container("x").release(context(engine, tmp_path)) is found
        assert said(theirs) == ["GET /containers/moat-run-1/json", "DELETE /containers/abc"][: 1 + found]


@pytest.mark.parametrize(
    ("body", "status", "found"),
    [
        ({"message": "error while removing network: network moat has active endpoints"}, "403 Forbidden", False),
        ({"message": "network moat not found"}, "404 Not Found", False),
        ({}, "200 OK", True),
    ],
    ids=range(3),
)
async def test_used_shared_network_is_left_alone(scripted, tmp_path, body, status, found):
    """One request, and no attempt to clear the way."""
    async with scripted(script(DELETE=(body, status))) as (theirs, engine):
        assert await DockerSharedNetwork("x", "moat").release(context(engine, tmp_path)) is found
        assert said(theirs) == ["DELETE /networks/moat"]


async def test_container_that_will_not_stop_is_not_kept(scripted, tmp_path):
    """Neither when the stop is refused nor when it did nothing; nor one that is gone."""
    missing = ({"message": "No such container"}, "404 Not Found")
    async with scripted(script(GET=missing)) as (_, engine):
        assert await container("x").keep(context(engine, tmp_path)) is False
    running = ({"Id": "abc", "State": {"Running": True}}, "200 OK")
    for stop in (({"message": "cannot stop"}, "500 X"), ({}, "200 OK")):
        async with scripted(script(GET=running, POST_stop=stop)) as (_, engine):
            assert await container("x").keep(context(engine, tmp_path)) is False


@pytest.mark.parametrize(
    ("found", "proven", "taken"),
    [
        ({"theirs": "1"}, False, False),
        ({**LABELS, labels.NONCE: "other", labels.PROOF: "other"}, True, True),
        ({**LABELS, labels.NONCE: "other", labels.PROOF: "other"}, False, False),
        ({**LABELS, labels.WORKSPACE: "/another"}, True, False),
    ],
)
async def test_a_volume_that_is_there_is_taken_only_if_it_is_proven_and_the_same(found, proven, taken):
    """The engine answers with it as if it had made it."""

    async def create(name, wanted):
        return {"Name": name, "Labels": found}

    engine = SimpleNamespace(volumes=SimpleNamespace(create=create), made=set())
    wanted = {**LABELS, labels.WORKSPACE: LABELS.get(labels.WORKSPACE, ""), labels.NONCE: "a", labels.PROOF: "b"}
    found.setdefault(labels.WORKSPACE, "")
    if taken:
        assert await objects.create_volume(engine, "v", wanted, lambda *_: proven) == "v"
        return
    with pytest.raises(EngineError, match="exists"):
        await objects.create_volume(engine, "v", wanted, lambda *_: proven)
