"""Runs are containers of a Docker engine. The only place that knows aiodocker.

Phases: startup (runtime, resource kinds, config), plan (name the runtime), open (image, network, container),
upkeep (leftovers, doctor, status). Nothing heavy is imported until a hook does its work: the client costs 200 ms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractAsyncContextManager

    from moat_core.config import Config, ConfigSchema
    from moat_core.ledger import Resource, Upkeep
    from moat_core.lifecycle import Run
    from moat_core.plan import PlanBuilder
    from moat_core.runtime.base import RuntimeInfo, Sandbox
    from moat_core.types import Check, Leftover, StatusLine

_NAME = "docker"


@hookimpl
def moat_add_config(schema: ConfigSchema) -> None:
    """Claim ``docker:``."""
    from moat_plugins.docker.config import DockerConfig

    schema.add_section("docker", DockerConfig)


@hookimpl
def moat_register_runtimes() -> Iterable[RuntimeInfo]:
    """Bring the runtime ``docker``."""
    from moat_core.runtime.base import RuntimeInfo
    from moat_plugins.docker.honours import HONOURS

    return [
        RuntimeInfo(
            _NAME,
            "moat_plugins.docker.runtime:DockerRuntime",
            "containers of a Docker engine",
            "moat_plugins.docker.probe:states",
            HONOURS,
        )
    ]


@hookimpl
def moat_register_resources() -> Iterable[type[Resource]]:
    """Bring containers, networks, volumes and images."""
    from moat_plugins.docker.resources import RESOURCES

    return RESOURCES


@hookimpl
def moat_choose_runtime() -> str | None:
    """Be the runtime that is taken when nobody names one."""
    return _NAME


@hookimpl
def moat_add_to_plan(config: Config, plan: PlanBuilder) -> None:
    """Put the section's values where the open phase finds them."""
    from moat_plugins.docker.config import DockerConfig

    if plan.runtime == _NAME:
        section = config.section(DockerConfig)
        plan.details["docker"] = {"pull": section.pull, "timeout_s": section.timeout}


@hookimpl
async def moat_resolve_image(run: Run) -> str | None:
    """Pull or build the image, if the engine has not got it."""
    if run.plan.runtime != _NAME:
        return None
    from moat_plugins.docker.images import resolve_image

    return await resolve_image(run)


@hookimpl
def moat_open_network(run: Run) -> AbstractAsyncContextManager[None] | None:
    """Choose or make the network that the run's containers are on."""
    if run.plan.runtime != _NAME:
        return None
    from moat_plugins.docker.network import open_network

    return open_network(run)


@hookimpl
def moat_open_sandbox(run: Run) -> AbstractAsyncContextManager[Sandbox] | None:
    """Make and start the container."""
    if run.plan.runtime != _NAME:
        return None
    from moat_plugins.docker.open_sandbox import open_sandbox

    return open_sandbox(run)


@hookimpl
async def moat_find_leftovers(upkeep: Upkeep) -> Iterable[Leftover]:
    """Sweep by label."""
    from moat_plugins.docker.leftovers import find_leftovers

    return await find_leftovers(upkeep)


@hookimpl
async def moat_find_faults(upkeep: Upkeep) -> Iterable[Check]:
    """Look at the engine."""
    from moat_plugins.docker.upkeep import find_faults

    return await find_faults(upkeep)


@hookimpl
async def moat_add_to_status(upkeep: Upkeep) -> Iterable[StatusLine]:
    """Tell of the engine, its images and networks."""
    from moat_plugins.docker.upkeep import add_to_status

    return await add_to_status(upkeep)
