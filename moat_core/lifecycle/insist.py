"""What a run is not opened without, whatever plugins are loaded: core insists on it (ADR 23).

Twice: when the plan is final and nothing is made yet, and when the container is up and the engine says what it started.
"""

from __future__ import annotations

from functools import reduce
from math import isclose
from typing import TYPE_CHECKING, Any

from moat_core.errors import PlanError, SandboxUnavailable
from moat_core.plan import check_honours, runtimes

if TYPE_CHECKING:
    from moat_core.lifecycle.run import Run

__all__ = ["insist_on_plan", "insist_on_started"]

_WAY_ROUND = "To run without isolation, say so: --no-sandbox, sandbox=False, or `sandbox: none`."


async def insist_on_plan(run: Run) -> None:
    """Refuse a plan that its runtime does not honour, or that is less isolated than the default unasked.

    Raises:
        PlanError: It asks for something that the runtime does not do.
        SandboxUnavailable: Nothing would isolate it, and nobody asked for that.
    """
    plan = run.plan
    if problems := check_honours(plan, runtimes(run.dispatcher)[plan.runtime]):
        raise PlanError(problems)
    if plan.sandbox is False or (plan.sandboxed and plan.oci_runtime):
        return
    if not await (await run.runtime()).isolation():
        raise SandboxUnavailable(
            "The run would share this machine's kernel, and nobody asked for that: no plugin isolates it.",
            hint=f"`moat plugins` shows whether gvisor, or what else isolates runs, is loaded. {_WAY_ROUND}",
        )


def insist_on_started(run: Run) -> None:
    """Refuse a container that the engine started otherwise than the plan says, before its main process may begin.

    Raises:
        SandboxUnavailable: It is less isolated, or less limited.
    """
    plan, info = run.plan, run.sandbox.info
    if plan.sandbox is not False and plan.sandboxed and info.oci_runtime != plan.oci_runtime:
        raise SandboxUnavailable(
            f"The engine started the container with '{info.oci_runtime}' instead of '{plan.oci_runtime}'.",
            hint=f"Look at the engine's settings. {_WAY_ROUND}",
            oci_runtime=info.oci_runtime,
        )
    for name, got in info.started_with.items():
        wanted = reduce(getattr, name.split("."), plan)
        if not _is_as_wanted(wanted, got):
            raise SandboxUnavailable(
                f"The engine started the container with {name} = {got!r} instead of {wanted!r}.",
                hint="The engine, or something between it and moat, does not do what it is asked for.",
            )


def _is_as_wanted(wanted: Any, got: Any) -> bool:
    """Compare; where nothing is wanted anything is right, and a reason (`Plan.privileged`) counts as whether."""
    if isinstance(got, bool):
        return bool(wanted) or not got
    if isinstance(wanted, float) and isinstance(got, int | float):
        return isclose(wanted, got, rel_tol=1e-6)  # engines count in billionths
    return wanted is None or wanted == got
