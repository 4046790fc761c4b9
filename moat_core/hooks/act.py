"""Phase 4, act: while the run is alive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core.hooks.markers import spec

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from moat_core.events import Event
    from moat_core.ledger import LedgerStep
    from moat_core.lifecycle import Run
    from moat_core.types import Command


@spec.context()
def moat_around_exec(run: Run, command: Command) -> AbstractAsyncContextManager[None] | None:
    """Surround one command: limits, audit, timing. Entered before it starts, left after it has ended."""


@spec.event()
async def moat_on_event(run: Run, event: Event) -> None:
    """Be told what happens in a run: see `moat_core.events`. Coarse events only, never a piece of output.

    One plugin at a time, in the run's own order: a slow listener delays the run. Failures are recorded as
    problems of the run and stop nothing.
    """


@spec.event()
async def moat_on_ledger_step(step: LedgerStep) -> None:
    """Be told every step of making and undoing a resource, just after it was done: audit, and the chaos test.

    Told by the run's owner only, not by the reaper. Failures stop nothing; a listener that takes longer than a
    tenth of the run's grace is left behind.
    """
