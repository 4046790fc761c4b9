"""When a run opens: does its engine have gVisor? That the container really got it core sees to."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs

from moat_core.errors import HostError, SandboxUnavailable
from moat_plugins.gvisor.explain import INSTALL, WAY_ROUND, explain
from moat_plugins.gvisor.intent import CHECK_STEP, DNS_STEP

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from moat_core.lifecycle import Run
    from moat_core.plan import Plan
    from moat_core.runtime.base import OciRuntimes

__all__ = ["pass_gate"]


@asynccontextmanager
async def pass_gate(run: Run) -> AsyncIterator[None]:
    """Let RUN open only if its engine has what its plan asks for; at the end explain a start that failed.

    The engine is asked once a connection, by the runtime.

    Raises:
        SandboxUnavailable: It has not.
    """
    wanted = run.plan.oci_runtime
    known = await (await run.runtime()).oci_runtimes()
    if known is not None and (known.is_desktop or known.engine_os != "linux"):
        _do_without(run)
        yield
        return
    _check_registered(known, wanted)
    yield
    if run.outcome is not None and run.outcome.error is not None:
        _add_explanation(run.outcome.error)


def _check_registered(known: OciRuntimes | None, wanted: str | None) -> None:
    if known is None:
        raise SandboxUnavailable("This runtime does not tell whether it has gVisor.", hint=WAY_ROUND)
    if wanted not in known.names:
        raise SandboxUnavailable(
            f"gVisor is not installed on this engine: it has {', '.join(known.names)}, but no '{wanted}'.",
            hint=INSTALL,
            oci_runtimes=list(known.names),
        )


def _do_without(run: Run) -> None:
    """Take gVisor out of the plan: a desktop's engine is in a virtual machine of its own already.

    Its name servers stay its own, too: only they know the host's names and VPNs there.
    """
    details = run.plan.details.get("gvisor", {})
    if details.get("insisted"):
        raise SandboxUnavailable(
            "gVisor cannot be had on a desktop engine: nothing can be registered in its virtual machine.",
            hint="Leave out --sandbox, or sandbox=True: the virtual machine isolates already.",
        )
    steps = tuple(step for step in run.plan.init_steps if step.name not in {CHECK_STEP, DNS_STEP})
    dns = run.plan.dns if details.get("dns_from_config") else ()
    plan: Plan = attrs.evolve(run.plan, oci_runtime=None, sandboxed=False, init_steps=steps, dns=dns)
    run.replace_plan(plan)


def _add_explanation(error: BaseException) -> None:
    """Say in ERROR, which the user is about to see, why the start failed; the engine's words stay."""
    for cause in _chain(error):
        said = str(cause.details.get("engine_message", "")) if isinstance(cause, HostError) else ""
        if isinstance(cause, HostError) and (found := explain(said)):
            cause.message = found.message
            cause.hint = f"{found.hint}\nThe engine said: {said}"
            return


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__
