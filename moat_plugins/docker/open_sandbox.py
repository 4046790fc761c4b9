"""The context that makes a run's container: create, attach, start, yield; then core admits it (`Sandbox.admit`).

The container is the ledger's. What is left to do at the end is to let the command end by itself where that was asked
for; then its release removes it.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from moat_core.errors import EngineError, HookContractError, ImageError, MoatError, SandboxUnavailable
from moat_core.runtime.base import SandboxInfo
from moat_core.runtime.facets import RunNetwork
from moat_core.types import Problem, RunState
from moat_plugins.docker.container import make_config, make_name
from moat_plugins.docker.environment import ImageEnv
from moat_plugins.docker.images import resolve_image
from moat_plugins.docker.network import ensure_shared
from moat_plugins.docker.resources import DockerContainer
from moat_plugins.docker.runtime import connect_run
from moat_plugins.docker.sandbox import DockerSandbox
from moat_plugins.docker.volumes import make_volumes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from moat_core.lifecycle import Run
    from moat_plugins.docker.runtime import DockerRuntime

__all__ = ["open_sandbox"]

_STOP_SHARE = 0.5


@asynccontextmanager
async def open_sandbox(run: Run) -> AsyncIterator[DockerSandbox]:
    """Make and start the run's container; see the module.

    Raises:
        SandboxUnavailable: The engine does not know the OCI runtime that was asked for.
        EngineError: It could not be created or started.
    """
    runtime = await connect_run(run)
    sandbox = await _create(run, runtime)
    try:
        await sandbox.attach()
        await _start(run, runtime, sandbox)
        if run.plan.ports and not runtime.engine.endpoint.is_here:
            await run.warn(_unreachable(runtime.address))
        yield sandbox
        await _let_it_end(run, sandbox)
    finally:
        await sandbox.detach()


def _unreachable(address: str) -> Problem:
    return Problem(
        f"The engine at {address} is on another machine: the ports of this run are published there, on its 127.0.0.1.",
        "Start moat on that machine to have them routed.",
    )


async def _create(run: Run, runtime: DockerRuntime) -> DockerSandbox:
    """Create it. What `moat clean` removed since we looked is made again, once: the image, the shared network."""
    plan = run.plan
    try:
        container, config = await _acquire(run, runtime, run.image)
    except ImageError:
        container, config = await _acquire(run, runtime, await resolve_image(run))
    except EngineError as error:
        await _make_network_again(run, runtime, error)
        container, config = await _acquire(run, runtime, run.image)
    info = SandboxInfo(container, run.id, "main", RunState.STARTING, plan.name, plan.oci_runtime or "")
    user = f"{plan.user.uid}:{plan.user.gid}"
    return DockerSandbox(runtime.engine, info, user=user, tty=plan.tty, is_idle=plan.command is None, env=config["Env"])


async def _acquire(run: Run, runtime: DockerRuntime, image: str) -> tuple[str, dict[str, Any]]:
    config = make_config(
        run.plan,
        image=image,
        labels_=run.labels,
        hosts=run.hosts,
        network=run.get(RunNetwork).name,
        volumes=await make_volumes(run, runtime, run.plan.volumes),
        stop_s=max(1, round(run.grace_s)),
        image_env=await _find_image_env(run, runtime, image),
    )
    container = DockerContainer(runtime.address, make_name(run.id), config, timeout_s=runtime.engine.timeout_s)
    made: str = await run.acquire(container)
    await runtime.engine.containers.put_files(made, run.files)
    return made, config


async def _find_image_env(run: Run, runtime: DockerRuntime, image: str) -> Mapping[str, str]:
    """Return what `resolve_image` saw; another plugin's answer to ``moat_resolve_image`` is looked at here."""
    try:
        return run.get(ImageEnv).values
    except HookContractError:
        found = await runtime.engine.images.find(image)
        run.provide(ImageEnv.of(found or {}))
        return run.get(ImageEnv).values


async def _start(run: Run, runtime: DockerRuntime, sandbox: DockerSandbox) -> None:
    """Start it. A shared network that somebody removed since we looked is made again, once."""
    containers = runtime.engine.containers
    try:
        try:
            await containers.start(sandbox.info.id)
        except EngineError as error:
            await _make_network_again(run, runtime, error)
            # The engine has let go of the streams of a start that failed, and the word would reach nobody.
            await sandbox.detach()
            await sandbox.attach()
            await containers.start(sandbox.info.id)
    except SandboxUnavailable as error:
        raise SandboxUnavailable(
            f"The OCI runtime '{run.plan.oci_runtime}' was registered when it was checked and is gone now.",
            hint="Somebody changed the engine's daemon.json meanwhile: register it again and reload the engine.",
            **error.details,
        ) from error
    await sandbox.refresh()


async def _make_network_again(run: Run, runtime: DockerRuntime, error: EngineError) -> None:
    """Make the shared network again if ERROR says that it is gone; else raise ERROR (some engines say it late)."""
    text = str(error.details.get("engine_message", "")).lower()
    if not run.get(RunNetwork).shared or "network" not in text or "not found" not in text:
        raise error
    await ensure_shared(runtime.engine, run.locks, again=True)


async def _let_it_end(run: Run, sandbox: DockerSandbox) -> None:
    """Ask a command that still runs to end, before its removal kills it; a kept container is to be stopped anyway."""
    if run.detached or run.main_ended is not None or not (run.plan.keep or run.plan.command is not None):
        return
    try:
        await sandbox.stop(run.grace_s * _STOP_SHARE)
    except MoatError:
        if run.plan.keep:
            raise  # else its removal is next, and has more patience
