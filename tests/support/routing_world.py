"""Runs as the proxy sees them, rows and locks of a real store, and the services behind them, which say who they are."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import time
from contextlib import asynccontextmanager

import attrs

from moat_core.ledger.resource import to_row
from moat_core.store import Home, RunRow, Store
from moat_core.store.paths import Lock
from moat_plugins.routing.resources import AgentName, Route
from moat_plugins.routing.router import Router
from moat_plugins.routing.runs import Runs
from moat_plugins.routing.table import Table

JSON = "application/json"


class RowRun:
    """One run, as its owner has it: its lock is held, and what it claims is written down."""

    def __init__(self, home, store, name, endpoints, run_id):
        self.home, self.store, self.name, self.endpoints = home, store, name, dict(endpoints)
        self.id = run_id or "run-" + secrets.token_hex(4)
        self.lock = Lock(home.run_lock(self.id))
        assert self.lock.acquire()
        self.claim = self._write(AgentName(name, self.endpoints))
        self.routes = {}

    def _write(self, resource):
        row = self.store.add_intent(self.id, resource.kind, to_row(resource))
        self.store.set_state(row, "live")
        return row

    def remember(self, **values):
        """Write the row that listings show."""
        fields = {
            "id": self.id, "name": self.name, "runtime": "fake", "address": os.environ["MOAT_FAKE_ENGINE"], "probe": "",
            "workspace": "/w", "command": ["serve"], "env_names": [], "ports": self.endpoints, "owner_pid": os.getpid(),
            "owner_kind": "library", "sandboxed": 1, "oci_runtime": "runsc", "phase": "act", "created": time.time(),
            "urls": {each: f"http://{each}.{self.name}.localhost:8080" for each in self.endpoints}, **values,
        }  # fmt: skip
        self.store.add_run(RunRow(**fields))
        return self

    def route(self, **ports):
        """Write down where endpoints are reached; what was there before goes after it."""
        for endpoint, port in ports.items():
            before = self.routes.get(endpoint)
            self.routes[endpoint] = self._write(
                Route(self.name, endpoint, self.endpoints.get(endpoint, 1), "127.0.0.1", port)
            )
            if before is not None:
                self.store.forget_resource(before)
        return self

    def unroute(self):
        """Undo the routes, which is what comes first when a run ends."""
        while self.routes:
            self.store.forget_resource(self.routes.popitem()[1])

    def die(self):
        """Its owner is killed: the rows stay."""
        self.lock.close()

    def end(self):
        """What an owner does at the end, in that order."""
        self.unroute()
        self.store.forget_resource(self.claim)
        if self.store.run(self.id) is not None:
            self.store.update_run(self.id, phase="over", status="finished", exit_code=0, ended=time.time())
        self.lock.release()


class World:
    """A ``MOAT_HOME`` and its runs."""

    def __init__(self, path):
        self.home = Home(path)
        self.home.make()
        self.store = Store(self.home)
        self.runs = []

    def run(self, name, run_id=None, **endpoints):
        """Begin a run; without endpoints it has ``web``."""
        self.runs.append(RowRun(self.home, self.store, name, endpoints or {"web": 3000}, run_id))
        return self.runs[-1]

    def close(self):
        for run in self.runs:
            run.lock.close()
        self.store.close()


class Backend:
    """A service that answers each request with its name, and keeps connections open.

    Args:
        name: What it says.
        port: 0 picks one. It may be taken the moment that another has left it.
    """

    def __init__(self, name, port=0):
        self.name, self.port, self.seen = name, port, []
        self.gate = asyncio.Event()
        self.gate.set()
        self.got = asyncio.Event()
        self._tasks, self._server, self._writers = set(), None, set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        await self.stop()

    async def stop_listening(self):
        """Take no further connections; those that there are go on, as at an orderly end."""
        self._server.close()
        await asyncio.sleep(0)

    async def stop(self):
        """Be gone, connections and all."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hang_up(self):
        """Cut every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.seen.append(head)
                self.got.set()
                await self.gate.wait()
                body = self.name.encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            writer.close()


@attrs.frozen
class Answer:
    """What came back."""

    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def code(self):
        """Of an error of the proxy's own; ``""`` if a service answered."""
        return self.headers.get("moat-error", "")

    @property
    def details(self):
        return self.json["error"]["details"]

    @property
    def said(self):
        """Who answered, or with which error."""
        return self.code or self.body.decode()


async def ask(port, host, path="/", *, method="GET", accept=JSON, address="127.0.0.1", tls=None, **headers):
    """One request on a connection of its own."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(address, port, ssl=tls)
        try:
            lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Accept: {accept}", "Connection: close"]
            lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
            return parse(await reader.read())
        finally:
            writer.close()


class Connection:
    """A connection to the proxy that is kept for as many requests as it lets."""

    def __init__(self, port):
        self._port, self._streams = port, None

    async def ask(self, host, path="/"):
        """One request; `OSError` or `EOFError` if it cannot be made or is not answered."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            async with asyncio.timeout(15):
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                return parse(head + await reader.readexactly(length))
        except BaseException:
            self.close()
            raise

    def close(self):
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


def parse(data):
    """The answer in DATA, all that came before the connection was closed."""
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(status.split()[1]), headers, body)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Routing:
    """A router that listens, its table, and the world that it looks at."""

    def __init__(self, world, table, router, port, clock):
        self.world, self.table, self.router, self.port, self.clock = world, table, router, port, clock

    async def ask(self, host, path="/", *, wait=True, **options):
        """One request; by the table's clock it comes a moment after what was before, unless it does not WAIT."""
        self.clock.now += 0.03 * wait
        return await ask(self.port, host, path, **options)

    async def said(self, host, **options):
        """Who answers at HOST, or with which error."""
        return (await self.ask(host, **options)).said


@asynccontextmanager
async def routing(world, moat, *, tls=None, **options):
    """Serve WORLD's runs from this process.

    Args:
        moat: An entered `Moat`.
    """
    loop = asyncio.get_running_loop()
    clock = Clock()
    table = Table(world.home.path, clock)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    router = Router(table, Runs(moat, table), version="1.2.3", port=port, tls=tls, **options)
    table.on_gone = router.pool.drop
    server = await loop.create_server(router.accept, sock=listener)
    try:
        yield Routing(world, table, router, port, clock)
    finally:
        router.close()
        server.close()
        table.close()
        await asyncio.sleep(0)


def free_port():
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
