"""Phase 5, finish: a run is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core.hooks.markers import spec

if TYPE_CHECKING:
    from moat_core.lifecycle import Run, RunResult


@spec.event()
async def moat_on_body_end(run: Run) -> None:
    """The body has ended, all contexts are still open: the last look at a live container. ``run.outcome`` is set.

    Bounded by ``run.grace_s`` in all, and shielded: after a cancellation it is told, too.
    """


@spec.event()
async def moat_on_closed(result: RunResult) -> None:
    """Everything of the run is undone; ``result.problems`` tells what was not."""
