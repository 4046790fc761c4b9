"""Phase 2: a plugin adds to the plan, and refuses one that it does not like."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable

from moat_core import Plan, hookimpl
from moat_core.plan import PlanBuilder
from moat_core.types import Problem, Tmpfs


# --- runtime ---
@hookimpl
def moat_choose_runtime() -> str | None:
    return os.environ.get("TEAM_RUNTIME") or None


# --- add ---
@hookimpl
def moat_add_to_plan(plan: PlanBuilder) -> None:
    plan.set_env("TEAM", "green")
    plan.add_tmpfs(Tmpfs("/scratch", size_bytes=32 * 1024 * 1024, options=("mode=1777",)))
    plan.add_init_step("motto", f"printf '%s\\n' {shlex.quote('be kind')} >/etc/motto")
    plan.note("a team's motto in /etc/motto")


# --- check ---
@hookimpl
def moat_check_plan(plan: Plan) -> Iterable[Problem]:
    for mount in plan.mounts:
        if mount.source == os.path.expanduser("~/.ssh"):
            yield Problem(
                f"{mount.source} is mounted, and our keys are in it.",
                "Leave that mount out.",
                where="team rules",
            )
