"""Phase 3, open: a run comes to life. Contexts, entered from top to bottom of this page, left in exact reverse.

Whatever is held for the run is held by a context: the code after its ``yield`` runs however the run ends, within
a time budget (``run.grace_s``), shielded from cancellation. ``run.outcome`` then tells how it ended. Anything
outside our own memory is made with ``await run.acquire(resource)`` and needs no code after the ``yield`` at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core.hooks.markers import spec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from moat_core.lifecycle import Run
    from moat_core.runtime.base import Sandbox
    from moat_core.types import ImageSpec


@spec.context()
def moat_open_run(run: Run) -> AbstractAsyncContextManager[None] | None:
    """Hold something for the whole run. Outermost: nothing of the run exists yet, and nothing will at exit."""


@spec.first(asynchronous=True)
def moat_resolve_image(run: Run) -> str | None:
    """Make sure that the image of ``run.plan.image`` exists, by pulling or building, and return its reference.

    An image is shared by runs and nobody's resource: make it under a lock, once.
    """


@spec.first(asynchronous=True)
def moat_build_image(run: Run, image: ImageSpec, labels: Mapping[str, str]) -> str | None:
    """Build IMAGE with LABELS, so that the run's engine has it, and return its reference; ``None``: another shall.

    Asked by whoever implements ``moat_resolve_image``, under its lock, before it builds by its own means. A step that
    fails raises `ImageError`; nobody tries again then.
    """


@spec.context()
def moat_open_network(run: Run) -> AbstractAsyncContextManager[None] | None:
    """Make what connects the run's containers to each other and to the world, before any of them exists."""


@spec.context()
def moat_open_services(run: Run) -> AbstractAsyncContextManager[None] | None:
    """Start sidecars and wait until they answer. Names that the run shall know go to ``run.add_host(name, ip)``."""


@spec.context(exactly_one=True)
def moat_open_sandbox(run: Run) -> AbstractAsyncContextManager[Sandbox] | None:
    """Create and start the run's container, held (`Sandbox.admit`), and yield it; core lets it begin.

    A runtime's plugin returns ``None`` unless ``run.plan.runtime`` is its own. None or two answers is an error.
    The output of the main process must be attached before it starts, so that not a byte is lost.
    """


@spec.context()
def moat_open_endpoints(run: Run) -> AbstractAsyncContextManager[None] | None:
    """Make the run's ports reachable; ``run.sandbox`` is up. Where a user finds one goes into ``run.urls``."""
