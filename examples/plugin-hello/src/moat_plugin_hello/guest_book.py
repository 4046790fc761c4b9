"""A context around a run: what comes after its ``yield`` happens however the run ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from moat_core.lifecycle import Run

__all__ = ["guest_book"]


@asynccontextmanager
async def guest_book(run: Run) -> AsyncIterator[None]:
    """Write the run's name into ``guest-book`` in its folder, and how it ended when it does."""
    book = anyio.Path(run.home) / "guest-book"
    await book.write_text(f"{run.name} came\n")
    yield
    assert run.outcome is not None
    await book.write_text(await book.read_text() + f"{run.name} left: {run.outcome.status}\n")
