"""``docker:host``: the run may use the engine it runs on, through a guard that lets it see only what it made itself.

Phases: start-up (the dependency, the ledger's resource), plan (the way in), open (the private folder, the guard).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractAsyncContextManager

    from moat_core.config import Config, ConfigSchema
    from moat_core.ledger import Resource
    from moat_core.lifecycle import Run
    from moat_core.plan import PlanBuilder
    from moat_core.types import DependencyInfo

_DETAIL = "docker_host"


@hookimpl
def moat_add_config(schema: ConfigSchema) -> None:
    """Claim ``docker_host:``."""
    from moat_plugins.docker_host.config import DockerHostConfig

    schema.add_section("docker_host", DockerHostConfig)


@hookimpl
def moat_register_dependencies() -> Iterable[DependencyInfo]:
    """Offer ``docker:host``."""
    from moat_core.types import DependencyInfo

    summary = "the engine that the run itself is on, guarded"
    widens = "the engine that all runs are on, through a guard; what is built there is built not in gVisor"
    return [DependencyInfo("docker:host", summary, implies=("docker-cli",), widens=widens)]


@hookimpl
def moat_register_resources() -> Iterable[type[Resource]]:
    """Name the private folder."""
    from moat_plugins.docker_host.folder import GuardFolder

    return [GuardFolder]


@hookimpl(trylast=True)
def moat_add_to_plan(config: Config, plan: PlanBuilder) -> None:
    """Add the way to the engine, once it is known what else the run is."""
    from moat_plugins.docker_host.contribute import add_to_plan

    add_to_plan(config, plan)


@hookimpl(trylast=True)
def moat_open_run(run: Run) -> AbstractAsyncContextManager[None] | None:
    """Make the private folder and mount it, once it is known who the run's user is."""
    if _DETAIL not in run.plan.details:
        return None
    from moat_plugins.docker_host.opening import prepare

    return prepare(run)


@hookimpl
def moat_open_services(run: Run) -> AbstractAsyncContextManager[None] | None:
    """Serve the guard."""
    if _DETAIL not in run.plan.details:
        return None
    from moat_plugins.docker_host.opening import open_guard

    return open_guard(run)
