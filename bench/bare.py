"""The yardstick: the engine's API with nothing in between but aiohttp's Unix socket connector."""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import asynccontextmanager

import aiohttp


def socket_path():
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    assert address.startswith("unix://"), "the benchmarks want an engine on a Unix socket"
    return address.removeprefix("unix://")


class Bare:
    """Just enough of the engine's API."""

    def __init__(self, session):
        self.session = session

    async def call(self, method, path, body=None, *, ok=(200, 201, 204, 304)):
        async with self.session.request(method, "http://engine/v1.43" + path, json=body) as response:
            data = await response.read()
            assert response.status in ok, (method, path, response.status, data[:300])
            return json.loads(data) if data and response.content_type == "application/json" else data

    async def run(self, config):
        """Create, start, wait, log, delete; return the log."""
        container = (await self.call("POST", "/containers/create", config))["Id"]
        try:
            await self.call("POST", f"/containers/{container}/start")
            await self.call("POST", f"/containers/{container}/wait")
            return await self.call("GET", f"/containers/{container}/logs?stdout=1&stderr=1")
        finally:
            await self.call("DELETE", f"/containers/{container}?force=1&v=1")

    async def first_byte(self, config):
        """Seconds from the request to the first byte of an attached container's output."""
        started = time.perf_counter()
        container = (await self.call("POST", "/containers/create", config))["Id"]
        try:
            reader, writer = await asyncio.open_unix_connection(socket_path())
            writer.write(
                f"POST /v1.43/containers/{container}/attach?stream=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: engine\r\n"
                "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n".encode()
            )
            await reader.readuntil(b"\r\n\r\n")
            await self.call("POST", f"/containers/{container}/start")
            await reader.readexactly(8)
            spent = time.perf_counter() - started
            writer.close()
            await self.call("POST", f"/containers/{container}/wait")
            return spent
        finally:
            await self.call("DELETE", f"/containers/{container}?force=1&v=1")

    async def exec(self, container, argv, user):
        """Create an exec, start it, read to its end, inspect it; return exit code and output."""
        body = {"Cmd": argv, "AttachStdout": True, "AttachStderr": True, "User": user}
        exec_id = (await self.call("POST", f"/containers/{container}/exec", body))["Id"]
        start = {"Detach": False, "Tty": False}
        async with self.session.post(f"http://engine/v1.43/exec/{exec_id}/start", json=start) as response:
            output = await response.read()
        return (await self.call("GET", f"/exec/{exec_id}/json"))["ExitCode"], output


@asynccontextmanager
async def connect():
    connector = aiohttp.UnixConnector(socket_path(), limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=600)) as session:
        yield Bare(session)
