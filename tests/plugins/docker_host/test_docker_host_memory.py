"""What a guard holds in memory: lists item by item, one budget for all, a little for everybody."""

from __future__ import annotations

import anyio
import pytest
from guarded import GUESTS, MARKS, OWN, OWN_IMAGE, ask, make_scope, open_guard, read_answer

from moat_plugins.docker_host.budget import FREE_BYTES, Budget, Recent, weigh
from moat_plugins.docker_host.policy.verdict import Refused


def test_what_is_recent_is_known():
    """The oldest are forgotten, and those that come again are not the oldest any more."""
    recent = Recent(2)
    for key in "abac":
        recent.add(key)
    assert ("a" in recent, "b" in recent, "c" in recent) == (True, False, True)


def test_many_values_weigh_more_than_they_are_long():
    """Empty lists are 56 bytes each; too many are none of the guard's business."""
    assert weigh(b"[[],[],[]]") > 10 * len(b"[[],[],[]]")
    with pytest.raises(Refused, match="values"):
        weigh(b"[" * 100_000)


async def test_one_waits_until_another_has_given_back():
    """Within what is free nobody waits; beyond it there is so much for all, and an end to waiting."""
    budget = Budget(1000, wait_s=5)
    order = []

    async def second():
        with budget.open() as account:
            await account.hold(FREE_BYTES + 600)
            order.append("second")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            with budget.open() as first, budget.open() as other:
                await first.hold(FREE_BYTES + 600)
                group.start_soon(second)
                await other.hold(FREE_BYTES)
                await anyio.wait_all_tasks_blocked()
                order.append("first")
                await first.hold(FREE_BYTES + 300)
        assert order == ["first", "second"]
        assert budget.held == 0


async def test_who_waits_in_vain_is_told_so():
    """What can never fit at once, what others do not give back after a while; nothing is lost by it."""
    budget = Budget(1000, wait_s=0.01)
    with budget.open() as first, budget.open() as second:
        await first.hold(FREE_BYTES + 900)
        with pytest.raises(Refused) as raised:
            await second.hold(FREE_BYTES + 900)
        assert raised.value.status == 503
        with pytest.raises(Refused) as raised:
            await second.hold(FREE_BYTES + 2000)
        assert raised.value.status == 413
    assert budget.held == 0


VOLUMES = {
    "Warnings": None,
    "Volumes": [
        {"Name": "a", "Labels": GUESTS.sign("volume", "a", {"x": "y" * 3000})},
        {"Name": "moat-b", "Labels": GUESTS.sign("volume", "moat-b", {"moat.docker-host.bind": "true"})},
        {"Name": "b", "Labels": {**MARKS, "x": "copied"}},
        {"Name": "c", "Labels": GUESTS.sign("volume", "c", {})},
    ],
}


async def test_lists_are_what_they_were():
    """The guard's own volumes are left out; of everything, the run's own, with its sum."""
    async with open_guard(make_scope()) as (connect, engine, _):
        engine.answers["GET", "/volumes"] = (200, VOLUMES)
        engine.answers["GET", "/images/json"] = (200, [OWN_IMAGE, {"Id": "2", "Labels": None}])
        engine.answers["GET", "/system/df"] = (
            200,
            {
                "LayersSize": 99,
                "Images": [{**OWN_IMAGE, "Size": 8}, {"Id": "2", "Size": 4, "Labels": MARKS}],
                "Containers": None,
                "Volumes": VOLUMES["Volumes"],
                "BuildCache": [{"ID": "x"}],
            },
        )
        stream = connect()
        status, found = await ask(stream, "GET", "/v1.45/volumes")
        assert (status, [item["Name"] for item in found["Volumes"]]) == (200, ["a", "c"])
        assert await ask(stream, "GET", "/v1.45/images/json") == (200, [{**OWN_IMAGE, "RepoTags": ["own:1"]}])
        status, found = await ask(stream, "GET", "/v1.45/system/df")
        assert (found["LayersSize"], len(found["Images"]), found["Containers"], found["BuildCache"]) == (8, 1, [], [])
        assert len(found["Volumes"]) == 2
        engine.answers["GET", "/volumes"] = (500, {"message": "no"})
        assert await ask(stream, "GET", "/v1.45/volumes") == (500, {"message": "no"})


async def test_an_answer_that_does_not_fit_is_an_error_that_says_so():
    """The client gets Docker's kind of error, and the connection goes on."""
    async with open_guard(make_scope()) as (connect, engine, _):
        engine.answers["GET", f"/containers/{OWN}/json"] = (200, {"x": "y" * 5_000_000})
        status, found = await ask(connect(), "DELETE", f"/v1.45/containers/{OWN}")
        assert (status, found["message"]) == (
            502,
            "moat: The engine's answer is too long for the guard to look at.",
        )


HEADS = {
    "many headers": (b"".join(b"X-%d: y\r\n" % number for number in range(200)), 431),
    "short ones": (b"a:\r\n" * 10_000, 431),
    "a long one": (b"X: " + b"y" * 200_000 + b"\r\n", 431),
}


@pytest.mark.parametrize("row", HEADS.values(), ids=HEADS.keys())
async def test_heads_have_an_end(row):
    """They are answered, and nothing reaches the engine."""
    lines, status = row
    async with open_guard(make_scope()) as (connect, engine, _):
        stream = connect()
        await stream.send(b"GET /_ping HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n")
        assert (await read_answer(stream))[0] in {status, 400}
        assert engine.asked == []


async def test_a_body_that_does_not_come_is_given_up(monkeypatch):
    """It would hold what it has sent already."""
    monkeypatch.setattr("moat_plugins.docker_host.client._BODY_S", 0.05)
    async with open_guard(make_scope()) as (connect, _, _):
        stream = connect()
        await stream.send(b"POST /v1.45/volumes/create HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\n{")
        assert (await read_answer(stream))[0] == 408


async def test_words_of_the_runs_are_told_in_short():
    """A refusal is stored: neither its method nor its reason is as long as the run likes."""
    async with open_guard(make_scope()) as (connect, _, refusals):
        await ask(connect(), "PROPPATCH", "/v1.45/" + "x" * 20_000)
        labels = {"moat." + "x" * 100_000: "y"}
        status, answer = await ask(connect(), "POST", "/v1.45/volumes/create", {"Name": "v", "Labels": labels})
        assert status == 403
        assert len(answer["message"]) < 1100
        assert all(len(method) <= 20 and len(path) <= 200 for method, path, _ in refusals)
        assert len(refusals) == 2
