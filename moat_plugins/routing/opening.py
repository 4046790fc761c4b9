"""A run's part: its name is claimed, the proxy is there, and its endpoints are written down."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs

from moat_core.errors import RunError
from moat_core.ledger import LedgerView
from moat_core.types import EnvValue, Problem
from moat_plugins.routing.config import DEFAULT_PORT, ProxyConfig
from moat_plugins.routing.names import make_env, make_urls
from moat_plugins.routing.process import ProxySlow, base_url, ensure, find_differences
from moat_plugins.routing.resources import AgentName, Route

if TYPE_CHECKING:
    from moat_core.config import Config
    from moat_core.lifecycle import Run
    from moat_core.plan import PlanBuilder, RunRequest

__all__ = ["DETAIL", "NameInUse", "add_to_plan", "open_routes", "prepare"]

DETAIL = "routing"
_TAKEN = frozenset({"moat"})


class NameInUse(RunError):
    """Another live run with ports has the agent's name."""

    code = "name-in-use"


def add_to_plan(request: RunRequest, config: Config, plan: PlanBuilder) -> None:
    """Tell the run its names, as far as they are known: the proxy may turn out to be on another port."""
    ports = {**config.core.ports, **request.ports}
    if not ports:
        return
    if plan.name in _TAKEN:
        plan.problem(
            f"A run with ports cannot be called {plan.name}: {plan.name}.localhost is the page about all runs.",
            "Choose another name.",
            where="--name" if request.name else "name",
        )
    section = config.section(ProxyConfig)
    base = base_url(section.port or DEFAULT_PORT)
    plan.details[DETAIL] = {"proxy": attrs.asdict(section), "base": base, "origin": plan.origin}
    for key, value in make_env(plan.name, ports, base).items():
        plan.set_env(key, value)
    for url in make_urls(plan.name, ports, base).values():
        plan.note(f"an endpoint is routed at {url}{'' if section.port else ', or at the port where the proxy runs'}")


@asynccontextmanager
async def prepare(run: Run) -> AsyncIterator[None]:
    """Claim the agent's name for as long as anything of the run is there, and have the proxy up.

    The claim comes first: a proxy that is about to end, since nobody needs it, looks for claims after it has let go.

    Raises:
        NameInUse: Another live run has it.
        HostError: The proxy cannot be had where it was asked for; one that is only slow is a warning.
    """
    endpoints = {port.endpoint: port.number for port in run.plan.ports}
    await run.acquire(AgentName(run.name, endpoints))
    _check_claim(run)
    detail = run.plan.details[DETAIL]
    options = {key: detail["proxy"][key] for key in ("idle", "timeout")}
    try:
        running = await ensure(run.moat_home, detail["proxy"]["port"], options)
    except ProxySlow as slow:
        # It reads of this run's names when it is there; until then the ports themselves answer.
        await run.warn(Problem(slow.message, f"The run goes on. {slow.hint}", where="routing"))
        run.urls.update(make_urls(run.name, endpoints, detail["base"]))
        yield
        return
    for problem in find_differences(running, options):
        await run.warn(problem)
    if running.base != detail["base"]:
        before = make_env(run.name, endpoints, detail["base"])
        after = make_env(run.name, endpoints, running.base)
        # What the user has set otherwise stays as it is.
        changed = {
            key: EnvValue(after[key], item.origin)
            for key, item in run.plan.env.items()
            if key in before and item.origin == detail["origin"]
        }
        run.replace_plan(attrs.evolve(run.plan, env={**run.plan.env, **changed}))
    run.urls.update(make_urls(run.name, endpoints, running.base))
    yield


def _check_claim(run: Run) -> None:
    """Of several that claim a name the first has it; each has written its claim down before it looks."""
    view = LedgerView(run.moat_home, [AgentName])
    try:
        for entry in view.read():
            assert isinstance(entry.resource, AgentName)
            if entry.run_id == run.id:
                return
            if entry.resource.agent == run.name and view.is_live(entry.run_id):
                raise NameInUse(
                    f"The name {run.name} is in use by the run {entry.run_id}, whose endpoints are reached by it.",
                    hint=f"Give this run another one with --name, or end that one: moat stop {entry.run_id}",
                )
    finally:
        view.close()


@asynccontextmanager
async def open_routes(run: Run) -> AsyncIterator[None]:
    """Write down where each endpoint is reached, now that the container is up."""
    for port in run.plan.ports:
        place = run.sandbox.info.ports.get(port.number, 0)
        await run.acquire(Route(run.name, port.endpoint, port.number, "127.0.0.1", place))
    yield
