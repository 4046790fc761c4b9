"""The engine's connection against a scripted engine: deadlines, refusals, garbage, versions."""

from __future__ import annotations

import json

import anyio
import pytest
from scripted_engine import answer

from moat_core.errors import EngineError, EngineTimeout, ImageError, RuntimeUnavailable, SandboxGone
from moat_plugins.docker.client import Engine, read_lines
from moat_plugins.docker.gone import gone_if_missing
from moat_plugins.docker.images import pull_image


def always(reply):
    async def script(stream, request):
        await stream.send(reply)

    return script


async def hang(stream, request):
    await anyio.sleep_forever()


async def test_calls_are_made_as_the_api_wants_them(scripted):
    """Method, path, parameters and body of each call are those of the engine's API."""
    reply = json.dumps({"Id": "abc", "StatusCode": 7, "Running": False, "Volumes": None}).encode()
    async with scripted(always(answer(reply))) as (theirs, engine):
        containers, networks, volumes, images = engine.containers, engine.networks, engine.volumes, engine.images
        assert await containers.create("moat-x", {"Image": "i"}) == "abc"
        await containers.start("abc")
        assert await containers.wait("abc") == 7
        await containers.stop("abc", 1.2)
        await containers.kill("abc", 15)
        await containers.resize("abc", 24, 80)
        await containers.limit_processes("abc", 9)
        await containers.remove("../evil name")
        assert await containers.create_exec("abc", {"Cmd": ["x"]}) == "abc"
        await containers.resize_exec("e", 1, 2)
        await networks.create("n", {"Driver": "bridge"})
        await networks.disconnect("n", "abc")
        await networks.remove("n")
        await volumes.create("v", {"a": "b"})
        assert await volumes.list_labelled("a") == []
        await volumes.remove("v")
        await images.remove("host:5000/a/b:tag@sha256:00")
        await engine.info()
        await engine.info()
        said = [f"{method} {path.removeprefix('/v1.45')}" for method, path, _ in theirs.requests[1:]]
        assert said == [
            "POST /containers/create?name=moat-x",
            "POST /containers/abc/start",
            "POST /containers/abc/wait",
            "POST /containers/abc/stop?t=2",
            "POST /containers/abc/kill?signal=15",
            "POST /containers/abc/resize?h=24&w=80",
            "POST /containers/abc/update",
            "DELETE /containers/..%2Fevil%20name?force=1&v=1",
            "POST /containers/abc/exec",
            "POST /exec/e/resize?h=1&w=2",
            "POST /networks/create",
            "POST /networks/n/disconnect",
            "DELETE /networks/n",
            "POST /volumes/create",
            "GET /volumes?filters=%7B%22label%22:+%5B%22a%22%5D%7D",
            "DELETE /volumes/v?force=1",
            "DELETE /images/host:5000/a/b:tag@sha256:00",
            "GET /info",
        ]
        assert json.loads(theirs.requests[1][2]) == {"Image": "i"}
        for reference in ("../containers/x", "a/../../containers/x", "/x", "a//b", ""):
            with pytest.raises(ImageError, match="no image reference"):
                await images.remove(reference)


@pytest.mark.parametrize(
    ("reply", "error", "words", "hint"),
    [
        (answer(b'{"message":"No such container: x"}', "404 Not Found"), EngineError, "No such container", ""),
        (answer(b'{"message":"No such image: y:1"}', "404 Not Found"), ImageError, "No such image", "Pull it"),
        (
            answer(b'{"message":"all predefined address pools have been fully subnetted"}', "400 Bad Request"),
            EngineError,
            "subnetted",
            "docker network prune",
        ),
        (answer(b'{"message":"write /x: no space left on device"}', "500 X"), EngineError, "no space", "moat clean"),
        (
            answer(b'{"message":"Bind for 127.0.0.1:80: port is already allocated"}', "500 X"),
            EngineError,
            "port",
            "Another",
        ),
        (answer(b'["list"]', "500 X"), EngineError, "list", ""),
        (answer(b"\x1b[31mred", "500 X", "text/plain"), EngineError, "\ufffd\\[31mred", ""),
        (answer(b"not json"), EngineError, "answered no JSON", ""),
        (b"garbage\r\n\r\n", RuntimeUnavailable, "does not answer", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", RuntimeUnavailable, "does not answer", ""),
    ],
    ids=range(10),
)
async def test_refusals_become_errors_of_ours(scripted, reply, error, words, hint):
    """Each has one sentence with the engine's words, made printable, and a hint where one is known."""

    async def script(stream, request):
        await stream.send(reply)
        await stream.aclose()

    async with scripted(script) as (_, engine):
        with pytest.raises(error, match=words) as caught:
            await engine.containers.inspect("x")
        assert hint in caught.value.hint


async def test_every_call_has_a_deadline(scripted):
    """An engine that accepts and says nothing is given up, each call by itself."""
    async with scripted(hang, timeout_s=0.05) as (_, engine):
        for call in (engine.containers.inspect("x"), engine.networks.list_labelled("x"), engine.info()):
            with pytest.raises(EngineTimeout) as caught:
                await call
            assert "MOAT_ENGINE_TIMEOUT_S" in caught.value.hint


async def test_waiting_has_none(scripted):
    """Waiting for the end of a container takes as long as that does."""
    ended = anyio.Event()

    async def script(stream, request):
        await ended.wait()
        await stream.send(answer(b'{"StatusCode":3}'))

    async with scripted(script, timeout_s=0.01) as (_, engine), anyio.create_task_group() as group:
        codes = []

        async def wait():
            codes.append(await engine.containers.wait("x"))

        group.start_soon(wait)
        with pytest.raises(EngineTimeout):
            await engine.containers.inspect("x")
        ended.set()
    assert codes == [3]


async def test_silent_stream_has_a_deadline_between_its_pieces(scripted, monkeypatch):
    """A pull that stops in the middle is given up."""
    monkeypatch.setattr("moat_plugins.docker.api_images._PULL_IDLE_S", 0.05)

    async def script(stream, request):
        await stream.send(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n{"status":"slow"}\r\n')
        await anyio.sleep_forever()

    async with scripted(script) as (_, engine):
        told = []
        with pytest.raises(EngineTimeout):
            await pull_image(engine, "x", lambda text, done, total: told.append(text))
        assert told in ([], ["slow"])  # a line without its end is not told


async def test_error_in_the_middle_of_a_pull_is_an_error(scripted):
    """The engine answers 200 and says in the stream that it failed."""
    lines = b'{"status":"Pulling","progressDetail":{"current":5,"total":10},"id":"a"}\n{"error":"x","errorDetail":{"message":"manifest unknown"}}\n'
    async with scripted(always(answer(lines))) as (_, engine):
        told = []
        with pytest.raises(ImageError, match="manifest unknown") as caught:
            await pull_image(engine, "x:1", lambda *words: told.append(words))
        assert told == [("Pulling", 5, 10)]
        assert "no image of that name" in caught.value.hint


async def test_pull_that_breaks_off_is_an_error(scripted):
    """A stream that ends well although the image is not there afterwards was no pull."""

    async def script(stream, request):
        if request[0] == "POST":
            await stream.send(answer(b'{"status":"Pulling"}\n'))
        else:
            await stream.send(answer(b'{"message":"No such image: x"}', "404 Not Found"))

    async with scripted(script) as (_, engine):
        with pytest.raises(ImageError, match="broke the pull"):
            await pull_image(engine, "x:1", lambda *words: None)


async def test_endless_line_is_refused():
    """A line that does not end is not collected for ever."""

    async def pieces():
        while True:
            yield b"x" * 65536

    with pytest.raises(EngineError, match="line of more"):
        async for _ in read_lines(pieces()):
            pytest.fail("there is no line")


async def test_lines_are_found_in_any_pieces():
    """Lines are cut at their ends, wherever the pieces are."""

    async def pieces():
        for piece in (b"a", b"b\nc\n\n", b"", b"d"):
            yield piece

    assert [line async for line in read_lines(pieces())] == [b"ab", b"c", b"d"]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("1.45", "v1.45"), ("1.47", "v1.45"), ("1.43", "v1.43"), ("1.41", None), ("", None), ("two", None)],
)
async def test_api_version_is_agreed_on(tmp_path, theirs, ours):
    """The newest that both know is spoken; too old an engine, or none at all, is refused with a sentence."""
    reply = f"HTTP/1.1 200 OK\r\nApi-Version: {theirs}\r\nContent-Length: 2\r\n\r\nOK".encode()

    async def serve(stream):
        async with stream:
            await stream.receive()
            await stream.send(reply)

    async with await anyio.create_unix_listener(tmp_path / "s") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        if ours is None:
            with pytest.raises(RuntimeUnavailable):
                await Engine.connect(f"unix://{tmp_path}/s")
        else:
            engine = await Engine.connect(f"unix://{tmp_path}/s")
            assert engine.version == ours
            await engine.aclose()
        group.cancel_scope.cancel()


async def test_absent_engine_is_unavailable(endpoint):
    """Nothing at the address is said with what to do."""
    with pytest.raises(RuntimeUnavailable, match=r"none\.sock does not answer") as caught:
        await Engine.connect(endpoint.address)
    assert "Start it" in caught.value.hint


@pytest.mark.parametrize(("text", "seconds"), [("7.5", 7.5), ("x", 30), ("-1", 30), ("", 30)])
async def test_deadline_comes_from_the_environment(scripted, monkeypatch, text, seconds):
    """MOAT_ENGINE_TIMEOUT_S is taken if it makes sense."""
    monkeypatch.setenv("MOAT_ENGINE_TIMEOUT_S", text)
    async with scripted(hang) as (theirs, _):
        engine = await Engine.connect(theirs.address)
        assert engine.timeout_s == seconds
        await engine.aclose()


@pytest.mark.parametrize(
    "error",
    [EngineError("x", status=404), EngineError("x", status=409), RuntimeUnavailable("x")],
    ids=["404", "409", "away"],
)
def test_missing_container_is_gone(error):
    """What an engine says of a container that is not there, or not running, or by not answering."""
    with pytest.raises(SandboxGone), gone_if_missing():
        raise error


def test_other_refusals_stay_what_they_are():
    """A server error does not mean that the container is gone."""
    with pytest.raises(EngineError, match="boom"), gone_if_missing():
        raise EngineError("boom", status=500)
