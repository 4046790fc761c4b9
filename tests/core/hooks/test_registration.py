"""What is refused when a plugin is registered, and how it is told."""

from __future__ import annotations

import sys
import types
from contextlib import asynccontextmanager
from importlib import metadata

import pytest

from moat_core import hookimpl
from moat_core.errors import HookContractError, PluginLoadError, UnknownName
from moat_core.hooks.manager import PluginManager, load_plugins


def plugin(name, function, **options):
    """A plugin object with one hook."""
    return type("Plugin", (), {name: staticmethod(hookimpl(**options)(function))})()


def bare(name, function):
    return type("Plugin", (), {name: staticmethod(function)})()


async def coroutine(run):
    pass


def generator(run):
    yield


async def async_generator(run):
    yield


def plain(run):
    pass


@asynccontextmanager
async def context(run):
    yield


def default(run=None):
    pass


def keyword_only(*, run):
    pass


def star(*run):
    pass


async def told(result):
    pass


def not_async(result):
    pass


def schema(schema):
    pass


async def async_schema(schema):
    pass


def wrapper(run):
    return (yield)


REFUSED = {
    "misspelt": (plugin("moat_open_rum", context), "there is no hook moat_open_rum", "moat_open_run"),
    "misspelt beyond recognition": (plugin("moat_xyzzy", context), "there is no hook moat_xyzzy", "lists them all"),
    "unmarked": (bare("moat_open_run", lambda run: None), "moat_open_run has no @hookimpl", "Add the marker"),
    "unknown argument": (plugin("moat_open_run", lambda runner: None), "runner", "moat hooks"),
    "bare async generator": (
        plugin("moat_open_run", async_generator),
        "is a bare async generator",
        "asynccontextmanager",
    ),
    "coroutine for a context": (plugin("moat_open_run", coroutine), "does not return a context", "one yield"),
    "generator for a context": (plugin("moat_open_run", generator), "does not return a context", "one yield"),
    "default": (plugin("moat_open_run", default), "gives defaults to run", "without a default"),
    "keyword only": (plugin("moat_open_run", keyword_only), "takes run by keyword", "by position"),
    "star": (plugin("moat_open_run", star), "takes run by keyword or star", "by position"),
    "wrapper": (plugin("moat_open_run", wrapper, wrapper=True), "is a wrapper", "context hook"),
    "event that is no coroutine": (plugin("moat_on_closed", not_async), "is not `async def`", "coroutine function"),
    "coroutine in a synchronous phase": (plugin("moat_add_config", async_schema), "is `async def`", "use `def`"),
    "async generator for a list": (plugin("moat_resolve_image", async_generator), "is an async generator", "a list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_plugin_that_breaks_the_contract_is_refused_by_name(case):
    """The error names the plugin and the hook and says what to do; nothing of the plugin stays registered."""
    bad, message, hint = REFUSED[case]
    manager = PluginManager()
    with pytest.raises(HookContractError) as caught:
        manager.register(bad, "clumsy")
    assert "'clumsy'" in str(caught.value)
    assert message in str(caught.value)
    assert hint in caught.value.hint
    assert manager.plugin("clumsy") is None
    assert "clumsy" not in manager.plugins
    assert not any(manager.implementations(hook) for hook in manager.hook_names)
    manager.register(plugin("moat_open_run", context), "clumsy")
    assert [impl.plugin_name for impl in manager.implementations("moat_open_run")] == ["clumsy"]


ACCEPTED = {
    "moat_open_run": (context, plain),
    "moat_on_closed": (told,),
    "moat_add_config": (schema,),
    "moat_resolve_image": (coroutine, plain),
}


@pytest.mark.parametrize(("hook", "function"), [(hook, each) for hook, all_ in ACCEPTED.items() for each in all_])
def test_every_allowed_form_of_a_kind_is_accepted(hook, function):
    """A context may be a decorated generator or a plain function, a `first` hook plain or async."""
    manager = PluginManager()
    manager.register(plugin(hook, function), "fine")
    assert [impl.plugin_name for impl in manager.implementations(hook)] == ["fine"]


def test_two_plugins_of_one_name_are_an_error_that_names_both():
    """Neither owner has to be guessed."""
    manager = PluginManager()
    first, second = types.ModuleType("first_module"), types.ModuleType("second_module")
    manager.register(first, "twin")
    with pytest.raises(PluginLoadError, match=r"first_module .*and second_module"):
        manager.register(second, "twin")
    assert manager.plugin("twin") is first


def test_one_module_under_two_names_is_an_error():
    """A plugin that is an entry point and in MOAT_PLUGINS as well would be called twice."""
    manager = PluginManager()
    module = types.ModuleType("some_module")
    manager.register(module, "one")
    with pytest.raises(PluginLoadError, match="registered twice, as 'one' and as 'two'"):
        manager.register(module, "two")


def test_unregistering_takes_every_hook_out():
    """Afterwards it is as if it had never been there."""
    manager = PluginManager()
    manager.register(plugin("moat_open_run", context), "gone")
    manager.unregister("gone")
    assert manager.implementations("moat_open_run") == []
    assert manager.plugins == {}


def test_an_unknown_hook_is_told_with_the_nearest():
    """`moat hooks open_netwrk` helps."""
    with pytest.raises(UnknownName) as caught:
        PluginManager().info("moat_open_netwrk")
    assert "moat_open_network" in caught.value.hint


# -- loading -------------------------------------------------------------------------------------------------------


class Dist:
    def __init__(self, name):
        self.name = name
        self.version = "1.2"


@pytest.fixture
def installed(monkeypatch):
    """Say what is installed: ``installed("dist", name="module", ...)``."""
    found = []
    monkeypatch.setattr(metadata, "entry_points", lambda group: list(found))

    def install(dist, **plugins):
        for name, module in plugins.items():
            entry_point = metadata.EntryPoint(name, module, "moat")
            vars(entry_point)["dist"] = Dist(dist)
            found.append(entry_point)

    return install


@pytest.fixture
def module(monkeypatch):
    """Make a module that can be imported: ``module("name", moat_on_closed=...)``."""

    def make(name, **content):
        made = types.ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    return make


def names(manager):
    return [(info.name, info.state) for info in manager.plugins.values()]


def test_built_ins_come_first_then_others_by_distribution(installed, module):
    """The order does not depend on sys.path."""
    for name in ("a", "b", "c", "d", "e"):
        module(f"mod_{name}", moat_on_closed=hookimpl(told))
    installed("zebra", d="mod_d")
    installed("moat", c="mod_c", b="mod_b")
    installed("ant", a="mod_a")
    manager = load_plugins(environ={"MOAT_PLUGINS": "mod_e"})
    assert [name for name, _ in names(manager)] == ["b", "c", "a", "d", "mod_e"]
    assert [impl.plugin_name for impl in manager.implementations("moat_on_closed")] == ["b", "c", "a", "d", "mod_e"]
    assert manager.plugins["a"].version == "1.2"
    assert manager.plugins["a"].origin == "ant"
    assert manager.plugins["mod_e"].origin == "MOAT_PLUGINS"


def test_blocked_plugins_are_never_imported(installed):
    """`--without` and MOAT_DISABLE work for a plugin that cannot even be imported."""
    installed("other", broken="no_such_module", also="no_such_either")
    manager = load_plugins(without=["broken"], environ={"MOAT_DISABLE": " also ,"})
    assert names(manager) == [("also", "disabled"), ("broken", "disabled")]


def test_blocking_what_is_not_installed_is_an_error_with_the_nearest(installed, module):
    """A typing mistake in --without is not silent."""
    module("mod_a")
    installed("other", docker="mod_a")
    with pytest.raises(UnknownName) as caught:
        load_plugins(without=["dokcer"], environ={})
    assert "docker" in caught.value.hint
    assert names(load_plugins(environ={"MOAT_DISABLE": "dokcer"}, keep_going=True)) == [("docker", "loaded")]


@pytest.mark.parametrize("value", ["no_such_module", "moat_core.errors:NoSuchThing"])
def test_a_broken_entry_point_is_a_named_error(installed, value):
    """It says which plugin of which distribution, why, and how to go without it."""
    installed("acme", rocket=value)
    with pytest.raises(PluginLoadError) as caught:
        load_plugins(environ={})
    assert "'rocket' (acme)" in str(caught.value)
    assert "--without rocket" in caught.value.hint
    manager = load_plugins(environ={}, keep_going=True)
    assert names(manager) == [("rocket", "broken")]
    assert "rocket" in manager.plugins["rocket"].error


def test_an_entry_point_may_name_an_object_in_a_module(installed, module):
    """`package.module:attribute` is a plugin, too."""
    module("mod_o", thing=plugin("moat_on_closed", told))
    installed("other", thing="mod_o:thing")
    manager = load_plugins(environ={})
    assert [impl.plugin_name for impl in manager.implementations("moat_on_closed")] == ["thing"]


def test_a_clash_between_distributions_keeps_the_first_when_going_on(installed, module):
    """With keep_going the built-in one stays, and the other is listed as broken beside it."""
    module("mod_a", moat_on_closed=hookimpl(told))
    module("mod_b", moat_on_closed=hookimpl(told))
    installed("moat", twin="mod_a")
    installed("other", twin="mod_b")
    manager = load_plugins(environ={}, keep_going=True)
    assert names(manager) == [("twin", "loaded"), ("twin", "broken")]
    assert [impl.function.__name__ for impl in manager.implementations("moat_on_closed")] == ["told"]
