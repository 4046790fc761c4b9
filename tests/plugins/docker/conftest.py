"""A scripted engine: a Unix socket that answers as a test says."""

from __future__ import annotations

import anyio
import pytest

from moat_plugins.docker.client import Engine
from moat_plugins.docker.endpoint import find_endpoint

PING = b"HTTP/1.1 200 OK\r\nApi-Version: 1.45\r\nContent-Length: 2\r\n\r\nOK"


class ScriptedEngine:
    """Every connection is answered by ``script(stream, request)``, once for each request on it.

    Requests are read by their Content-Length; ``requests`` keeps ``(method, path, body)``.
    """

    def __init__(self, path, script):
        self.address = f"unix://{path}"
        self.requests = []
        self._script = script

    async def serve(self, stream):
        async with stream:
            try:
                while request := await self._read(stream):
                    self.requests.append(request)
                    if request[1] == "/_ping":
                        await stream.send(PING)
                    else:
                        await self._script(stream, request)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass

    async def _read(self, stream):
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive()
        head, _, body = data.partition(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n")[0].decode().split(" ")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        while lengths and len(body) < int(lengths[0].split(b":")[1]):
            body += await stream.receive()
        return method, path, body


def answer(body, status="200 OK", kind="application/json"):
    """A whole HTTP answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.fixture
def scripted(tmp_path):
    """A context: ``async with scripted(script) as (scripted engine, Engine)``."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def serve(script, timeout_s=5.0):
        path = tmp_path / "engine.sock"
        theirs = ScriptedEngine(path, script)
        with anyio.fail_after(20):
            async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as group:
                group.start_soon(listener.serve, theirs.serve)
                engine = await Engine.connect(theirs.address, timeout_s=timeout_s)
                try:
                    yield theirs, engine
                finally:
                    await engine.aclose()
                    group.cancel_scope.cancel()

    return serve


@pytest.fixture
def endpoint(tmp_path):
    """A place where nothing is."""
    return find_endpoint(f"unix://{tmp_path}/none.sock")
