"""The plugin ``fake``: a runtime on a `FakeEngine`. Named in ``MOAT_PLUGINS``, it is there for every process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core.hooks import hookimpl
from moat_core.plan import list_demands
from moat_core.runtime.base import RuntimeInfo

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from moat_core.config import Config
    from moat_core.ledger import Resource, Upkeep
    from moat_core.lifecycle import Run
    from moat_core.plan import PlanBuilder, RunRequest
    from moat_core.runtime.base import Sandbox
    from moat_core.types import Leftover

_NAME = "fake"


@hookimpl
def moat_register_runtimes() -> list[RuntimeInfo]:
    """Offer the runtime ``fake``."""
    return [
        RuntimeInfo(
            _NAME,
            "moat_core.testing.fakes:FakeRuntime",
            "Files in a folder.",
            probe="moat_core.testing.probe:states",
            honours=list_demands(),  # nothing really runs, so nothing is exceeded
        )
    ]


@hookimpl
def moat_add_to_plan(plan: PlanBuilder) -> None:
    """Take up what built-in plugins would: a test loads only those that it is about."""
    plan.claim("workspace", "base_image", "dependencies")
    if plan.runtime == _NAME:
        plan.claim("sandbox")


@hookimpl
def moat_register_resources() -> list[type[Resource]]:
    """What it puts in the ledger."""
    from moat_core.testing.fakes import FakeContainer, FakeNetwork

    return [FakeContainer, FakeNetwork]


@hookimpl
def moat_choose_runtime(request: RunRequest, config: Config) -> str:  # noqa: ARG001
    """Be the one, wherever this plugin is loaded."""
    return _NAME


@hookimpl
async def moat_resolve_image(run: Run) -> str | None:
    """Find any image."""
    if run.plan.runtime != _NAME:
        return None
    from moat_core.testing.fakes import resolve_image

    return await resolve_image(run)


@hookimpl
def moat_open_network(run: Run) -> AbstractAsyncContextManager[None] | None:
    """Make the run's network."""
    if run.plan.runtime != _NAME:
        return None
    from moat_core.testing.fakes import open_network

    return open_network(run)


@hookimpl
def moat_open_sandbox(run: Run) -> AbstractAsyncContextManager[Sandbox] | None:
    """Make the run's container, unless the plan says ``fake.sandbox`` is false in its details: a test's own will."""
    if run.plan.runtime != _NAME or run.plan.details.get("fake.sandbox") is False:
        return None
    from moat_core.testing.fakes import open_sandbox

    return open_sandbox(run)


@hookimpl
async def moat_find_leftovers(upkeep: Upkeep) -> list[Leftover]:
    """Find, by label, what no row knows."""
    from moat_core.testing.fakes import find_leftovers

    return await find_leftovers(upkeep)
