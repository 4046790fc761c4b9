"""What the lifecycle tests share: layers that write down their order, and a check that no task is left."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import anyio
import pytest

from moat_core import hookimpl

LAYERS = ("moat_open_run", "moat_open_network", "moat_open_services", "moat_open_endpoints")


class Layers:
    """Opens a layer with a service of its own in every phase; ``log`` tells what was entered, left and stopped."""

    def __init__(self):
        self.log = []
        self.outcomes = []
        self.result = None

    @asynccontextmanager
    async def _layer(self, run, name):
        async def serve(*, task_status):
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                self.log.append(f"svc-{name}")

        await run.start_service(name, serve)
        self.log.append(f"+{name}")
        yield
        await anyio.lowlevel.checkpoint()  # an exit that is cancelled does not come past this
        self.outcomes.append(run.outcome.status)
        self.log.append(f"-{name}")

    @hookimpl
    def moat_open_run(self, run):
        return self._layer(run, "run")

    @hookimpl
    def moat_open_network(self, run):
        return self._layer(run, "net")

    @hookimpl
    def moat_open_services(self, run):
        return self._layer(run, "rt")

    @hookimpl
    def moat_open_endpoints(self, run):
        return self._layer(run, "end")

    @hookimpl
    async def moat_on_closed(self, result):
        self.result = result

    @staticmethod
    def expected(*names):
        """The log of a run that opened these layers, in order, and undid them."""
        undone = [word for name in reversed(names) for word in (f"-{name}", f"svc-{name}")]
        return [f"+{name}" for name in names] + undone


@pytest.fixture
def layers(moat):
    """The layers, registered."""
    plugin = Layers()
    moat.register(plugin, "layers")
    return plugin


@pytest.fixture(autouse=True)
async def _no_tasks_left():
    """Fail a test that leaves a task behind in its loop."""
    before = asyncio.all_tasks()
    yield
    left = {task for task in asyncio.all_tasks() if not task.done()} - before - {asyncio.current_task()}
    assert not left, f"tasks left: {left}"


@pytest.fixture
def impatient(monkeypatch):
    """Look only briefly for what the engine may still be making: there are many runs in a test, and it makes nothing."""
    monkeypatch.setattr("moat_core.ledger.ledger.LATE_S", 0.02)
    monkeypatch.setattr("moat_core.ledger.ledger._RETRY_S", 0.02)
