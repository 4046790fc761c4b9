"""A run is cancelled at every single point at which it waits, and nothing of it is ever left.

The points are counted, not listed: a run is let go for n turns of the event loop and cancelled then, for every n
until it is over before that.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import anyio
import pytest

from moat_core import hookimpl

pytestmark = pytest.mark.usefixtures("layers", "impatient")


class Around:
    """Surrounds commands, and counts what was entered and not left."""

    def __init__(self):
        self.open = 0

    @hookimpl
    @asynccontextmanager
    async def moat_around_exec(self, run, command):
        await anyio.lowlevel.checkpoint()
        self.open += 1
        yield
        await anyio.lowlevel.checkpoint()
        self.open -= 1

    @hookimpl
    async def moat_on_event(self, run, event):
        await anyio.lowlevel.checkpoint()

    @hookimpl
    async def moat_on_ledger_step(self, step):
        await anyio.lowlevel.checkpoint()


async def life(library, moat):
    """One whole run: opened, used, undone."""
    async with library.run(moat.workspace) as run:
        await run.exec(["true"], stdin=b"x")
        await run.write("a", b"b")


async def turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


async def cancel_task(start, after, again):
    """Let a task go for AFTER turns, cancel it, and once more AGAIN turns later; return whether it was too late."""
    task = asyncio.create_task(start())
    await turns(after)
    late = task.done()
    task.cancel()
    for pause in again:
        await turns(pause)
        task.cancel()
    await asyncio.wait({task}, timeout=10)
    assert task.done(), f"hangs when it is cancelled after {after} turns"
    assert late or task.cancelled()
    return late


async def cancel_scope(start, after, again):
    """The same through a cancel scope of anyio."""
    assert not again
    ended = False
    with anyio.move_on_after(10) as limit:
        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()

            async def scoped():
                nonlocal ended
                with scope:
                    await start()
                    ended = True

            group.start_soon(scoped)
            await turns(after)
            late = ended
            scope.cancel()
    assert not limit.cancelled_caught, f"hangs when it is cancelled after {after} turns"
    return late


@pytest.mark.parametrize("cancel", [cancel_task, cancel_scope])
async def test_cancelled_at_every_await_nothing_is_left(moat, layers, cancel):
    """One cancellation, anywhere: everything is undone in order before the caller goes on."""
    around = Around()
    moat.register(around, "around")
    async with moat.moat() as library:
        after, late = 0, False
        while not late:
            layers.log.clear()
            late = await cancel(lambda: life(library, moat), after, ())
            assert moat.left() == [], f"after {after} turns"
            opened = [word[1:] for word in layers.log if word.startswith("+")]
            # A layer that was cancelled before it was open has only its service stopped.
            done = [word for word in layers.log if not word.startswith("svc-") or word[4:] in opened]
            assert done == layers.expected(*opened), f"after {after} turns"
            assert around.open == 0, f"after {after} turns"
            after += 1
        assert after > 60, "the enumeration must reach into the run"
    assert moat.left() == []


@pytest.mark.parametrize("again", [(0,), (1,), (2,), (5,), (1, 1, 1)], ids=str)
async def test_cancelled_twice_at_every_await_the_reaper_gets_what_is_left(moat, again):
    """Cancelled again soon after, a run may leave things to the reaper: within seconds nothing of any is left."""
    async with moat.moat() as library:
        after, late = 0, False
        while not late:
            late = await cancel_task(lambda: life(library, moat), after, again)
            after += 1
    with anyio.fail_after(15):
        while moat.left():
            await anyio.sleep(0.1)
