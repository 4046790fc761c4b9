"""Phase 3: what a plugin holds for a run, it holds in a context."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import attrs
from anyio.abc import TaskStatus
from hooks_startup import ScratchFolder

from moat_core import hookimpl

if TYPE_CHECKING:
    from moat_core.lifecycle import Run
    from moat_core.types import ImageSpec


# --- run ---
@attrs.frozen
class Scratch:
    """Where this run's scratch folder is; other plugins ask `run.get(Scratch)`."""

    path: str


@hookimpl
@asynccontextmanager
async def moat_open_run(run: Run) -> AsyncIterator[None]:
    folder = await run.acquire(ScratchFolder(f"{tempfile.gettempdir()}/moat-scratch-{run.id}"))
    run.provide(Scratch(folder))
    yield
    # Here everything else of the run is undone. The folder itself needs no line: its release does that.


# --- images ---
@hookimpl
def moat_build_image(run: Run, image: ImageSpec) -> None:
    run.progress("images", f"{image.reference} is not there yet; the engine's own builder makes it")


# --- services ---
async def _beat(path: anyio.Path, *, task_status: TaskStatus[None]) -> None:
    await path.write_text(f"{time.time()}\n")
    task_status.started()
    while True:
        await anyio.sleep(1)
        await path.write_text(f"{time.time()}\n")


@hookimpl
@asynccontextmanager
async def moat_open_services(run: Run) -> AsyncIterator[None]:
    await run.start_service("heartbeat", _beat, anyio.Path(run.get(Scratch).path) / "beat")
    yield


# --- endpoints ---
@hookimpl
@asynccontextmanager
async def moat_open_endpoints(run: Run) -> AsyncIterator[None]:
    published = run.sandbox.info.ports
    urls = {port.endpoint: f"http://127.0.0.1:{published[port.number]}" for port in run.plan.ports}
    run.urls.update(urls)
    path = anyio.Path(run.home) / "urls.json"
    await path.write_text(json.dumps(urls))
    yield
    await path.unlink()
