"""A run, small enough for tests of the docker plugin alone: connections and resources are real, the rest is data."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import attrs

from moat_core.hooks.dispatch import Dispatcher
from moat_core.hooks.manager import PluginManager
from moat_core.ledger import Connections
from moat_core.plan import PlanBuilder
from moat_core.types import Command, EnvValue, new_run_id
from moat_plugins.docker.network import open_network
from moat_plugins.docker.open_sandbox import open_sandbox
from moat_plugins.docker.runtime import DockerRuntime

OWNER = "0123456789abcdef"
"""Whose the things of a `FakeRun` are."""
NAME_SERVERS = tuple(
    line.split()[1] for line in Path("/etc/resolv.conf").read_text().splitlines() if line.startswith("nameserver")
)


def make_plan(*, env=None, **fields):
    """A plan with FIELDS instead of the defaults."""
    plan = PlanBuilder(run_id=new_run_id(), name="testling", runtime="docker", workspace=Path("/")).freeze()
    values = {key: EnvValue(value, "test") for key, value in (env or {}).items()}
    return attrs.evolve(plan, env=values, **fields)


class FakeRun:
    """What `moat_core.lifecycle.Run` offers to this plugin."""

    def __init__(self, plan, address, folder, connections):
        self.plan = plan
        self.address = address
        self.locks = Path(folder) / "locks"
        self.labels = {"moat.run-id": plan.run_id, "moat.name": plan.name, "moat.owner": OWNER}
        self.hosts = {}
        self.files = []
        self.image = plan.image.reference
        self.grace_s = 10.0
        self.main_ended = None
        self.detached = False
        self.acquired = []
        self.told = []
        self.dispatcher = Dispatcher(PluginManager())  # of a run without any plugin
        self._connections = connections
        self._provided = {}

    @property
    def id(self):
        return self.plan.run_id

    @property
    def run_id(self):
        return self.plan.run_id

    async def connection(self, kind, address):
        return await self._connections.get(kind, address)

    async def runtime(self):
        return await self.connection(DockerRuntime, self.address)

    async def acquire(self, resource):
        self.acquired.append(resource)
        return await resource.create(self)

    async def release_all(self):
        return [await resource.release(self) for resource in reversed(self.acquired)]

    def provide(self, value):
        self._provided[type(value)] = value

    def get(self, kind):
        return self._provided[kind]

    def progress(self, task, text="", **numbers):
        self.told.append((task, text, numbers))


class FakeUpkeep:
    """What `moat_core.ledger.Upkeep` offers to hooks."""

    def __init__(self, connections, *, live=(), known=(), automatic=True, address=(), owner=OWNER):
        self.automatic = automatic
        self.owner = owner
        self.problems = []
        self._connections, self._live, self._known = connections, live, known
        self._addresses = [address] if isinstance(address, str) else address

    def addresses(self):
        return [("docker", address) for address in self._addresses]

    def report(self, problem):
        self.problems.append(problem)

    async def connection(self, kind, address):
        return await self._connections.get(kind, address)

    def is_live(self, run_id):
        return run_id in self._live

    def is_known(self, run_id):
        return run_id in self._known


@asynccontextmanager
async def open_run(address, folder, **fields):
    """A FakeRun with an open connection; what it acquired is released at the end."""
    with anyio.fail_after(60):  # a test that hangs fails
        async with Connections(folder) as connections:
            run = FakeRun(make_plan(**fields), address, folder, connections)
            try:
                yield run
            finally:
                with anyio.CancelScope(shield=True):
                    await run.release_all()


@asynccontextmanager
async def open_live(address, folder, **fields):
    """A run with its network and container: ``(run, sandbox)``."""
    async with open_run(address, folder, **fields) as run, AsyncExitStack() as stack:
        await stack.enter_async_context(open_network(run))
        sandbox = await stack.enter_async_context(open_sandbox(run))
        await sandbox.admit()
        yield run, sandbox


async def get_engine(run):
    """The plugin's own connection."""
    return (await run.connection(DockerRuntime, run.address)).engine


async def run_command(sandbox, *argv, stdin=None, **fields):
    """Run to the end: ``(exit code, stdout, stderr)``."""
    out = {"stdout": b"", "stderr": b""}
    async with sandbox.open_process(Command(argv, stdin=stdin is not None, **fields)) as process:
        if stdin is not None:
            await process.write(stdin)
            await process.close_stdin()
        async for piece in process:
            out[piece.stream] += piece.data
        return await process.wait(), out["stdout"], out["stderr"]
