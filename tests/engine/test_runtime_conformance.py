"""The docker plugin's runtime and resources keep the contract, on a real engine."""

from __future__ import annotations

import contextlib
import secrets
from types import SimpleNamespace

import pytest
import pytest_asyncio

from moat_core import Moat
from moat_core.errors import EngineError, SandboxGone
from moat_core.ledger import Connections
from moat_core.testing import ResourceConformance, RuntimeConformance
from moat_plugins.docker import labels
from moat_plugins.docker.resources import DockerContainer, DockerNetwork, DockerVolume
from moat_plugins.docker.runtime import DockerRuntime

RUN_ID = "run-c0ffee00"


@pytest_asyncio.fixture
async def moat(engine, home):
    async with Moat(home=home) as library:
        yield library


@pytest_asyncio.fixture
async def live(moat, workspace):
    with contextlib.suppress(SandboxGone):  # a check may have stopped its container
        async with moat.run(workspace, sandbox=False) as run:
            yield run


class TestDockerRuntime(RuntimeConformance):
    """Listing, finding, stopping, being gone."""

    runtime = DockerRuntime
    nowhere = "unix:///no/such/socket"


@pytest_asyncio.fixture
async def context(engine, tmp_path):
    async with Connections(tmp_path) as connections:
        yield SimpleNamespace(run_id=RUN_ID, connection=connections.get)


class DockerObjects(ResourceConformance):
    """What all kinds share."""

    late_s = 1.0

    def make(self, address, name, marks):
        raise NotImplementedError

    async def look(self, engine, name):
        raise NotImplementedError

    @pytest.fixture
    def resource(self, engine):
        marks = {labels.RUN_ID: RUN_ID, labels.ROLE: "main"}
        return self.make("", f"moat-test-{secrets.token_hex(4)}", marks)

    async def exists(self, resource, context):
        runtime = await context.connection(DockerRuntime, "")
        try:
            await self.look(runtime.engine, resource.name)
        except EngineError as error:
            if error.status != 404:
                raise
            return False
        return True


class TestDockerContainer(DockerObjects):
    """A container."""

    def make(self, address, name, marks):
        return DockerContainer(address, name, {"Image": "debian:bookworm-slim", "Cmd": ["true"], "Labels": marks})

    async def look(self, engine, name):
        await engine.containers.inspect(name)


class TestDockerNetwork(DockerObjects):
    """A network."""

    def make(self, address, name, marks):
        return DockerNetwork(address, name, {"Labels": marks})

    async def look(self, engine, name):
        await engine.networks.inspect(name)


class TestDockerVolume(DockerObjects):
    """A volume."""

    def make(self, address, name, marks):
        return DockerVolume(address, name, marks)

    async def look(self, engine, name):
        await engine.volumes.inspect(name)
