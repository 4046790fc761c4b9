"""`Sidecars` of a Docker engine: helper containers on the run's own network, in the ledger like the run's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moat_core.errors import EngineError, ImageError
from moat_core.runtime.base import SandboxInfo
from moat_core.runtime.facets import RunNetwork, Sidecar, Sidecars, SidecarSpec
from moat_core.types import Limits, RunState
from moat_plugins.docker import labels
from moat_plugins.docker.container import LOG, make_limits, make_name, make_privileges, make_tmpfs
from moat_plugins.docker.filelock import hold_lock
from moat_plugins.docker.images import pull_image
from moat_plugins.docker.resources import DockerContainer
from moat_plugins.docker.runtime import connect_run
from moat_plugins.docker.sandbox import DockerSandbox
from moat_plugins.docker.volumes import make_volumes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moat_core.lifecycle import Run
    from moat_plugins.docker.client import Engine

__all__ = ["DockerSidecars"]

_LOCK_S = 3600.0


class DockerSidecars(Sidecars):
    """See `Sidecars`. It holds nothing: each call uses the run's own connection."""

    async def start(self, run: Run, spec: SidecarSpec) -> Sidecar:
        """See `Sidecars`."""
        runtime = await connect_run(run)
        network = run.get(RunNetwork)
        await _ensure_image(run, runtime.engine, spec.image)
        volumes = await make_volumes(run, runtime, spec.volumes)
        container = DockerContainer(
            runtime.address,
            make_name(run.id, spec.role),
            make_sidecar_config(run, spec, network.name, volumes),
            timeout_s=runtime.engine.timeout_s,
        )
        made = await run.acquire(container)
        await runtime.engine.containers.put_files(made, spec.files)
        await runtime.engine.containers.start(made)
        found = await runtime.engine.containers.inspect(made)
        networks = (found.get("NetworkSettings") or {}).get("Networks") or {}
        address = str((networks.get(network.name) or {}).get("IPAddress", ""))
        info = SandboxInfo(made, run.id, spec.role, RunState.STARTING, run.plan.name, spec.oci_runtime or "")
        sandbox = DockerSandbox(runtime.engine, info, user="0:0", tty=False)
        await sandbox.refresh()
        return Sidecar(sandbox, address)


def make_sidecar_config(run: Run, spec: SidecarSpec, network: str, volumes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the body of POST /containers/create."""
    limits = spec.limits or Limits()
    marks = {**run.labels, labels.ROLE: spec.role}
    host: dict[str, Any] = {
        "Init": True,
        "NetworkMode": network,
        **make_privileges(spec.capabilities, spec.privileged),
        "IpcMode": "private",
        "PidsLimit": limits.pids,
        "LogConfig": LOG,
        "RestartPolicy": {"Name": "no"},
        "Mounts": list(volumes),
        "Tmpfs": make_tmpfs(spec.tmpfs),
        "ExtraHosts": [f"{name}:{address}" for name, address in {**run.hosts, **spec.hosts}.items()],
        "Dns": list(spec.dns),
        **make_limits(limits),
    }
    if spec.oci_runtime:
        host["Runtime"] = spec.oci_runtime
        marks[labels.OCI_RUNTIME] = spec.oci_runtime
    config: dict[str, Any] = {
        "Image": spec.image,
        "Hostname": spec.role,
        "Env": [f"{key}={value}" for key, value in spec.env.items()],
        "Labels": marks,
        "StopTimeout": max(1, round(run.grace_s)),
        "HostConfig": host,
        "NetworkingConfig": {"EndpointsConfig": {network: {"Aliases": [spec.role]}}},
    }
    if spec.command:
        config |= {"Entrypoint": list(spec.command), "Cmd": []}
    return config


async def _ensure_image(run: Run, engine: Engine, reference: str) -> None:
    if await engine.images.find(reference) is not None:
        return
    if run.plan.details.get("docker", {}).get("pull") == "never":
        raise ImageError(
            f"The engine has no image {reference}, and `docker.pull` is `never`.", hint=f"`docker pull {reference}`."
        )
    task = f"pull {reference}"

    def tell(text: str, done: int | None, total: int | None) -> None:
        run.progress(task, text, done=done, total=total, unit="bytes")

    async with hold_lock(run.locks, f"image {reference}", _LOCK_S):
        try:
            if await engine.images.find(reference) is None:
                await pull_image(engine, reference, tell)
        except EngineError as error:
            raise ImageError(error.message, hint=error.hint) from error
    run.progress(task, "done", finished=True)
