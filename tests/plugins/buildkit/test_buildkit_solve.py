"""A build against a daemon that misbehaves: it ends, soon, with the reason; nothing is left running."""

from __future__ import annotations

import asyncio
import base64
import json

import anyio
import pytest
from fake_daemon import FakeDaemon, refuse

from moat_plugins.buildkit.api import (
    BuildError,
    BuildKit,
    ContextError,
    DockerfileError,
    ExportError,
    MemorySource,
    RunFailed,
    SessionLost,
    StepChanged,
    StepOutput,
)
from moat_plugins.buildkit.errors import BuildCancelled
from moat_plugins.buildkit.wire import control
from moat_plugins.buildkit.wire.session import Any


@pytest.fixture
def daemon(tmp_path):
    """Not serving yet."""
    return FakeDaemon(str(tmp_path / "buildkit"))


def detail(kind, value):
    """A typed detail as BuildKit sends them: JSON."""
    return Any(f"github.com/moby/buildkit/{kind}+json", json.dumps(value).encode())


def source(text, first, last):
    """Where in a Dockerfile."""
    info = {"filename": "Dockerfile", "data": base64.b64encode(text.encode()).decode()}
    return detail("errdefs.Source", {"info": info, "ranges": [{"start": {"line": first}, "end": {"line": last}}]})


def step(digest="sha256:s", **fields):
    """News of one step."""
    return control.StatusResponse([control.Vertex(digest, name="[2/2] RUN make", **fields)])


async def build(daemon, **options):
    """Connect and build something small, within ten seconds."""
    with anyio.fail_after(10):
        async with BuildKit.connect(daemon.address) as buildkit:
            return await buildkit.build({"a": b"1"}, dockerfile_text="FROM scratch\n", **options)


async def test_what_is_asked_for(daemon):
    """Every option arrives under BuildKit's name for it; the session is known before it is named."""
    async with daemon.serving():
        result = await build(
            daemon, tags=["a:1", "b:2"], target="x", build_args={"A": "1"}, labels={"l": "m"}, no_cache=True,
            platforms=["linux/amd64", "linux/386"], extra_hosts={"h": "1.2.3.4"}, network="host",
            contexts={"base": "docker-image://debian"},
        )  # fmt: skip
        assert daemon.sessions.is_set()
    assert result.image_id == "sha256:1"
    (request,) = daemon.solved
    assert request.frontend == "dockerfile.v0"
    assert request.frontend_attrs == {
        "filename": "Dockerfile", "target": "x", "build-arg:A": "1", "label:l": "m", "no-cache": "",
        "platform": "linux/amd64,linux/386", "add-hosts": "h=1.2.3.4", "force-network-mode": "host",
        "image-resolve-mode": "default", "context:base": "docker-image://debian",
    }  # fmt: skip
    assert request.entitlements == ["network.host"]
    assert request.session
    assert request.ref


@pytest.mark.parametrize(
    ("status", "message", "details", "kind", "words"),
    [
        (2, "failed to solve: no such thing", [], BuildError, "no such thing"),
        (2, "dockerfile parse error", [source("FRM x\n", 1, 1)], DockerfileError, "line 1:\nFRM x"),
        (2, "process did not complete", [detail("gatewayapi.ExitMessage", {"Code": 7})], RunFailed, "exit code 7"),
        (2, "error from sender: open x: denied", [], ContextError, "denied"),
        (2, 'exporter "oci" could not be found', [], ExportError, "could not be found"),
        (1, "context canceled", [], BuildCancelled, "canceled"),
        (14, "only one connection allowed", [], SessionLost, "only one"),
        (2, "odd", [Any("github.com/moby/buildkit/errdefs.Source+json", b"not json"), Any("", b"")], BuildError, "odd"),
        (
            2,
            "odd",
            [detail("errdefs.Source", {"info": {"data": "!!"}, "ranges": [{"start": None}]})],
            BuildError,
            "odd",
        ),
    ],
)
async def test_errors_are_typed(daemon, status, message, details, kind, words):
    """From the details' JSON; stacks of the daemon's are never shown."""
    stack = Any("github.com/moby/buildkit/stack.Stack+json", b'{"frames": ["/secret/path"], "cmdline": ["dockerd"]}')
    daemon.on_solve = refuse(status, message, [stack, *details])
    async with daemon.serving():
        with pytest.raises(kind) as caught:
            await build(daemon)
    assert type(caught.value) is kind
    assert words in f"{caught.value}\n{caught.value.hint}"
    assert "secret" not in f"{caught.value}{caught.value.hint}"


async def test_a_failed_step_tells_its_output(daemon):
    """The last lines that it printed, also when the details do not name it."""
    told = anyio.Event()

    async def on_status(stream, request):
        await stream.send_message(step(started=1))
        logs = [control.VertexLog("sha256:s", msg=b"one\ntwo\nth"), control.VertexLog("sha256:s", msg=b"ree\n")]
        await stream.send_message(control.StatusResponse(logs=logs))
        await stream.send_message(step(started=1, completed=2, error="exit code: 7"))
        told.set()

    async def on_solve(stream, request):
        await told.wait()
        await refuse(2, "process failed", [detail("gatewayapi.ExitMessage", {"Code": 7})])(stream, request)

    daemon.on_status, daemon.on_solve = on_status, on_solve
    events = []
    async with daemon.serving():
        with pytest.raises(RunFailed) as caught:
            await build(daemon, on_event=events.append)
    assert (caught.value.vertex, caught.value.run_exit_code) == ("[2/2] RUN make", 7)
    assert caught.value.log_tail == ("one", "two", "three")
    assert [event.line for event in events if isinstance(event, StepOutput)] == ["one", "two", "three"]
    assert [event.state for event in events if isinstance(event, StepChanged)] == ["started", "failed"]


@pytest.mark.parametrize("size", [40_000, 80_000])
async def test_a_trailer_as_large_as_the_dockerfile_passes(daemon, size):
    """It carries the Dockerfile, twice in base64; other calls of the channel go on."""
    daemon.on_solve = refuse(2, "failed", [source("#" * size + "\n", 1, 1)])
    async with daemon.serving():
        with anyio.fail_after(20):
            async with BuildKit.connect(daemon.address) as buildkit:
                with pytest.raises(DockerfileError):
                    await buildkit.build(dockerfile_text="FROM scratch\n")
                assert await buildkit.workers()
                assert len(daemon.connections) == 1


async def test_an_early_failure_does_not_wait_for_status(daemon):
    """Status of an unknown build takes seconds to say so."""

    async def on_status(stream, request):
        await anyio.sleep(8)

    daemon.on_status = on_status
    daemon.on_solve = refuse(2, "no such frontend")
    async with daemon.serving():
        with anyio.fail_after(4), pytest.raises(BuildError, match="no such frontend"):
            await build(daemon)


async def test_a_lost_connection_ends_the_build(daemon):
    """At once, as what it is."""

    async def on_solve(stream, request):
        daemon.drop()
        await anyio.sleep(30)

    daemon.on_solve = on_solve
    async with daemon.serving():
        with pytest.raises(SessionLost):
            await build(daemon)


async def test_a_cancelled_build_stops_on_the_server(daemon):
    """The call is reset; the daemon hears of it, and the channel is still good."""
    solving = anyio.Event()

    async def on_solve(stream, request):
        solving.set()
        await anyio.sleep(30)

    daemon.on_solve = on_solve
    async with daemon.serving():
        with anyio.fail_after(10):
            async with BuildKit.connect(daemon.address) as buildkit:
                task = asyncio.create_task(buildkit.build(dockerfile_text="FROM scratch\n"))
                await solving.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await daemon.cancelled.wait()
                assert await buildkit.workers()


async def test_a_listener_that_raises_ends_the_build_as_itself(daemon):
    """It is the caller's own mistake."""

    async def on_status(stream, request):
        await stream.send_message(step(started=1))
        await anyio.sleep(30)

    async def on_solve(stream, request):
        await anyio.sleep(30)

    def listen(event):
        raise ZeroDivisionError("mine")

    daemon.on_status, daemon.on_solve = on_status, on_solve
    async with daemon.serving():
        with pytest.raises(ZeroDivisionError, match="mine"):
            await build(daemon, on_event=listen)


async def test_thirty_at_once(daemon):
    """On one channel."""
    async with daemon.serving():
        with anyio.fail_after(20):
            async with BuildKit.connect(daemon.address) as buildkit:
                results = await asyncio.gather(
                    *(
                        buildkit.build(MemorySource({"a": b"%d" % n}), dockerfile_text="FROM scratch\n")
                        for n in range(30)
                    )
                )
    assert len(results) == 30
    assert len({request.ref for request in daemon.solved}) == 30
    assert len(daemon.connections) == 1
