"""``docker:dind``: a run has a Docker engine of its own, in gVisor without any privilege on the host.

Phases: startup (the dependency, ``docker_dind:``), plan (storage, privileges, the init step), open (the OCI runtime).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractAsyncContextManager

    from moat_core.config import Config, ConfigSchema
    from moat_core.lifecycle import Run
    from moat_core.plan import PlanBuilder
    from moat_core.types import DependencyInfo


@hookimpl
def moat_add_config(schema: ConfigSchema) -> None:
    """Claim ``docker_dind:``."""
    from moat_plugins.docker_dind.config import DockerDindConfig

    schema.add_section("docker_dind", DockerDindConfig)


@hookimpl
def moat_register_dependencies() -> Iterable[DependencyInfo]:
    """Offer ``docker:dind``."""
    from moat_plugins.docker_dind.install import DEPENDENCY

    return [DEPENDENCY]


@hookimpl(trylast=True)
def moat_add_to_plan(config: Config, plan: PlanBuilder) -> None:
    """Add the engine, if it was asked for. Last, so that it is known who the user is and what isolates."""
    if "docker:dind" in plan.details.get("dependencies", ()):
        from moat_plugins.docker_dind.contribute import add_to_plan

        add_to_plan(config, plan)


@hookimpl(trylast=True)
def moat_open_run(run: Run) -> AbstractAsyncContextManager[None] | None:
    """Choose the OCI runtime. Innermost, so that whoever decides about isolation has decided."""
    if "docker_dind" not in run.plan.details:
        return None
    from moat_plugins.docker_dind.gate import pass_gate

    return pass_gate(run)
