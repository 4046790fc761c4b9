"""The runtime ``fake``: all of the contract of `moat_core.runtime.base`, on a `FakeEngine`.

Every call to the engine has a point before and one after it at which a cancellation can come, as calls over a socket
have, and a time limit, so that a test can cancel, kill, refuse or hang it anywhere.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self

import anyio
import attrs

from moat_core.errors import EngineError, EngineTimeout, RuntimeUnavailable, SandboxGone
from moat_core.ledger import VOLATILE, Resource
from moat_core.runtime.base import Process, Runtime, Sandbox, SandboxInfo
from moat_core.testing.engine import ADDRESS_VARIABLE, FakeEngine, Fault, Kind, Reply
from moat_core.types import Command, Leftover, Output, RunState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from moat_core.ledger import ResourceContext, Upkeep
    from moat_core.lifecycle import Run

__all__ = ["FakeContainer", "FakeNetwork", "FakeProcess", "FakeRuntime", "FakeSandbox"]

_POLL_S = 0.01
_SIGTERM, _SIGKILL = 15, 9


class FakeRuntime(Runtime):
    """A client of a `FakeEngine`; its address is the engine's folder."""

    name = "fake"

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.address = engine.folder

    @classmethod
    async def connect(cls, address: str) -> Self:
        """See `Runtime`."""
        engine = FakeEngine(address or cls.find_address())
        await anyio.lowlevel.checkpoint()
        if engine.is_down:
            raise RuntimeUnavailable("The fake engine is down.", hint="Call come_up().")
        return cls(engine)

    @classmethod
    def find_address(cls) -> str:
        """See `Runtime`."""
        if ADDRESS_VARIABLE not in os.environ:
            raise RuntimeUnavailable(
                "There is no fake engine.", hint=f"Set {ADDRESS_VARIABLE}, or use the fixture `moat`."
            )
        return os.environ[ADDRESS_VARIABLE]

    async def aclose(self) -> None:
        """See `Runtime`."""
        await anyio.lowlevel.checkpoint()

    async def isolation(self) -> str:
        """See `Runtime`."""
        return "that nothing really runs"

    async def find_sandboxes(self, run_id: str | None = None) -> list[SandboxInfo]:
        """See `Runtime`."""
        async with self.calling("find_containers"):
            found = [to_info(name, data) for name, data in self.engine.containers().items()]
        return [info for info in found if run_id in {None, info.run_id}]

    async def get_sandbox(self, info: SandboxInfo) -> FakeSandbox:
        """See `Runtime`."""
        return FakeSandbox(self, info)

    @asynccontextmanager
    async def calling(self, call: str, **data: Any) -> AsyncIterator[Fault | None]:
        """Surround what a call does: it is written down, and may go wrong before or after.

        Raises:
            EngineError: It was refused.
            EngineTimeout: It was not answered.
            RuntimeUnavailable: The engine is down.
        """
        fault = self.engine.record(call, data)
        await anyio.lowlevel.checkpoint()
        if self.engine.is_down:
            raise RuntimeUnavailable("The fake engine is down.", hint="Call come_up().")
        if fault == "refuse":
            raise EngineError(f"The fake engine refuses to {call}.", status=500, hint="Call behave().")
        if fault == "hang":
            await self._hang(call)
        yield fault
        if fault in {"lose", "late"}:
            await self._hang(call)
        await anyio.lowlevel.checkpoint()

    async def _hang(self, call: str) -> None:
        with anyio.move_on_after(self.engine.timeout_s):
            await anyio.sleep_forever()
        raise EngineTimeout(f"The fake engine did not answer {call}.", hint="Call behave().")

    async def make(self, kind: Kind, name: str, data: dict[str, Any]) -> None:
        """Make an object on the engine."""
        async with self.calling(f"create_{kind[:-1]}", name=name) as fault:
            try:
                self.engine.make(kind, name, data, late=fault == "late")
            except FileExistsError:
                raise EngineError(f"There is a {kind[:-1]} called {name} already.", status=409) from None

    async def remove(self, kind: Kind, name: str) -> bool:
        """Remove an object; return whether it was there."""
        async with self.calling(f"remove_{kind[:-1]}", name=name):
            return self.engine.remove(kind, name)

    async def start(self, name: str) -> None:
        """Start a container; its main process does at once what its command's reply says."""
        async with self.calling("start_container", name=name):
            command = self.engine.containers()[name]["command"]
            reply = self.engine.find_reply(command) if command is not None else Reply(hangs=True)
            state = {"state": "running"} if reply.hangs else {"state": "exited", "exit_code": reply.exit_code}
            self.engine.change("containers", name, **state)


@attrs.frozen
class _FakeObject(Resource):
    address: str
    name: str
    what: ClassVar[Kind]

    async def release(self, ctx: ResourceContext) -> bool:
        """Remove it, in whatever state."""
        runtime = await ctx.connection(FakeRuntime, self.address)
        return await runtime.remove(self.what, self.name)


@attrs.frozen
class FakeNetwork(_FakeObject):
    """A network of a run."""

    kind: ClassVar[str] = "fake.network"
    what: ClassVar[Kind] = "networks"
    labels: Mapping[str, str] = attrs.field(factory=dict, metadata={VOLATILE: True})

    async def create(self, ctx: ResourceContext) -> None:
        """Make it."""
        runtime = await ctx.connection(FakeRuntime, self.address)
        await runtime.make(self.what, self.name, {"run_id": ctx.run_id, "labels": dict(self.labels)})


@attrs.frozen
class FakeContainer(_FakeObject):
    """A container of a run; ``agent`` is the run's name."""

    kind: ClassVar[str] = "fake.container"
    what: ClassVar[Kind] = "containers"
    labels: Mapping[str, str] = attrs.field(factory=dict, metadata={VOLATILE: True})
    agent: str = attrs.field(default="", metadata={VOLATILE: True})
    oci_runtime: str = attrs.field(default="runc", metadata={VOLATILE: True})
    command: tuple[str, ...] | None = attrs.field(default=None, metadata={VOLATILE: True})
    env: Mapping[str, str] = attrs.field(factory=dict, metadata={VOLATILE: True})

    async def keep(self, ctx: ResourceContext) -> bool:  # noqa: ARG002
        """See `Resource.keep`: a fake is always willing."""
        return True

    async def create(self, ctx: ResourceContext) -> None:
        """Make it; it is not started yet."""
        runtime = await ctx.connection(FakeRuntime, self.address)
        data = {
            "run_id": ctx.run_id,
            "role": "main",
            "state": "starting",
            "exit_code": None,
            "labels": dict(self.labels),
            "agent": self.agent,
            "oci_runtime": self.oci_runtime,
            "command": self.command,
            "env": dict(self.env),
        }
        await runtime.make(self.what, self.name, data)


class FakeSandbox(Sandbox):
    """A container of a `FakeEngine`. Its commands do what the engine was told by `FakeEngine.reply`."""

    def __init__(self, runtime: FakeRuntime, info: SandboxInfo) -> None:
        self.runtime = runtime
        self.info = info

    @property
    def engine(self) -> FakeEngine:
        """Where it lives."""
        return self.runtime.engine

    @asynccontextmanager
    async def open_process(self, command: Command) -> AsyncIterator[FakeProcess]:
        """See `Sandbox`."""
        said = {"argv": command.argv, "env": dict(command.env), "cwd": command.cwd, "user": command.user}
        async with self.runtime.calling("exec", container=self.info.id, **said):
            if (await self._look()).state is not RunState.RUNNING:
                raise SandboxGone(f"The container {self.info.id} is not running.")
        yield FakeProcess(self.engine, self.engine.find_reply(command.argv))

    @asynccontextmanager
    async def open_main(self) -> AsyncIterator[FakeProcess]:
        """See `Sandbox`."""
        async with self.runtime.calling("attach", container=self.info.id):
            command = self.engine.containers()[self.info.id]["command"]
        yield FakeProcess(self.engine, self.engine.find_reply(command or ()), until=self.wait)

    async def wait(self) -> SandboxInfo:
        """See `Sandbox`."""
        while (info := await self._look()).state is not RunState.EXITED:  # noqa: ASYNC110 - it is another process's
            await anyio.sleep(_POLL_S)
        return info

    async def refresh(self) -> SandboxInfo:
        """See `Sandbox`."""
        async with self.runtime.calling("inspect", container=self.info.id):
            self.info = await self._look()
        return self.info

    async def stop(self, grace_s: float) -> None:
        """See `Sandbox`."""
        async with self.runtime.calling("stop_container", container=self.info.id, grace_s=grace_s):
            if (await self._look()).state is not RunState.EXITED:
                self.engine.end(self.info.id, 128 + (_SIGTERM if grace_s else _SIGKILL))

    async def logs(self, *, tail: int | None, follow: bool) -> AsyncIterator[Output]:  # noqa: ARG002
        """See `Sandbox`."""
        command = self.engine.containers()[self.info.id]["command"]
        for output in _outputs(self.engine.find_reply(command or ()), tail):
            yield output

    async def _look(self) -> SandboxInfo:
        await anyio.lowlevel.checkpoint()
        if self.engine.is_down:
            raise RuntimeUnavailable("The fake engine went down.")
        data = self.engine.containers().get(self.info.id)
        if data is None:
            raise SandboxGone(f"The container {self.info.id} is not there any more.")
        return to_info(self.info.id, data)


class FakeProcess(Process):
    """A command that does what its `Reply` says.

    Args:
        until: Awaited before it ends: a main process ends with its container.
    """

    def __init__(self, engine: FakeEngine, reply: Reply, until: Any = None) -> None:
        self._engine = engine
        self._reply = reply
        self._until = until
        self._ended = anyio.Event()
        self._exit_code = reply.exit_code
        if not reply.hangs:
            self._ended.set()

    async def __aiter__(self) -> AsyncIterator[Output]:
        for output in _outputs(self._reply):
            await anyio.lowlevel.checkpoint()
            yield output
        await self.wait()

    async def write(self, data: bytes) -> None:
        """See `Process`. It is written down as a call ``stdin``."""
        if self._ended.is_set() and self._reply.exit_code:
            raise BrokenPipeError
        self._engine.record("stdin", {"data": data.decode("latin-1")})
        await anyio.lowlevel.checkpoint()

    async def close_stdin(self) -> None:
        """See `Process`."""
        self._engine.record("close_stdin", {})
        await anyio.lowlevel.checkpoint()

    async def resize(self, rows: int, columns: int) -> None:
        """See `Process`."""
        self._engine.record("resize", {"rows": rows, "columns": columns})
        await anyio.lowlevel.checkpoint()

    async def signal(self, number: int) -> None:
        """See `Process`. A hanging one ends by it."""
        self._engine.record("signal", {"number": number})
        if not self._ended.is_set():
            self._exit_code = 128 + number
            self._ended.set()
        await anyio.lowlevel.checkpoint()

    async def wait(self) -> int:
        """See `Process`."""
        if self._until is not None:
            info: SandboxInfo = await self._until()
            return info.exit_code or 0
        await self._ended.wait()
        return self._exit_code


async def resolve_image(run: Run) -> str:
    """Implement ``moat_resolve_image``."""
    runtime = await run.connection(FakeRuntime, run.address)
    image = run.plan.image
    async with runtime.calling("find_image", reference=image.reference):
        if image.dockerfile is not None:
            built = await run.dispatcher.afirst("moat_build_image", run=run, image=image, labels={})
            if built is not None:
                return str(built.value)
        return image.reference


@asynccontextmanager
async def open_network(run: Run) -> AsyncIterator[None]:
    """Implement ``moat_open_network``."""
    await run.acquire(FakeNetwork(run.address, f"moat-{run.id}", run.labels))
    yield


@asynccontextmanager
async def open_sandbox(run: Run) -> AsyncIterator[FakeSandbox]:
    """Implement ``moat_open_sandbox``."""
    runtime, name, plan = await run.connection(FakeRuntime, run.address), f"moat-{run.id}", run.plan
    env = {key: item.value for key, item in plan.env.items()}
    oci_runtime = plan.oci_runtime or "runc"
    await run.acquire(FakeContainer(run.address, name, run.labels, run.name, oci_runtime, plan.command, env))
    await runtime.start(name)
    sandbox = FakeSandbox(runtime, to_info(name, runtime.engine.containers()[name]))
    yield sandbox
    if plan.keep:
        await sandbox.stop(0)


async def find_leftovers(upkeep: Upkeep) -> list[Leftover]:
    """Implement ``moat_find_leftovers``."""
    runtime = await upkeep.connection(FakeRuntime, "")
    async with runtime.calling("find_leftovers"):
        found = [
            (kind, name, data, resource)
            for kind, objects, resource in (
                ("container", runtime.engine.containers(), FakeContainer),
                ("network", runtime.engine.networks(), FakeNetwork),
            )
            for name, data in objects.items()
        ]
    return [
        Leftover(kind, name, "Its run is over.", resource(runtime.address, name), run_id, automatic=True)
        for kind, name, data, resource in found
        # One engine may serve several homes; what says of nobody whose it is, is ours.
        if data["labels"].get("moat.owner", upkeep.owner) == upkeep.owner
        and not upkeep.is_live(run_id := data["run_id"])
        and not upkeep.is_known(run_id)
    ]


def to_info(name: str, data: Mapping[str, Any]) -> SandboxInfo:
    """Return what the engine knows of a container as core sees it."""
    return SandboxInfo(
        id=name,
        run_id=data["run_id"],
        role=data["role"],
        state=RunState(data["state"]),
        name=data["agent"],
        oci_runtime=data["oci_runtime"],
        exit_code=data["exit_code"],
    )


def _outputs(reply: Reply, tail: int | None = None) -> list[Output]:
    pieces = [Output("stdout", reply.stdout), Output("stderr", reply.stderr)]
    if tail is not None:
        pieces = [Output(each.stream, b"".join(each.data.splitlines(keepends=True)[-tail:])) for each in pieces]
    return [piece for piece in pieces if piece.data]
