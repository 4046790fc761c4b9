"""What surrounds a command in the caller's own task, where any await may be cancelled: nothing is cut short by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from moat_core.lifecycle import Run, UndoStack

if TYPE_CHECKING:
    from moat_core.types import Command

__all__ = ["outlast", "surrounded"]


@asynccontextmanager
async def surrounded(run: Run, command: Command) -> AsyncIterator[None]:
    """Surround the body with every ``moat_around_exec`` context; each is left however the command ended.

    They are held by a task of their own: a cancellation of the caller's that comes while they are left must neither
    cut them short nor be lost.
    """
    if not run.dispatcher.has("moat_around_exec"):
        yield
        return
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def hold() -> None:
        stack = UndoStack(run.grace_s, run.problems)
        try:
            for wanted in run.dispatcher.contexts("moat_around_exec", run=run, command=command):
                context = wanted.make()
                if context is not None:
                    with run.dispatcher.calling(wanted.plugin, wanted.hook):
                        await stack.enter(wanted.plugin, wanted.hook, context)
            ready.set_result(None)
            await leave.wait()
        finally:
            await stack.unwind()

    holder = asyncio.create_task(hold(), name=f"moat {run.id} around")
    try:
        waited: set[asyncio.Future[Any]] = {holder, ready}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            yield
    finally:
        leave.set()
        if not ready.done():
            holder.cancel()
        await outlast(holder)
    if not ready.done():
        holder.result()


async def outlast(task: asyncio.Task[Any], on_cancel: Callable[[], None] = lambda: None) -> None:
    """Wait for the end of TASK, whatever happens to us; a cancellation that came meanwhile is raised after it."""
    cancelled: asyncio.CancelledError | None = None
    # The scope keeps out anyio's cancellation, which would come again at every await; task.cancel() comes in.
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
                on_cancel()
    if cancelled is not None:
        raise cancelled
