"""Phase 4: a plugin that watches. The lines go to `audit.log` in the run's own folder."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from moat_core import Command, hookimpl
from moat_core.events import Event

if TYPE_CHECKING:
    from moat_core.ledger import LedgerStep
    from moat_core.lifecycle import Run


async def _note(run: Run, text: str) -> None:
    async with await anyio.open_file(run.home / "audit.log", "a") as file:
        await file.write(f"{time.time():.3f} {text}\n")


# --- exec ---
@hookimpl
@asynccontextmanager
async def moat_around_exec(run: Run, command: Command) -> AsyncIterator[None]:
    started = time.monotonic()
    yield  # the command runs here
    await _note(run, f"{command.argv[0]} took {time.monotonic() - started:.3f} s")


# --- event ---
@hookimpl
async def moat_on_event(run: Run, event: Event) -> None:
    await _note(run, type(event).__name__)


# --- ledger ---
class StepCounter:
    """A plugin may be an object, too: `Moat(plugins={"counter": StepCounter()})`."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    @hookimpl
    async def moat_on_ledger_step(self, step: LedgerStep) -> None:
        self.steps.append(f"{step.step} {step.resource.kind if step.resource else 'run'}")
