"""The undo stack of a run: contexts, services and resources, left in exact reverse, whatever happens.

A guard (a cancel scope) is opened *before* each context, because a shield opened around ``__aexit__`` would corrupt
the scope stack of a context that holds a task group. While the context is being entered the guard is what a
cancellation hits; at exit it becomes a shield with a deadline. Contexts never see an exception: how the run ended
is data (``run.outcome``).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import attrs

from moat_core.errors import MoatError, TeardownError
from moat_core.types import Problem

__all__ = ["UndoStack"]


@attrs.define
class _Undo:
    plugin: str
    hook: str
    leave: Callable[[], Awaitable[None]]
    guard: anyio.CancelScope | None = None


@attrs.define(eq=False)
class UndoStack:
    """What a run has to undo, newest last.

    Args:
        grace_s: What leaving one entry may take, in seconds.
    """

    grace_s: float
    problems: list[Problem]
    target: anyio.CancelScope | None = None
    """What a cancellation may hit right now."""
    closing: bool = False
    _stack: list[_Undo] = attrs.field(factory=list)

    def lose_patience(self) -> None:
        """Give nothing any more time: what cannot be undone at once is the reaper's."""
        self.grace_s = 0.0
        for entry in self._stack:
            if entry.guard is not None:
                entry.guard.deadline = -math.inf

    async def enter(self, plugin: str, hook: str, context: AbstractAsyncContextManager[Any]) -> Any:
        """Enter CONTEXT and remember to leave it; ``None`` if it was cancelled meanwhile."""
        guard = self.target = anyio.CancelScope()
        guard.__enter__()
        try:
            value = await context.__aenter__()
        except BaseException as error:
            self.target = None
            if guard.__exit__(type(error), error, error.__traceback__):
                return None
            raise
        self.target = None

        async def leave() -> None:
            caught: BaseException | None = None
            try:
                await context.__aexit__(None, None, None)
            except BaseException as error:  # noqa: BLE001 - handed on below, through the guard it belongs to
                caught = error
            late = guard.cancel_called
            guard.__exit__(type(caught) if caught else None, caught, caught.__traceback__ if caught else None)
            if late:
                raise TimeoutError
            if caught is not None:
                raise caught

        self._stack.append(_Undo(plugin, hook, leave, guard))
        return value

    def push(self, plugin: str, hook: str, leave: Callable[[], Awaitable[None]]) -> None:
        """Remember a bare undo step."""
        self._stack.append(_Undo(plugin, hook, leave))

    async def unwind(self) -> None:
        """Leave everything, newest first; every failure becomes a problem and stops nothing."""
        self.closing = True
        while self._stack:
            entry = self._stack[-1]
            started = anyio.current_time()
            try:
                await self._leave(entry)
            except Exception as error:  # noqa: BLE001 - each exit runs even if others failed
                self.problems.append(_problem(entry, error, anyio.current_time() - started))
            finally:
                self._stack.pop()

    async def _leave(self, entry: _Undo) -> None:
        deadline = anyio.current_time() + self.grace_s
        if entry.guard is not None:
            entry.guard.shield = True
            entry.guard.deadline = min(entry.guard.deadline, deadline)
            await entry.leave()
            return
        entry.guard = anyio.CancelScope(deadline=deadline, shield=True)
        with entry.guard:
            await entry.leave()
        if entry.guard.cancelled_caught:
            raise TimeoutError


def _problem(entry: _Undo, error: Exception, seconds: float) -> Problem:
    where = f"{entry.plugin} {entry.hook}"
    if isinstance(error, TimeoutError) and not str(error):
        message = f"It was not undone in {seconds:.1f} s."
    elif isinstance(error, MoatError) and not isinstance(error, TeardownError):
        return Problem(error.message, error.hint, where)
    else:
        message = f"It could not be undone: {type(error).__name__}: {error}"
    return Problem(message, "What is left will be removed by the reaper, or by `moat clean`.", where)
