"""Phase 5: a last look into the live container, and a line when all is undone."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import anyio

from moat_core import RunResult, hookimpl
from moat_core.errors import PathMissing, RunOver
from moat_core.runtime import files

if TYPE_CHECKING:
    from moat_core.lifecycle import Run


# --- body ---
@hookimpl
async def moat_on_body_end(run: Run) -> None:
    try:
        report = await files.read(run.sandbox, "report.txt", limit_bytes=1024 * 1024)
    except (PathMissing, RunOver):
        return  # it wrote none, or the run never had a container
    await anyio.Path(run.home / "report.txt").write_bytes(report)


# --- closed ---
@hookimpl
async def moat_on_closed(result: RunResult) -> None:
    async with await anyio.open_file(f"{tempfile.gettempdir()}/runs.csv", "a") as file:
        await file.write(f"{result.run_id},{result.outcome.status},{result.duration_s:.1f}\n")
