"""A guard between a test and an engine that only answers what it is told to."""

from __future__ import annotations

import json
import socket
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import attrs
import h11

from moat_core.listen import Visitor
from moat_core.plan import PlanBuilder
from moat_core.runtime.facets import EngineApi
from moat_core.runtime.proof import Proof
from moat_core.types import Limits
from moat_plugins.docker.guests import DockerGuestBook
from moat_plugins.docker_host.guard import Guard
from moat_plugins.docker_host.scope import Scope

MARKS = {"moat.run-id": "run-0000abcd", "moat.role": "guest", "moat.owner": "0123456789abcdef"}
GUESTS = DockerGuestBook(Proof(tempfile.mkdtemp(prefix="moat-test-")), MARKS)
OWN = "a" * 64
FOREIGN = "b" * 64


OWN_IMAGE = {
    "Id": "sha256:2",
    "RepoTags": ["own:1", GUESTS.name_image("sha256:2"), GUESTS.name_image("sha256:2", "own:1")],
}


def container(identity, name, labels=None):
    """What the engine says of a container; without LABELS it is the run's own."""
    return {
        "Id": identity,
        "Name": f"/{name}",
        "Config": {"Labels": GUESTS.sign("container", name, {}) if labels is None else labels},
    }


def make_scope(tmp_path=Path("/nowhere"), *, allow=(), build=True, version="1.45", mounts=(), limits=None, **plan):
    """What decides in a run whose workspace is a folder of TMP_PATH."""
    builder = PlanBuilder(run_id="run-0000abcd", name="fox", runtime="docker", workspace=tmp_path)
    builder.add_mount(tmp_path / "workspace", "/workspace")
    for source, target, read_only in mounts:
        builder.add_mount(source, target, read_only=read_only)
    if limits:
        builder.limits = Limits(**limits)
    return Scope(
        plan=attrs.evolve(builder.freeze(), **plan),
        guests=GUESTS,
        network="moat-run-0000abcd",
        gateway="172.20.0.1",
        version=version,
        allow=frozenset(allow),
        build=build,
        hidden=("/run/moat/docker",),
    )


class Engine(EngineApi):
    """Answers from a table and remembers what it was asked: ``asked`` holds ``(method, target, headers, body)``."""

    version = "1.45"
    address = "unix:///nowhere"

    def __init__(self, group):
        self._group = group
        self.asked = []
        self.raw = []
        self.answers = {
            ("GET", f"/containers/{OWN}/json"): (200, container(OWN, "mine")),
            ("GET", "/containers/mine/json"): (200, container(OWN, "mine")),
            ("GET", "/containers/theirs/json"): (200, container(FOREIGN, "theirs", {"x": "y"})),
            ("GET", "/networks/theirs"): (200, {"Id": "n1", "Name": "theirs", "Labels": {}}),
            ("GET", "/networks/mine"): (
                200,
                {"Id": "n2", "Name": "mine", "Labels": GUESTS.sign("network", "mine", {})},
            ),
            ("GET", "/networks/moat-run-0000abcd"): (200, {"Id": "n3", "Name": "moat-run-0000abcd", "Labels": {}}),
            ("GET", "/volumes/theirs"): (200, {"Name": "theirs", "Labels": {}}),
            ("GET", "/volumes/mine"): (200, {"Name": "mine", "Labels": GUESTS.sign("volume", "mine", {})}),
            ("GET", "/images/debian:bookworm-slim/json"): (
                200,
                {"Id": "sha256:1", "RepoTags": ["debian:bookworm-slim"]},
            ),
            ("GET", "/images/own:1/json"): (200, OWN_IMAGE),
            ("POST", "/containers/create"): (201, {"Id": OWN, "Warnings": []}),
            ("POST", f"/containers/{OWN}/exec"): (201, {"Id": "e" * 64}),
        }

    async def connect(self):
        ours, theirs = socket.socketpair()
        for each in (ours, theirs):
            each.setblocking(False)
        self._group.start_soon(self._serve, Visitor(theirs))
        return Visitor(ours)

    async def hold_guests(self, run):
        return GUESTS

    def last(self, method="POST"):
        """The last request of METHOD, its body parsed."""
        found = [each for each in self.asked if each[0] == method][-1]
        return found[1], json.loads(found[3]) if found[3] else None

    async def _serve(self, stream):
        http = h11.Connection(h11.SERVER)
        request, body = None, b""
        try:
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    http.receive_data(await stream.receive())
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    break
                else:
                    return
            await self._answer(stream, http, request, body)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        finally:
            await stream.aclose()

    async def _answer(self, stream, http, request, body):
        method, target = request.method.decode(), request.target.decode()
        self.asked.append((method, target, dict(request.headers), body))
        path = target.partition("?")[0]
        path = path[path.index("/", 1) :] if path.startswith("/v1.") else path
        if b"upgrade" in dict(request.headers):
            await stream.send(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nhello ")
            while True:
                data = await stream.receive()
                self.raw.append(data)
                await stream.send(data.upper())
        default = (404, {"message": "nothing there"}) if method == "GET" else (200, {})
        status, answer = self.answers.get((method, path), default)
        if answer == {} and path == "/volumes/create":
            asked = json.loads(body)  # an engine returns a volume that is there already as it is
            answer = {"Name": asked["Name"], "Labels": {} if asked["Name"] == "theirs" else asked["Labels"]}
        data = json.dumps(answer).encode()
        head = h11.Response(status_code=status, headers=[("Content-Length", str(len(data)))])
        await stream.send(http.send(head) + http.send(h11.Data(data=data)) + http.send(h11.EndOfMessage()))


@asynccontextmanager
async def open_guard(scope):
    """A guard in front of an `Engine`: ``(connect, engine, refusals)``; CONNECT returns a stream to it."""
    refusals, streams = [], []

    async def tell(method, path, refused):
        refusals.append((method, path, refused.status))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            engine = Engine(group)
            guard = Guard(engine, scope, tell)

            def connect():
                ours, theirs = socket.socketpair()
                for each in (ours, theirs):
                    each.setblocking(False)
                group.start_soon(guard.serve, Visitor(theirs))
                streams.append(Visitor(ours))
                return streams[-1]

            try:
                yield connect, engine, refusals
            finally:
                for stream in streams:
                    await stream.aclose()
                group.cancel_scope.cancel()


async def ask(stream, method, target, body=None, headers=()):
    """Send one request as a client does, and return ``(status, parsed body)``."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {target} HTTP/1.1", "Host: x", *headers]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    await stream.send("\r\n".join([*lines, "", ""]).encode() + data)
    return await read_answer(stream)


async def read_answer(stream):
    """Return ``(status, parsed body)`` of the next answer on STREAM."""
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    http.send(h11.EndOfMessage())
    status, data = 0, b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            try:
                http.receive_data(await stream.receive(1))
            except anyio.EndOfStream:
                http.receive_data(b"")
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            data += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return status, json.loads(data) if data.strip() else None
