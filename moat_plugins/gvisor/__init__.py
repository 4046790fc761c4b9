"""Runs are isolated by gVisor: its application kernel stands between the run and the host's kernel.

Phases: plan (ask for it, name servers, the check inside), open (is it there? Core sees whether it was got), upkeep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractAsyncContextManager

    from moat_core.config import Config, ConfigSchema
    from moat_core.ledger import Upkeep
    from moat_core.lifecycle import Run
    from moat_core.plan import PlanBuilder
    from moat_core.types import Check


@hookimpl
def moat_add_config(schema: ConfigSchema) -> None:
    """Claim ``gvisor:``."""
    from moat_plugins.gvisor.config import GvisorConfig

    schema.add_section("gvisor", GvisorConfig)


@hookimpl
def moat_add_to_plan(config: Config, plan: PlanBuilder) -> None:
    """Ask for gVisor, unless the user does not want it."""
    from moat_plugins.gvisor.intent import add_to_plan

    add_to_plan(config, plan)


@hookimpl
def moat_open_run(run: Run) -> AbstractAsyncContextManager[None] | None:
    """Make sure that the engine has it before anything is made, and explain a start that it failed."""
    if not run.plan.sandboxed:
        return None
    from moat_plugins.gvisor.gate import pass_gate

    return pass_gate(run)


@hookimpl
async def moat_find_faults(upkeep: Upkeep) -> Iterable[Check]:
    """Look at what the engine knows of gVisor."""
    from moat_plugins.gvisor.doctor import find_faults

    return await find_faults(upkeep)
