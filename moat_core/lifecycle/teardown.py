"""The undo stack of a run: contexts, services and resources, left in exact reverse, whatever happens.

Two cancel scopes are opened *before* each context, because a shield opened around ``__aexit__`` would corrupt the
scope stack of a context that holds a task group. While the context is being entered the outer one is what a
cancellation hits; at exit the inner one, the guard, becomes a shield with a deadline. They are two, since a scope
once cancelled stays so: a context that was entered although it was being cancelled is undone in peace all the same.
Contexts never see an exception: how the run ended is data (``run.outcome``).
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
    left: list[Problem] = attrs.field(factory=list)
    """What could not be undone; these are among the ``problems``, too."""
    _stack: list[_Undo] = attrs.field(factory=list)

    def lose_patience(self) -> None:
        """Give nothing any more time: what cannot be undone at once is the reaper's."""
        self.grace_s = 0.0
        for entry in self._stack:
            if entry.guard is not None:
                entry.guard.deadline = -math.inf

    async def enter(self, plugin: str, hook: str, context: AbstractAsyncContextManager[Any]) -> Any:
        """Enter CONTEXT and remember to leave it; ``None`` if it was cancelled meanwhile."""
        entering = self.target = anyio.CancelScope()
        guard = anyio.CancelScope()
        entering.__enter__()
        guard.__enter__()
        try:
            value = await context.__aenter__()
        except BaseException as error:
            guard.__exit__(type(error), error, error.__traceback__)
            if entering.__exit__(type(error), error, error.__traceback__):
                return None
            raise
        finally:
            self.target = None

        async def leave() -> None:
            caught: BaseException | None = None
            try:
                await context.__aexit__(None, None, None)
            except BaseException as error:  # noqa: BLE001 - handed on below
                caught = error
            late = guard.cancel_called
            # What was caught is judged below: an error given to these scopes could come out of them as another.
            guard.__exit__(None, None, None)
            entering.__exit__(None, None, None)
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
            except (Exception, SystemExit, anyio.get_cancelled_exc_class()) as error:  # noqa: BLE001 - each exit runs whatever others do
                # Our own scopes let no cancellation out: one that comes here is a plugin's, or the dying loop's.
                problem = _problem(entry, error, anyio.current_time() - started)
                self.problems.append(problem)
                self.left.append(problem)
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


def _problem(entry: _Undo, error: BaseException, seconds: float) -> Problem:
    where = f"{entry.plugin} {entry.hook}"
    if isinstance(error, TimeoutError) and not str(error):
        message = f"It was not undone in {seconds:.1f} s."
    elif isinstance(error, MoatError) and not isinstance(error, TeardownError):
        return Problem(error.message, error.hint, where)
    else:
        message = f"It could not be undone: {type(error).__name__}: {error}"
    return Problem(message, "What is left will be removed by the reaper, or by `moat clean`.", where)
