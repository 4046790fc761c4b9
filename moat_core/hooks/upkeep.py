"""Phase 6, upkeep: outside any run. Asked by ``moat doctor``, ``status`` and ``clean``, and by the reaper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core.hooks.markers import spec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moat_core.ledger import Upkeep
    from moat_core.types import Check, Leftover, StatusLine


@spec.collect(asynchronous=True)
async def moat_find_leftovers(upkeep: Upkeep) -> Iterable[Leftover]:
    """Find what no row of the ledger knows and nobody needs: by label, in every state.

    Args:
        upkeep: ``upkeep.is_live(run_id)`` tells whether a run's owner still holds its lock (never touch those);
            ``upkeep.is_known(run_id)`` whether the ledger has rows for it; ``upkeep.owner`` is what the label
            ``moat.owner`` says of things of ours (never touch another's); ``upkeep.addresses()`` tells where to
            look, ``upkeep.connection(...)`` connects, ``upkeep.report(problem)`` tells what could not be seen;
            ``upkeep.automatic`` is true when the reaper asks: only quick looks, only things of dead runs.
    """


@spec.collect(asynchronous=True)
async def moat_find_faults(upkeep: Upkeep) -> Iterable[Check]:
    """Check what this plugin needs of the machine, for ``moat doctor``. Report what is well, too."""


@spec.collect(asynchronous=True)
async def moat_add_to_status(upkeep: Upkeep) -> Iterable[StatusLine]:
    """Say what this plugin holds on the machine, for ``moat status``: images, networks, disk."""
