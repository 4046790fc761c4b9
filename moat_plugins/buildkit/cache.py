"""What the sidecar's cache is kept in, for the runs of one agent name in one folder, one at a time.

Without gVisor it is the sidecar's own folder, on a volume. In gVisor that cannot be (see `sidecar`), so each plain
`docker build` hands its cache out (``--cache-to type=local``, of which only new layers are sent) to a volume of the
run's, and the next run's builds are given it.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs

from moat_core.runtime.locks import hold_cache
from moat_core.types import Problem, Volume

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moat_core.lifecycle import Run

__all__ = ["FOLDER", "VOLUME", "IsKept", "hold_kept"]

FOLDER = "/var/lib/moat-buildkit"
"""Where it is in a run in gVisor."""
VOLUME = "buildkit"


@attrs.frozen
class IsKept:
    """Whether this run has the cache of its name; another has it otherwise."""

    here: bool


@asynccontextmanager
async def hold_kept(run: Run) -> AsyncIterator[None]:
    """Provide `IsKept`; without it, what RUN was to have for a cache goes with it."""
    with hold_cache(run.locks, VOLUME, run.name, run.plan.workspace) as is_ours:
        if not is_ours:
            run.replace_plan(attrs.evolve(run.plan, volumes=tuple(map(_not_kept, run.plan.volumes))))
            message = f"Another run of {run.name} here uses its BuildKit cache; this one starts with an empty one."
            await run.warn(Problem(message, "Give runs at the same time different names.", "buildkit"))
        run.provide(IsKept(is_ours))
        yield


def _not_kept(volume: Volume) -> Volume:
    return attrs.evolve(volume, cache="") if volume.name == VOLUME else volume
