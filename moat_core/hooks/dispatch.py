"""Calling hooks: the only place that would change if pluggy learned to await.

Implementations are called one at a time, each result kept with its plugin's name. pluggy itself never sees a
coroutine: what it is asked for is who implements a hook, in which order.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from moat_core.errors import HookContractError, HookFailed, MoatError, PluginError, UnknownName, unwrap
from moat_core.types import Problem

if TYPE_CHECKING:
    from pluggy import HookImpl

    from moat_core.hooks.manager import PluginManager

__all__ = ["Dispatcher", "HookContext", "HookResult"]


@attrs.frozen
class HookResult:
    """What one implementation returned."""

    plugin: str
    value: Any


@attrs.frozen
class HookContext:
    """A context that a plugin wants entered; ``make`` calls its implementation, which may return ``None``."""

    plugin: str
    hook: str
    make: Callable[[], AbstractAsyncContextManager[Any] | None]


class Dispatcher:
    """Calls the hooks of a `PluginManager`.

    An error of ours that a plugin raises passes as it is, with the plugin in its details; any other becomes
    `HookFailed`, chained. Cancellation is never caught. With ``MOAT_TRACE_HOOKS=1`` every call is told on stderr.
    """

    def __init__(self, plugins: PluginManager) -> None:
        self.plugins = plugins
        self._trace = os.environ.get("MOAT_TRACE_HOOKS") == "1"

    def has(self, hook: str) -> bool:
        """Whether anybody implements HOOK."""
        return bool(self.plugins.implementations(hook))

    def call(self, impl: HookImpl, hook: str, **arguments: Any) -> Any:
        """Call one implementation, with its errors attributed to its plugin."""
        with self.calling(impl.plugin_name, hook):
            return _call(impl, arguments)

    def collect(self, hook: str, **arguments: Any) -> list[HookResult]:
        """Ask everyone, synchronously."""
        results = []
        for impl in self.plugins.implementations(hook):
            with self.calling(impl.plugin_name, hook):
                results.append(HookResult(impl.plugin_name, _call(impl, arguments)))
        return results

    def collect_items(self, hook: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """Ask everyone for iterables and yield ``(plugin, item)``; ``None`` counts as empty."""
        for impl in self.plugins.implementations(hook):
            with self.calling(impl.plugin_name, hook):
                items = list(_call(impl, arguments) or ())  # a generator runs here, under its plugin's name
            for item in items:
                yield impl.plugin_name, item

    async def survey(self, hook: str, **arguments: Any) -> tuple[list[tuple[str, Any]], list[Problem]]:
        """Ask everyone for iterables, whoever fails: return ``(plugin, item)`` pairs and what went wrong."""
        items: list[tuple[str, Any]] = []
        problems: list[Problem] = []
        for impl in self.plugins.implementations(hook):
            try:
                with self.calling(impl.plugin_name, hook):
                    found = list(await _resolve(_call(impl, arguments)) or ())
                items += [(impl.plugin_name, item) for item in found]
            except MoatError as error:
                problems.append(Problem(error.message, error.hint, impl.plugin_name))
        return items, problems

    def first(self, hook: str, **arguments: Any) -> HookResult | None:
        """Return the first answer that is not ``None``."""
        for impl in self.plugins.implementations(hook):
            with self.calling(impl.plugin_name, hook):
                value = _call(impl, arguments)
            if value is not None:
                return HookResult(impl.plugin_name, value)
        return None

    async def afirst(self, hook: str, **arguments: Any) -> HookResult | None:
        """Return the first answer that is not ``None`` after awaiting."""
        for impl in self.plugins.implementations(hook):
            with self.calling(impl.plugin_name, hook):
                value = await _resolve(_call(impl, arguments))
            if value is not None:
                return HookResult(impl.plugin_name, value)
        return None

    async def notify(self, hook: str, *, budget_s: float = math.inf, **arguments: Any) -> list[Problem]:
        """Tell everyone; return what failed.

        Args:
            budget_s: What all of them may take together, in seconds. Within it they are shielded from cancellation.
        """
        import anyio  # for this only: planning needs no loop

        problems = []
        deadline = anyio.current_time() + budget_s
        for impl in self.plugins.implementations(hook):
            with anyio.CancelScope(deadline=deadline, shield=True) as scope:
                try:
                    with self.calling(impl.plugin_name, hook):
                        await _call(impl, arguments)
                except MoatError as error:
                    problems.append(Problem(error.message, error.hint, impl.plugin_name))
            if scope.cancelled_caught:
                problems.append(Problem(f"{hook} did not return within {budget_s:g} s.", where=impl.plugin_name))
        return problems

    def contexts(self, hook: str, **arguments: Any) -> Iterator[HookContext]:
        """Yield what shall be entered for HOOK, in order."""
        for impl in self.plugins.implementations(hook):

            def make(impl: HookImpl = impl) -> AbstractAsyncContextManager[Any] | None:
                with self.calling(impl.plugin_name, hook):
                    context = _call(impl, arguments)
                if context is not None and not isinstance(context, AbstractAsyncContextManager):
                    if inspect.isawaitable(context):
                        context.close()  # type: ignore[attr-defined]
                    raise HookContractError(
                        f"Plugin '{impl.plugin_name}': {hook} returned {type(context).__name__}, not a context.",
                        hint="Put @asynccontextmanager below @hookimpl.",
                    )
                return context

            yield HookContext(impl.plugin_name, hook, make)

    @contextmanager
    def calling(self, plugin: str, hook: str) -> Iterator[None]:
        """Attribute what is raised meanwhile to PLUGIN: an error of ours in its details, any other as `HookFailed`."""
        started = time.perf_counter()
        try:
            yield
        except (Exception, SystemExit) as raised:
            error = unwrap(raised)
            if not isinstance(error, MoatError):
                raise HookFailed(
                    f"Plugin '{plugin}' failed in {hook}: {type(error).__name__}: {error}",
                    hint=f"This is a bug of the plugin. To go without it: --without {plugin}.",
                    plugin=plugin,
                    hook=hook,
                ) from error
            _name(error, plugin)
            if error is raised:
                raise
            raise error from error.__cause__
        finally:
            if self._trace:
                spent = (time.perf_counter() - started) * 1000
                sys.stderr.write(f"moat hook {hook} {plugin} {spent:.1f} ms\n")


def _name(error: MoatError, plugin: str) -> None:
    """Say whose ERROR it is; what is a plugin's fault says so in its message, too. An inner plugin is named already."""
    if "plugin" in error.details:
        return
    error.details["plugin"] = plugin
    if isinstance(error, PluginError) and not re.search(rf"[Pp]lugins? .*'{re.escape(plugin)}'", error.message):
        error.message = f"Plugin '{plugin}': {error.message}"


def _call(impl: HookImpl, arguments: dict[str, Any]) -> Any:
    return impl.function(*(arguments[name] for name in impl.argnames))


async def _resolve(value: Awaitable[Any] | Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def unknown(kind: str, name: str, known: list[str]) -> UnknownName:
    """Return the error for a NAME that nobody registered, with the nearest matches."""
    import difflib

    near = difflib.get_close_matches(name, known, 3)
    listed = ", ".join(near or known)
    return UnknownName(f"There is no {kind} '{name}'.", hint=f"Known: {listed}." if listed else "")
