"""What changes while a run lives: its container is started anew, and resources are undone before their time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import ClassVar

import anyio
import attrs

from moat_core import hookimpl
from moat_core.events import RunMoved
from moat_core.ledger import Resource
from moat_core.testing.fakes import FakeSandbox

RELEASED = []


@attrs.frozen
class Flag(Resource):
    kind: ClassVar[str] = "test.flag"
    name: str

    async def create(self, ctx):
        """Nothing."""

    async def release(self, ctx):
        RELEASED.append(self.name)
        return True


class Flags:
    def __init__(self):
        self.rows = []

    @hookimpl
    def moat_register_resources(self):
        return [Flag]

    @hookimpl
    def moat_open_endpoints(self, run):
        return self._open(run)

    @asynccontextmanager
    async def _open(self, run):
        for name in ("a", "b", "c"):
            await run.acquire(Flag(name))
        await run.release(Flag("b"))
        await run.release(Flag("b"))
        await run.release(Flag("never"))
        yield


async def test_what_was_released_early_is_not_released_again(moat):
    """The others are, in reverse, at the end; releasing what is not there is no error."""
    RELEASED.clear()
    moat.register(Flags(), "flags")
    record = await moat.run(["true"])
    assert record.outcome.status == "finished", record.problems
    assert RELEASED == ["b", "c", "a"]
    assert record.left == []


class Mover:
    """Lets go of what waits for a move once, with other ports."""

    def __init__(self):
        self.told = anyio.Event()
        self.ports = []

    async def wait(self, sandbox):
        """In the place of `Sandbox.wait_moved`."""
        if self.ports:
            await anyio.sleep_forever()
        return attrs.evolve(sandbox.info, ports={3000: 4000})

    @hookimpl
    async def moat_on_event(self, run, event):
        if isinstance(event, RunMoved):
            self.ports.append(dict(event.ports))
            self.told.set()


async def test_a_container_that_its_engine_starts_anew_is_told(moat, monkeypatch):
    """With the ports that it has now."""
    mover = Mover()
    monkeypatch.setattr(FakeSandbox, "wait_moved", lambda sandbox: mover.wait(sandbox))  # noqa: PLW0108 - `self` is to be the sandbox
    moat.register(mover, "mover")

    async def body(run):
        with anyio.fail_after(5):
            await mover.told.wait()

    record = await moat.run(body)
    assert mover.ports == [{3000: 4000}]
    assert record.outcome.status == "finished"
