"""What changes while a run lives: its engine starts its container anew, and it is reached elsewhere."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import ClassVar

import anyio
import attrs

from moat_core import hookimpl
from moat_core.errors import StoreError
from moat_core.events import RunMoved
from moat_core.ledger import LedgerView, Resource, follow_moves
from moat_core.testing.fakes import FakeSandbox

SEEN = []


@attrs.frozen
class Place(Resource):
    """Where port 3000 of the container is."""

    kind: ClassVar[str] = "test.place"
    port: int = 0

    async def create(self, ctx):
        """Nothing."""

    async def release(self, ctx):
        SEEN.append(("released", self.port))
        return True

    def moved(self, ports):
        return Place(ports[3000])


@attrs.frozen
class Flag(Resource):
    """Nothing of it moves."""

    kind: ClassVar[str] = "test.flag"
    name: str

    async def create(self, ctx):
        """Nothing."""

    async def release(self, ctx):
        SEEN.append(("released", self.name))
        return True


class Mover:
    """Lets go of what waits for a move once, with other ports."""

    def __init__(self):
        self.due, self.told = anyio.Event(), anyio.Event()
        self.ports, self.befores = [], []

    async def wait(self, sandbox, before):
        """In the place of `Sandbox.wait_moved`."""
        self.befores.append(before)
        if before == {3000: 4000}:
            await anyio.sleep_forever()
        await self.due.wait()
        return attrs.evolve(sandbox.info, ports={3000: 4000})

    @hookimpl
    def moat_register_resources(self):
        return [Place, Flag]

    @hookimpl
    def moat_open_endpoints(self, run):
        return self._open(run)

    @asynccontextmanager
    async def _open(self, run):
        for resource in (Flag("a"), Place(), Flag("b")):
            await run.acquire(resource)
        yield

    @hookimpl
    async def moat_on_event(self, run, event):
        if isinstance(event, RunMoved):
            SEEN.append(("rows", rows(run)))
            self.ports.append(dict(event.ports))
            self.told.set()


def rows(run):
    """What the ledger has, oldest first."""
    view = LedgerView(run.moat_home, [Place, Flag])
    try:
        return [attrs.astuple(entry.resource)[0] for entry in view.read() if entry.state == "live"]
    finally:
        view.close()


async def test_a_container_that_its_engine_starts_anew_is_told(moat, monkeypatch):
    """With the ports that it has now; what was made for it follows before, in the ledger as in memory."""
    SEEN.clear()
    mover = Mover()
    monkeypatch.setattr(FakeSandbox, "wait_moved", lambda sandbox, before: mover.wait(sandbox, before))  # noqa: PLW0108
    moat.register(mover, "mover")

    async def body(run):
        mover.due.set()
        with anyio.fail_after(5):
            await mover.told.wait()

    record = await moat.run(body)
    assert mover.ports == [{3000: 4000}]
    assert mover.befores == [{}, {3000: 4000}]  # from where it was seen last: no move in between is lost
    assert record.outcome.status == "finished"
    assert SEEN == [("rows", ["a", "b", 4000]), ("released", "b"), ("released", 4000), ("released", "a")]
    assert record.left == []


async def test_a_store_that_cannot_be_written_just_now_ends_nothing():
    """It is tried again until it can."""
    tried = []

    def follow(ports):
        tried.append(ports)
        if len(tried) < 3:
            raise StoreError("It is locked.")

    await follow_moves(follow, {1: 2})
    assert tried == [{1: 2}] * 3
