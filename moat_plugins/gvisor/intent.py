"""What is asked for while the plan is made. Whether the engine has it is seen when the run opens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_plugins.gvisor.config import GvisorConfig
from moat_plugins.gvisor.dns import choose_servers, make_step

if TYPE_CHECKING:
    from moat_core.config import Config
    from moat_core.plan import PlanBuilder

__all__ = ["CHECK_STEP", "DNS_STEP", "add_to_plan"]

CHECK_STEP = "gvisor check"
DNS_STEP = "gvisor name servers"

# runsc's /proc/version names this build date on every platform; since 2025 the release says gvisor, too.
# Only built-ins, and before anything else: a container that is not isolated must not get any further.
_CHECK = """\
moat_kernel=
IFS= read -r moat_kernel </proc/version || :
case $moat_kernel in
  *'#1 SMP Sun Jan 10 15:06:54 PST 2016'* | *-gvisor* | *gVisor*) ;;
  *)
    echo 'moat: this container was to be isolated by gVisor and is not; the command was not started.' >&2
    echo 'moat: its kernel says:' "$moat_kernel" >&2
    exit 125 ;;
esac
"""


def add_to_plan(config: Config, plan: PlanBuilder) -> None:
    """Ask for gVisor in a plan for a Docker engine; the only runtime so far that lets its caller choose."""
    if plan.runtime != "docker":
        return
    plan.claim("sandbox")
    if plan.sandbox is False:
        plan.warn(
            "Running without gVisor: the run shares the host's kernel.",
            "Leave out --no-sandbox, 'sandbox: none' and MOAT_NO_SANDBOX to have it isolated.",
        )
        return
    plan.oci_runtime = config.section(GvisorConfig).runtime
    plan.sandboxed = True
    plan.details["gvisor"] = {
        "insisted": plan.sandbox is True,
        "dns_from_config": bool(plan.dns),
    }
    plan.add_init_step(CHECK_STEP, _CHECK, order=0, inline=True)
    plan.note(f"isolated by gVisor (the engine's OCI runtime '{plan.oci_runtime}')")
    if plan.network == "none":
        return
    if not plan.dns:
        plan.dns, is_guess = choose_servers()
        if is_guess:
            plan.warn(
                f"This host names no name server that a container can reach; using {', '.join(plan.dns)}.",
                "Set 'container: {dns: [...]}' to name others.",
            )
    plan.add_init_step(DNS_STEP, make_step(plan.dns), order=5, inline=True)
