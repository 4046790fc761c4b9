"""What a run did, as a test looks at it: the `RunRecord`, and the dispatcher that records hooks."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from moat_core.hooks.dispatch import Dispatcher, HookContext
from moat_core.hooks.markers import HookKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractAsyncContextManager

    from moat_core.events import Event
    from moat_core.hooks.manager import PluginManager
    from moat_core.lifecycle import Outcome, RunResult
    from moat_core.plan import Plan
    from moat_core.types import ExecResult, Problem

__all__ = ["HookCall", "RecordingDispatcher", "RunRecord"]


@attrs.frozen
class HookCall:
    """A hook was called, or a context of it entered or left.

    Args:
        what: ``call`` of a collect, first or event hook; ``enter`` (it was entered) and ``exit`` (it was left) of a
            context.
        ms: What it took.
    """

    plugin: str
    hook: str
    what: str
    ms: float = attrs.field(default=0.0, eq=False)

    def matches(self, word: str) -> bool:
        """Tell whether WORD means this: ``[-][plugin:]hook``; with ``-`` it is a context's exit."""
        wanted, _, hook = word.removeprefix("-").rpartition(":")
        return self.hook == hook and wanted in {"", self.plugin} and (self.what == "exit") == word.startswith("-")

    def __str__(self) -> str:
        return f"{'-' if self.what == 'exit' else ''}{self.plugin}:{self.hook}"


class RecordingDispatcher(Dispatcher):
    """A `Dispatcher` that writes down what it calls, in ``hooks``."""

    def __init__(self, plugins: PluginManager) -> None:
        super().__init__(plugins)
        self.hooks: list[HookCall] = []

    @contextmanager
    def calling(self, plugin: str, hook: str) -> Iterator[None]:
        """See `Dispatcher.calling`."""
        started = time.perf_counter()
        try:
            with super().calling(plugin, hook):
                yield
        finally:
            if self.plugins.info(hook).kind is not HookKind.CONTEXT:
                self._record(plugin, hook, "call", started)

    def contexts(self, hook: str, **arguments: Any) -> Iterator[HookContext]:
        """See `Dispatcher.contexts`."""
        for wanted in super().contexts(hook, **arguments):

            def make(wanted: HookContext = wanted) -> AbstractAsyncContextManager[Any] | None:
                context = wanted.make()
                return None if context is None else self._watched(wanted, context)

            yield HookContext(wanted.plugin, wanted.hook, make)

    @asynccontextmanager
    async def _watched(self, wanted: HookContext, context: AbstractAsyncContextManager[Any]) -> AsyncIterator[Any]:
        started = time.perf_counter()
        async with context as value:
            self._record(wanted.plugin, wanted.hook, "enter", started)
            yield value
            started = time.perf_counter()
        self._record(wanted.plugin, wanted.hook, "exit", started)

    def _record(self, plugin: str, hook: str, what: str, started: float) -> None:
        self.hooks.append(HookCall(plugin, hook, what, (time.perf_counter() - started) * 1000))


@attrs.define
class RunRecord:
    """One run, over.

    Args:
        result: What moat says of it.
        value: What the body returned; for a command, its `ExecResult`.
        events: All of them, in order.
        hooks: All that were called, in order.
        left: What is still there: containers, networks, rows, held locks.
    """

    plan: Plan
    result: RunResult
    value: Any
    events: list[Event]
    hooks: list[HookCall]
    left: list[str]

    @property
    def outcome(self) -> Outcome:
        """How its body ended."""
        return self.result.outcome

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What went wrong without deciding the outcome."""
        return self.result.problems

    @property
    def exec_result(self) -> ExecResult:
        """How the command ended that the run was for."""
        result: ExecResult = self.value
        return result

    def assert_clean(self) -> RunRecord:
        """Check that its body finished, nothing went wrong and nothing is left; return this record."""
        if self.outcome.error is not None:
            raise AssertionError(f"The run {self.outcome.status}: {self.outcome.error}") from self.outcome.error
        assert self.outcome.status == "finished", self
        assert not self.problems, "\n".join(str(problem) for problem in self.problems)
        assert not self.left, f"left behind: {', '.join(self.left)}"
        return self

    def assert_order(self, *words: str) -> RunRecord:
        """Check that hooks were called in the order of WORDS, others between them or not; return this record.

        Args:
            words: ``moat_open_network``, ``hello:moat_open_network`` for one plugin's, ``-moat_open_network`` for
                the exit of a context.
        """
        rest = iter(self.hooks)
        for word in words:
            found = any(call.matches(word) for call in rest)
            assert found, f"{word} did not come where it should; it was: {' '.join(map(str, self.hooks))}"
        return self

    def __repr__(self) -> str:
        problems = "".join(f"\n  problem: {problem}" for problem in self.problems)
        left = f"\n  left: {', '.join(self.left)}" if self.left else ""
        error = f" ({self.outcome.error!r})" if self.outcome.error is not None else ""
        hooks = " ".join(map(str, self.hooks))
        return f"<run {self.plan.name} {self.outcome.status}{error}{problems}{left}\n  hooks: {hooks}>"
