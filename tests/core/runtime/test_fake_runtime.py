"""The fake runtime keeps the contract that real ones keep, or tests with it would prove nothing."""

from __future__ import annotations

import contextlib
import secrets
from types import SimpleNamespace

import pytest
import pytest_asyncio

from moat_core.errors import SandboxGone
from moat_core.ledger import Connections
from moat_core.testing import FakeContainer, FakeNetwork, FakeRuntime, Harness, ResourceConformance, RuntimeConformance


@pytest.fixture
def harness(tmp_path, monkeypatch):
    return Harness(tmp_path, monkeypatch)


@pytest_asyncio.fixture
async def context(harness):
    async with Connections() as connections:
        yield SimpleNamespace(run_id="run-00000000", connection=connections.get)


class FakeObjects(ResourceConformance):
    """What both kinds share."""

    kind = None
    late_s = 0.05

    @pytest.fixture
    def resource(self, harness):
        return self.kind(harness.engine.folder, f"test-{secrets.token_hex(4)}")

    async def exists(self, resource, context):
        runtime = await context.connection(FakeRuntime, resource.address)
        return resource.name in runtime.engine.left()


class TestFakeContainer(FakeObjects):
    """A container."""

    kind = FakeContainer


class TestFakeNetwork(FakeObjects):
    """A network."""

    kind = FakeNetwork


@pytest_asyncio.fixture
async def moat(harness):
    async with harness.moat() as library:
        yield library


@pytest_asyncio.fixture
async def live(moat, harness):
    with contextlib.suppress(SandboxGone):  # a check may have stopped its container
        async with moat.run(harness.workspace) as run:
            yield run


class TestFakeRuntime(RuntimeConformance):
    """The whole of it."""

    runtime = FakeRuntime

    @pytest.fixture(autouse=True)
    def _down_elsewhere(self, harness, tmp_path):
        from moat_core.testing import FakeEngine

        type(self).nowhere = str(tmp_path / "nowhere")
        FakeEngine(self.nowhere).go_down()
