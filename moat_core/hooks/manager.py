"""Finding, registering and checking plugins.

Built-ins are entry points like everybody's and come first; third parties follow by the name of their distribution,
and the plugins of one distribution by their own names, so that the order never depends on ``sys.path`` or on how a
wheel was built. There is no global manager: `load_plugins` makes one, and it is passed down.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
from collections.abc import Iterable, Mapping
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import attrs
import pluggy

from moat_core.errors import HookContractError, PluginLoadError, UnknownName
from moat_core.hooks import act, finish, plan, startup, upkeep
from moat_core.hooks import open as open_
from moat_core.hooks.markers import GROUP, NAME, HookInfo, HookKind, hook_info
from moat_core.imports import need

if TYPE_CHECKING:
    from pluggy import HookImpl

__all__ = ["SPECS", "PluginInfo", "PluginManager", "load_plugins"]

SPECS: tuple[ModuleType, ...] = (startup, plan, open_, act, finish, upkeep)
"""The modules of hook specifications, in the order of a run's life."""
_BUILTIN = "moat"
BY_HAND = "registered by hand"
"""Origin of a plugin that only this process knows."""


@attrs.frozen
class PluginInfo:
    """What ``moat plugins`` shows of a plugin.

    Args:
        name: Its entry point's name.
        state: ``loaded``, ``disabled`` (blocked by the user) or ``broken``.
        version: Of its distribution.
        origin: Its distribution's name, or ``MOAT_PLUGINS``.
        module: Where it lives.
        error: Why it is broken.
    """

    name: str
    state: Literal["loaded", "disabled", "broken"]
    version: str
    origin: str
    module: str
    error: str = ""


class PluginManager:
    """The plugins of one process and the order in which their hooks are called."""

    def __init__(self) -> None:
        self._pm = pluggy.PluginManager(NAME)
        self._kinds: dict[str, HookInfo] = {}
        self.plugins: dict[str, PluginInfo] = {}
        self.without: tuple[str, ...] = ()
        """What was left out by name, beside ``MOAT_DISABLE``."""
        for module in SPECS:
            self._pm.add_hookspecs(module)
            for name, function in vars(module).items():
                if name.startswith("moat_") and inspect.isfunction(function):
                    self._kinds[name] = hook_info(function)

    @property
    def hook_names(self) -> tuple[str, ...]:
        """All hooks, in the order of a run's life."""
        return tuple(self._kinds)

    def info(self, hook: str) -> HookInfo:
        """Return the kind of HOOK.

        Raises:
            UnknownName: There is no such hook.
        """
        if hook not in self._kinds:
            near = difflib.get_close_matches(hook, self._kinds, 3)
            raise UnknownName(f"There is no hook '{hook}'.", hint=f"Did you mean {', '.join(near)}?" if near else "")
        return self._kinds[hook]

    def spec(self, hook: str) -> Any:
        """Return the specification's function: its signature and docstring are the contract."""
        self.info(hook)
        return next(getattr(module, hook) for module in SPECS if hasattr(module, hook))

    def register(self, plugin: object, name: str, info: PluginInfo | None = None) -> None:
        """Register PLUGIN (a module, or an object with hook methods) and check all of its hooks.

        Raises:
            HookContractError: A hook is misspelt, takes what its specification does not have, or is of the
                wrong kind.
            PluginLoadError: The name is taken.
        """
        module = getattr(plugin, "__name__", type(plugin).__qualname__)
        info = info or PluginInfo(name, "loaded", "", BY_HAND, module)
        if self._pm.has_plugin(name):
            raise PluginLoadError(
                f"Two plugins are called '{name}': {_whose(self.plugins[name])} and {_whose(info)}.",
                hint="Uninstall or disable one of them.",
            )
        if known := self._pm.get_name(plugin):
            raise PluginLoadError(
                f"{_whose(info)} is registered twice, as '{known}' and as '{name}'.",
                hint="Name it once: as an entry point, or in MOAT_PLUGINS.",
            )
        try:
            self._check_unmarked(plugin, name)
            self._pm.register(plugin, name)
            self._pm.check_pending()
            for caller in self._pm.get_hookcallers(plugin) or ():
                for impl in caller.get_hookimpls():
                    if impl.plugin_name == name:
                        _check_kind(name, caller.name, self._kinds[caller.name], impl)
        except (pluggy.PluginValidationError, HookContractError) as error:
            if self._pm.is_registered(plugin):
                self._pm.unregister(plugin)
            if isinstance(error, HookContractError):
                raise
            raise HookContractError(
                f"Plugin '{name}': {_one_line(error)}.", hint="`moat hooks` lists every hook and its arguments."
            ) from error
        self.plugins[name] = info

    def unregister(self, name: str) -> None:
        """Take a plugin out again."""
        self._pm.unregister(name=name)
        self.plugins.pop(name, None)

    def plugin(self, name: str) -> object | None:
        """Return the plugin called NAME."""
        return self._pm.get_plugin(name)

    def implementations(self, hook: str) -> list[HookImpl]:
        """Return who implements HOOK, in call order.

        ``first`` hooks ask the newest plugin first, so that third parties can answer before built-ins. All
        others go in order of registration. ``tryfirst`` and ``trylast`` apply to both.
        """
        impls = list(getattr(self._pm.hook, hook).get_hookimpls())
        if self._kinds[hook].kind is HookKind.FIRST:
            return impls[::-1]
        return sorted(impls, key=lambda impl: (not impl.tryfirst, impl.trylast))

    def _check_unmarked(self, plugin: object, name: str) -> None:
        for attribute in dir(plugin):
            if attribute.startswith("moat_") and inspect.isroutine(getattr(plugin, attribute)):
                if attribute in self._kinds and self._pm.parse_hookimpl_opts(plugin, attribute) is None:
                    raise HookContractError(f"Plugin '{name}': {attribute} has no @hookimpl.", hint="Add the marker.")
                if attribute not in self._kinds:
                    near = difflib.get_close_matches(attribute, self._kinds, 1)
                    raise HookContractError(
                        f"Plugin '{name}': there is no hook {attribute}.",
                        hint=f"Did you mean {near[0]}?" if near else "`moat hooks` lists them all.",
                    )


def load_plugins(
    *,
    without: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
    keep_going: bool = False,
) -> PluginManager:
    """Find and register every installed plugin.

    Args:
        without: Names to leave out, beside those in ``MOAT_DISABLE`` (comma-separated).
        environ: Instead of `os.environ`. ``MOAT_PLUGINS`` names further modules, comma-separated.
        keep_going: Note broken plugins in ``manager.plugins`` instead of raising.

    Raises:
        PluginLoadError, HookContractError: A plugin is broken; the message names it.
        UnknownName: A plugin to leave out is not installed.
    """
    environ = os.environ if environ is None else environ
    blocked = {*without, *_names(environ.get("MOAT_DISABLE", ""))}
    manager = PluginManager()
    manager.without = tuple(without)
    found = sorted(metadata.entry_points(group=GROUP), key=_load_order)
    for entry_point in found:
        distribution = entry_point.dist
        info = PluginInfo(
            entry_point.name,
            "loaded",
            distribution.version if distribution else "",
            distribution.name if distribution else "",
            entry_point.value,
        )
        _load(manager, info, blocked, keep_going=keep_going)
    for module in _names(environ.get("MOAT_PLUGINS", "")):
        info = PluginInfo(module.rpartition(".")[2], "loaded", "", "MOAT_PLUGINS", module)
        _load(manager, info, blocked, keep_going=keep_going)
    unknown = sorted(blocked - set(manager.plugins))
    if unknown and not keep_going:
        near = difflib.get_close_matches(unknown[0], manager.plugins, 3)
        raise UnknownName(
            f"No plugin '{unknown[0]}' is installed, so it cannot be disabled.",
            hint=f"Did you mean {', '.join(near)}?" if near else "`moat plugins` lists them.",
        )
    return manager


def _load(manager: PluginManager, info: PluginInfo, blocked: set[str], *, keep_going: bool) -> None:
    if info.name in blocked:
        manager.plugins[info.name] = attrs.evolve(info, state="disabled")
        return
    try:
        try:
            module, _, attribute = info.module.partition(":")
            need(module)
            plugin = importlib.import_module(module)
            plugin = getattr(plugin, attribute) if attribute else plugin
        except Exception as error:
            raise PluginLoadError(
                f"Plugin '{info.name}' ({info.origin or info.module}) cannot be imported: "
                f"{type(error).__name__}: {_one_line(error)}.",
                hint=f"Mend or uninstall it, or go without: --without {info.name}, MOAT_DISABLE={info.name}.",
                plugin=info.name,
            ) from error
        manager.register(plugin, info.name, info)
    except (PluginLoadError, HookContractError) as error:
        if not keep_going:
            raise
        key = info.name if info.name not in manager.plugins else f"{info.name} ({info.origin})"
        manager.plugins[key] = attrs.evolve(info, state="broken", error=str(error))


def _load_order(entry_point: metadata.EntryPoint) -> tuple[bool, str, str]:
    name = entry_point.dist.name if entry_point.dist else ""
    return name != _BUILTIN, name, entry_point.name


def _whose(info: PluginInfo) -> str:
    return f"{info.module} ({info.origin})"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _check_kind(plugin: str, hook: str, info: HookInfo, impl: HookImpl) -> None:
    """Refuse an implementation that its caller could not call as the hook's kind demands."""
    what, hint = _wrong_arguments(impl) or _wrong_kind(info, impl.function) or ("", "")
    if what:
        raise HookContractError(f"Plugin '{plugin}': {hook} {what}.", hint=hint, plugin=plugin, hook=hook)


def _wrong_arguments(impl: HookImpl) -> tuple[str, str] | None:
    if impl.hookwrapper or impl.wrapper:
        return "is a wrapper", "Wrappers see unawaited coroutines; use a context hook."
    if impl.kwargnames:
        # pluggy never passes a value to an argument with a default.
        return f"gives defaults to {', '.join(impl.kwargnames)}", "Take the argument without a default."
    kinds = {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    odd = [each.name for each in inspect.signature(impl.function).parameters.values() if each.kind in kinds]
    if odd:
        return f"takes {', '.join(odd)} by keyword or star", "Name the arguments plainly: they are passed by position."
    return None


def _wrong_kind(info: HookInfo, function: Any) -> tuple[str, str] | None:
    is_coroutine = inspect.iscoroutinefunction(function)
    is_async_generator = inspect.isasyncgenfunction(function)
    wrong: tuple[str, str] | None = None
    if info.kind is HookKind.CONTEXT:
        if is_async_generator:
            wrong = "is a bare async generator", "Put @asynccontextmanager below @hookimpl."
        elif is_coroutine or inspect.isgeneratorfunction(function):
            wrong = "does not return a context", "Use @asynccontextmanager with one yield, or return a context."
    elif info.kind is HookKind.EVENT:
        if not is_coroutine:
            wrong = "is not `async def`", "An event hook is a coroutine function."
    elif is_async_generator:
        wrong = "is an async generator", "Return a list."
    elif is_coroutine and not info.asynchronous:
        wrong = "is `async def`", "This phase is synchronous: use `def`."
    return wrong
