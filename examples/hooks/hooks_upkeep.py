"""Phase 6: what a plugin has to say when no run is asked for."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hooks_startup import ScratchFolder

from moat_core import hookimpl
from moat_core.types import Check, Leftover, StatusLine

if TYPE_CHECKING:
    from moat_core.ledger import Upkeep

_GIB = 1024**3


def _folders() -> list[Path]:
    return sorted(Path(tempfile.gettempdir()).glob("moat-scratch-run-*"))


# --- leftovers ---
@hookimpl
async def moat_find_leftovers(upkeep: Upkeep) -> Iterable[Leftover]:
    found = []
    for folder in _folders():
        run_id = folder.name.removeprefix("moat-scratch-")
        if not upkeep.is_live(run_id) and not upkeep.is_known(run_id):
            found.append(
                Leftover(
                    kind="folder",
                    name=str(folder),
                    reason="No run knows it.",
                    resource=ScratchFolder(str(folder)),
                    run_id=run_id,
                )
            )
    return found


# --- faults ---
@hookimpl
async def moat_find_faults() -> Iterable[Check]:
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < _GIB:
        return [Check("scratch space", "warning", "Less than 1 GiB is free for scratch.", "Remove old files there.")]
    return [Check("scratch space", "ok", f"{free // _GIB} GiB are free for scratch.")]


# --- status ---
@hookimpl
async def moat_add_to_status() -> Iterable[StatusLine]:
    count = len(_folders())
    return [StatusLine("disk", "scratch", f"{count} scratch folders", {"folders": count})]
