"""The workspace: the host folder that a run works in, at ``/workspace``, as the user who owns it.

Phases: plan (the mount, the user, a git worktree's repository, the pre_run hook), open (what stays hidden).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core.hooks import hookimpl

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from moat_core.config import Config
    from moat_core.lifecycle import Run
    from moat_core.plan import PlanBuilder, RunRequest


@hookimpl(tryfirst=True)
def moat_add_to_plan(request: RunRequest, config: Config, plan: PlanBuilder) -> None:
    """Bind the workspace and become its owner; first, since others want to know who the run's user is."""
    from moat_plugins.workspace.binding import add_to_plan

    add_to_plan(request.workspace, config.core.hooks.pre_run, plan)


@hookimpl
def moat_open_run(run: Run) -> AbstractAsyncContextManager[None]:
    """Hide moat's own state from the run, and fit the user to the engine."""
    from moat_plugins.workspace.shield import shield

    return shield(run)
