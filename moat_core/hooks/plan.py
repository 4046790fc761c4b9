"""Phase 2, plan: what the run will be. Synchronous and pure: reading files is all that may be done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core.hooks.markers import spec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moat_core.config import Config
    from moat_core.plan import Plan, PlanBuilder, RunRequest
    from moat_core.types import Problem


@spec.first()
def moat_choose_runtime(request: RunRequest, config: Config) -> str | None:
    """Name the runtime for this run, or pass.

    Asked when neither ``--runtime`` nor ``runtime:`` names one. Third parties are asked before built-ins.
    """


@spec.collect()
def moat_add_to_plan(request: RunRequest, config: Config, plan: PlanBuilder) -> None:
    """Add what this plugin contributes to the run: mounts, environment, init steps, image, capabilities.

    Called once a plan, in plugin order (built-ins by name, then third parties). What the
    user asks for by config or flag is added after all plugins, and wins.

    Args:
        request: What was asked for; frozen.
        config: The merged config; ``config.section(AttrsClass)`` is this plugin's own.
        plan: See `moat_core.plan.PlanBuilder`. Contributions are recorded under the plugin's name, which
            ``--dry-run`` shows. Report what is wrong with ``plan.problem(...)`` rather than raising, so that
            the user sees all problems at once.
    """


@spec.collect()
def moat_check_plan(plan: Plan) -> Iterable[Problem]:
    """Look at the finished plan and name what cannot work. Any problem of severity ``error`` stops here."""
