"""Images are built by BuildKit: a client of its own (``from moat_plugins.buildkit.api import BuildKit``).

With ``docker:dind`` a BuildKit comes in a container beside the run's.

Phases: startup (config), plan (the sidecar), open (its cache; build the run's image; start the sidecar). Nothing heavy
is imported until an image is to be built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from moat_core.config import Config, ConfigSchema
    from moat_core.lifecycle import Run
    from moat_core.plan import PlanBuilder
    from moat_core.types import ImageSpec


@hookimpl
def moat_add_config(schema: ConfigSchema) -> None:
    """Claim ``buildkit:``."""
    from moat_plugins.buildkit.config import BuildKitConfig

    schema.add_section("buildkit", BuildKitConfig)


@hookimpl(trylast=True)
def moat_add_to_plan(config: Config, plan: PlanBuilder) -> None:
    """Add the sidecar to a run that has an engine of its own. Last, so that it is known whether it has."""
    if "docker:dind" in plan.details.get("dependencies", ()):
        from moat_plugins.buildkit.contribute import add_to_plan

        add_to_plan(config, plan)


@hookimpl
def moat_open_run(run: Run) -> AbstractAsyncContextManager[None] | None:
    """Hold the sidecar's cache, of which one run of a name has the use."""
    if "buildkit" not in run.plan.details:
        return None
    from moat_plugins.buildkit.cache import hold_kept

    return hold_kept(run)


@hookimpl
def moat_open_services(run: Run) -> AbstractAsyncContextManager[None] | None:
    """Start the sidecar, and wait until it answers."""
    if "buildkit" not in run.plan.details:
        return None
    from moat_plugins.buildkit.sidecar import open_sidecar

    return open_sidecar(run)


@hookimpl
async def moat_build_image(run: Run, image: ImageSpec, labels: Mapping[str, str]) -> str | None:
    """Build with ``BUILDKIT_HOST``'s BuildKit, else the engine's own; pass where there is none."""
    from moat_plugins.buildkit.images import build_image

    return await build_image(run, image, labels)
