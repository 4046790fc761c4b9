"""Every agent's services at ``http://<endpoint>.<agent>.localhost:8080``.

Phases: start-up (the section, the verbs, the ledger's resources), plan (what a run is told of its names), open (the
claim to a name and the proxy; the routes), upkeep (whether this machine resolves such names; how the proxy is).
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
    from moat_core.plan import PlanBuilder, RunRequest
    from moat_core.types import Check, CommandInfo, StatusLine

_DETAIL = "routing"


@hookimpl
def moat_add_config(schema: ConfigSchema) -> None:
    """Claim ``proxy:``."""
    from moat_plugins.routing.config import ProxyConfig

    schema.add_section("proxy", ProxyConfig)


@hookimpl
def moat_register_commands() -> Iterable[CommandInfo]:
    """Bring ``moat proxy`` and ``moat open``."""
    from moat_core.types import CommandInfo

    return [
        CommandInfo("proxy", "Start, stop and look at what serves *.localhost.", "moat_plugins.routing.cli:proxy"),
        CommandInfo("open", "Open a run's endpoint in the browser.", "moat_plugins.routing.cli:open_"),
    ]


@hookimpl
def moat_register_resources() -> Iterable[type[Resource]]:
    """Name the claims and the routes."""
    from moat_plugins.routing.resources import AgentName, Route

    return [AgentName, Route]


@hookimpl
def moat_add_to_plan(request: RunRequest, config: Config, plan: PlanBuilder) -> None:
    """Tell the run how it is reached from outside."""
    from moat_plugins.routing.opening import add_to_plan

    add_to_plan(request, config, plan)


@hookimpl
def moat_open_run(run: Run) -> AbstractAsyncContextManager[None] | None:
    """Claim the agent's name, and have the proxy up."""
    if _DETAIL not in run.plan.details:
        return None
    from moat_plugins.routing.opening import prepare

    return prepare(run)


@hookimpl
def moat_open_endpoints(run: Run) -> AbstractAsyncContextManager[None] | None:
    """Write down where the endpoints are reached."""
    if _DETAIL not in run.plan.details:
        return None
    from moat_plugins.routing.opening import open_routes

    return open_routes(run)


@hookimpl
async def moat_find_faults(upkeep: Upkeep) -> Iterable[Check]:
    """Ask this machine's resolver for a name under ``localhost``, and the proxy whether it answers."""
    from moat_plugins.routing.resolver import check_resolver
    from moat_plugins.routing.upkeep import check_proxy

    return [await check_resolver(), *await check_proxy(upkeep.moat_home)]


@hookimpl
async def moat_add_to_status(upkeep: Upkeep) -> Iterable[StatusLine]:
    """Say where the proxy is."""
    from moat_plugins.routing.upkeep import describe_proxy

    return describe_proxy(upkeep.moat_home)
