"""`DockerRuntime`: the connection that core, hooks and resources share, and what it finds on the engine."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Self

import anyio

from moat_core.errors import SandboxGone
from moat_core.runtime.base import OciRuntimes, Runtime, SandboxInfo
from moat_core.runtime.proof import Proof
from moat_core.types import RunState
from moat_plugins.docker import labels
from moat_plugins.docker.client import Engine
from moat_plugins.docker.endpoint import find_endpoint
from moat_plugins.docker.gone import gone_if_missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moat_core.lifecycle import Run
    from moat_core.runtime.base import Sandbox
    from moat_core.runtime.facets import EngineApi, Sidecars

__all__ = ["DockerRuntime", "connect_run", "make_info"]

_AT_ONCE = 16
_STATES = {
    "created": RunState.STARTING,
    "running": RunState.RUNNING,
    "restarting": RunState.RUNNING,
    "paused": RunState.PAUSED,
    "removing": RunState.STOPPING,
    "exited": RunState.EXITED,
    "dead": RunState.FAILED,
}
_PORT = re.compile(r"(\d+)/tcp")


class DockerRuntime(Runtime):
    """See `Runtime`. ``engine`` is for this plugin only."""

    name = "docker"

    def __init__(self, engine: Engine, home: str = "") -> None:
        self.engine = engine
        self.address = engine.endpoint.address
        self.home = home
        self._proof: Proof | None = None

    @property
    def proof(self) -> Proof:
        """What tells things of `home`'s."""
        if self._proof is None or self._proof.home != self.home:
            self._proof = Proof(self.home)
        return self._proof

    @classmethod
    async def connect(cls, address: str) -> Self:
        """See `Runtime`; ``""`` looks for the engine as the docker command does."""
        return cls(await Engine.connect(address))

    async def aclose(self) -> None:
        """See `Runtime`."""
        await self.engine.aclose()

    @classmethod
    def find_address(cls) -> str:
        """See `Runtime`."""
        return find_endpoint().address

    @property
    def sidecars(self) -> Sidecars:
        """See `Runtime`."""
        from moat_plugins.docker.sidecars import DockerSidecars  # it needs `connect_run`

        return DockerSidecars()

    @property
    def api(self) -> EngineApi:
        """See `Runtime`."""
        from moat_plugins.docker.engine_api import DockerApi

        return DockerApi(self)

    async def oci_runtimes(self) -> OciRuntimes:
        """See `Runtime`; GET /info, asked once a connection."""
        info = await self.engine.info()
        registered: dict[str, dict[str, Any]] = info.get("Runtimes") or {}
        return OciRuntimes(
            names=tuple(sorted(registered)),
            default=str(info.get("DefaultRuntime", "")),
            engine_os=str(info.get("OSType", "linux")),
            is_desktop=_is_desktop(info),
            commands={
                name: (str(entry["path"]), *(entry.get("runtimeArgs") or []))
                for name, entry in registered.items()
                if entry.get("path")
            },
            maps_users=any("rootless" in option or "userns" in option for option in info.get("SecurityOptions") or []),
        )

    async def find_sandboxes(self, run_id: str | None = None) -> list[SandboxInfo]:
        """See `Runtime`. Exit codes are only told by a look at each container: at most 16 at once."""
        label = labels.RUN_ID if run_id is None else f"{labels.RUN_ID}={run_id}"
        found = await self.engine.containers.list_labelled(label)
        infos: dict[str, SandboxInfo] = {}
        at_once = anyio.CapacityLimiter(_AT_ONCE)

        async def look(container: str) -> None:
            async with at_once:
                try:
                    with gone_if_missing():
                        seen = await self.engine.containers.inspect(container)
                    if labels.is_ours(self.proof, "container", seen["Name"], seen["Config"].get("Labels")):
                        infos[container] = make_info(seen)
                except SandboxGone:
                    pass  # removed since the listing

        async with anyio.create_task_group() as group:
            for item in found:
                group.start_soon(look, item["Id"])
        return [infos[item["Id"]] for item in found if item["Id"] in infos]

    async def get_sandbox(self, info: SandboxInfo) -> Sandbox:
        """See `Runtime`.

        Raises:
            SandboxGone: There is no such container any more, or none of ours.
        """
        from moat_plugins.docker.sandbox import DockerSandbox  # it needs `make_info`

        with gone_if_missing():
            found = await self.engine.containers.inspect(info.id)
        if not labels.is_ours(self.proof, "container", found["Name"], found["Config"].get("Labels")):
            raise SandboxGone(f"The container {found['Name'].removeprefix('/')} is not one that moat made.")
        return DockerSandbox.from_inspection(self.engine, found)


async def connect_run(run: Run) -> DockerRuntime:
    """Return the connection that RUN's containers are made through, with the deadline that its config asks for."""
    runtime = await run.connection(DockerRuntime, run.address)
    engine = runtime.engine.with_timeout(run.plan.details.get("docker", {}).get("timeout_s"))
    return DockerRuntime(engine, runtime.home)


def _is_desktop(info: Mapping[str, Any]) -> bool:
    """Tell whether a product manages the engine's virtual machine: Docker Desktop, Rancher, OrbStack, Colima."""
    system = f"{info.get('OperatingSystem', '')} {info.get('Name', '')}".lower()
    return any(word in system for word in ("docker desktop", "rancher", "orbstack", "colima", "lima-"))


def make_info(found: Mapping[str, Any], *, is_here: bool = True) -> SandboxInfo:
    """Read the answer of GET /containers/{id}/json, of a container that is ours (`labels.is_ours`).

    Args:
        is_here: The engine's 127.0.0.1 is ours; else it publishes nothing that we could reach.
    """
    state, host = found["State"], found["HostConfig"]
    marks = found["Config"].get("Labels") or {}
    status = _STATES.get(state["Status"], RunState.FAILED)
    if status is RunState.EXITED and marks.get(labels.KEEP) == "true":
        status = RunState.KEPT
    ended = state["Status"] in {"exited", "dead"}
    return SandboxInfo(
        id=found["Id"],
        run_id=marks.get(labels.RUN_ID, ""),
        role=marks.get(labels.ROLE, "main"),
        state=status,
        name=marks.get(labels.NAME, ""),
        oci_runtime=host.get("Runtime") or "",
        exit_code=int(state["ExitCode"]) if ended else None,
        oom_killed=bool(state.get("OOMKilled")),
        ports=_make_ports((found.get("NetworkSettings") or {}).get("Ports") or {}) if is_here else {},
    )


def _make_ports(found: Mapping[str, Any]) -> dict[int, int]:
    ports = {}
    for name, bindings in found.items():
        match = _PORT.fullmatch(name)
        if match and bindings:
            ports[int(match.group(1))] = int(bindings[0]["HostPort"])
    return ports
