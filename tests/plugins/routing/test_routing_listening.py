"""Whether anything listens in a container, seen through what an engine publishes: it takes every connection."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from routing_world import Backend, free_port

from moat_plugins.routing import listening
from moat_plugins.routing.listening import Listening

pytestmark = pytest.mark.moat(plugins=["routing"])


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """On a machine that stands still for a while what hangs up would be taken for what waits."""
    monkeypatch.setattr(listening, "_HANGS_UP_S", 1.0)


@asynccontextmanager
async def serving(behave):
    """An address where BEHAVE is done with each connection."""
    server = await asyncio.start_server(behave, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()


async def hang_up(_reader, writer):
    """What docker-proxy does when nobody listens in the container."""
    writer.close()


async def reset(_reader, writer):
    writer.transport.abort()


async def wait(reader, writer):
    await reader.read()
    writer.close()


async def speak_first(_reader, writer):
    writer.write(b"SSH-2.0-x\r\n")
    await writer.drain()
    writer.close()


@pytest.mark.parametrize(("behave", "listens"), [(hang_up, False), (reset, False), (wait, True), (speak_first, True)])
async def test_what_hangs_up_does_not_listen(behave, listens):
    """What takes a connection and ends it is an engine for which nobody listens."""
    seen = Listening()
    async with serving(behave) as place:
        assert seen[place] is None
        await seen.look([place])
        assert seen[place] is listens


async def test_a_port_that_nobody_has_does_not_listen():
    """The engine has it no more, or not yet."""
    seen, place = Listening(), ("127.0.0.1", free_port())
    await seen.look([place])
    assert seen[place] is False


async def test_one_that_waits_is_looked_at_each_time_and_one_that_is_ready_is_not():
    """A server is not bothered with a connection each second."""
    connections = {"waiting": 0, "ready": 0}

    async def count_waiting(_reader, writer):
        connections["waiting"] += 1
        writer.close()

    async def count_ready(reader, writer):
        connections["ready"] += 1
        await wait(reader, writer)

    seen = Listening()
    async with serving(count_waiting) as waiting, serving(count_ready) as ready:
        for _ in range(3):
            await seen.look([waiting, ready])
    assert connections == {"waiting": 3, "ready": 1}


async def test_what_is_no_route_any_more_is_forgotten():
    """The next one there is another."""
    seen = Listening()
    async with serving(wait) as place:
        await seen.look([place])
        await seen.look([])
        assert seen[place] is None


async def test_the_page_tells_which_endpoint_listens(world, net):
    """By its state for programs, in words for people; one without a place waits, too."""
    async with Backend("fox") as fox, serving(hang_up) as nobody:
        world.run("fox", web=3000, api=8000, late=9000).remember().route(web=fox.port, api=nobody[1])
        (run,) = (await net.ask("localhost")).json["runs"]
        assert {each["name"]: each["state"] for each in run["endpoints"]} == {
            "web": "ready", "api": "waiting", "late": "waiting",
        }  # fmt: skip
        page = (await net.ask("localhost", accept="text/html")).body.decode()
        assert "2 endpoints do not listen yet" in page
