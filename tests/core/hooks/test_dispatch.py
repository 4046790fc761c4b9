"""How each kind of hook is called: order, results with names, errors attributed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import anyio
import pytest

from moat_core import hookimpl
from moat_core.errors import HookContractError, HookFailed, HostError, UnknownName, unwrap
from moat_core.hooks.dispatch import Dispatcher, unknown
from moat_core.hooks.manager import PluginManager


def dispatcher(hook, **functions):
    """A dispatcher with a plugin for each function, which may be a pair with hookimpl's options."""
    manager = PluginManager()
    for name, given in functions.items():
        function, options = given if isinstance(given, tuple) else (given, {})
        manager.register(type("P", (), {hook: staticmethod(hookimpl(**options)(function))})(), name)
    return Dispatcher(manager)


def answers(value):
    return lambda plan: [value]


ORDERS = [
    ({"a": {}, "b": {}, "c": {}}, "abc"),
    ({"a": {}, "b": {"tryfirst": True}, "c": {}}, "bac"),
    ({"a": {"trylast": True}, "b": {}, "c": {}}, "bca"),
    ({"a": {"trylast": True}, "b": {"tryfirst": True}, "c": {"tryfirst": True}}, "bca"),
]


@pytest.mark.parametrize(("options", "order"), ORDERS)
def test_collect_asks_everyone_in_order_of_registration(options, order):
    """tryfirst and trylast move to the ends; the result keeps its plugin's name."""
    calls = dispatcher("moat_check_plan", **{name: (answers(name), given) for name, given in options.items()})
    results = calls.collect("moat_check_plan", plan=None)
    assert "".join(result.plugin for result in results) == order
    assert all(result.value == [result.plugin] for result in results)
    assert list(calls.collect_items("moat_check_plan", plan=None)) == [(name, name) for name in order]


def test_first_asks_the_newest_first_and_none_passes():
    """A third party is asked before the built-ins, and `None` hands on."""
    asked = []

    def answer(name, value):
        def choose(request, config):
            asked.append(name)
            return value

        return choose

    calls = dispatcher(
        "moat_choose_runtime", old=answer("old", "x"), middle=answer("middle", "y"), new=answer("new", None)
    )
    result = calls.first("moat_choose_runtime", request=None, config=None)
    assert (result.plugin, result.value) == ("middle", "y")
    assert asked == ["new", "middle"]
    assert dispatcher("moat_choose_runtime").first("moat_choose_runtime", request=None, config=None) is None


def test_first_obeys_tryfirst_and_trylast():
    """They outrank the order of registration."""
    calls = dispatcher(
        "moat_choose_runtime",
        eager=(lambda request: "eager", {"tryfirst": True}),
        new=lambda config: "new",
        lazy=(lambda: "lazy", {"trylast": True}),
    )
    assert calls.first("moat_choose_runtime", request=None, config=None).value == "eager"


async def test_afirst_looks_at_the_answer_after_awaiting_it():
    """A coroutine is not an answer; what it returns is. Falsy values are answers."""

    async def nothing(run):
        await anyio.sleep(0)

    async def empty(run):
        await anyio.sleep(0)
        return ""

    calls = dispatcher("moat_resolve_image", plain=lambda run: "plain", empty=empty, nothing=nothing)
    result = await calls.afirst("moat_resolve_image", run=None)
    assert (result.plugin, result.value) == ("empty", "")


async def test_a_survey_takes_plain_and_async_answers():
    """`None` counts as nothing found; one who fails hides nobody else's answer in a survey."""

    async def slow(upkeep):
        await anyio.sleep(0)
        return ["s"]

    def lazily(upkeep):
        yield "l"
        raise OSError("torn")

    async def fails(upkeep):
        raise HostError("No engine.", hint="Start it.")

    calls = dispatcher(
        "moat_find_faults", lazily=lazily, slow=slow, none=lambda: None, fails=fails, plain=lambda: ("p",)
    )
    items, problems = await calls.survey("moat_find_faults", upkeep=None)
    assert items == [("slow", "s"), ("plain", "p")]
    assert [(problem.where, problem.hint) for problem in problems][1] == ("fails", "Start it.")
    assert "OSError: torn" in problems[0].message


async def test_notify_tells_everyone_whoever_fails_or_hangs():
    """The third listener hears it although the first raises and the second never returns."""
    heard = []

    async def raises(result):
        raise ValueError("deaf")

    async def hangs(result):
        await anyio.sleep_forever()

    async def hears(result):
        heard.append(result)

    calls = dispatcher("moat_on_closed", raises=raises, hangs=hangs, hears=hears)
    problems = await calls.notify("moat_on_closed", budget_s=0.02, result=7)
    assert heard == [7]
    assert [problem.where for problem in problems] == ["raises", "hangs"]
    assert "ValueError: deaf" in problems[0].message
    assert "0.02 s" in problems[1].message


async def test_a_listener_within_its_budget_is_shielded():
    """A cancellation of the caller's comes after the listener is done."""
    heard = asyncio.Event()

    async def hears(result):
        await anyio.sleep(0.01)
        heard.set()

    calls = dispatcher("moat_on_closed", hears=hears)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await calls.notify("moat_on_closed", budget_s=5, result=None)
    assert heard.is_set()


def test_contexts_are_made_when_they_are_entered_and_none_is_not_for_me():
    """They come in order, by name; making one calls the implementation."""
    made = []

    @asynccontextmanager
    async def context(run):
        yield

    def maybe(run):
        made.append(run)
        return context(run) if run else None

    calls = dispatcher("moat_open_run", first=(maybe, {"tryfirst": True}), second=context)
    wanted = list(calls.contexts("moat_open_run", run=False))
    assert [each.plugin for each in wanted] == ["first", "second"]
    assert made == []
    assert wanted[0].make() is None
    assert made == [False]


def test_what_is_no_context_is_refused_by_name():
    """An implementation that returns a coroutine or anything else is told how to mend itself."""

    async def late(run):
        pass

    calls = dispatcher("moat_open_run", coroutine=lambda run: late(run) if run else late(None), number=lambda run: 7)
    coroutine, number = calls.contexts("moat_open_run", run=None)
    with pytest.raises(HookContractError, match="'coroutine': moat_open_run returned coroutine"):
        coroutine.make()
    with pytest.raises(HookContractError, match=r"'number'.*int"):
        number.make()


def test_errors_are_attributed():
    """A foreign error becomes HookFailed with its cause; an error of ours passes, with the plugin in its details."""

    def fails(plan):
        raise KeyError("k")

    def ours(plan):
        raise HostError("No.")

    with pytest.raises(HookFailed) as caught:
        dispatcher("moat_check_plan", bad=fails).collect("moat_check_plan", plan=None)
    assert isinstance(caught.value.__cause__, KeyError)
    assert "'bad' failed in moat_check_plan: KeyError" in str(caught.value)
    assert "--without bad" in caught.value.hint
    with pytest.raises(HostError) as caught:
        dispatcher("moat_check_plan", bad=ours).collect("moat_check_plan", plan=None)
    assert caught.value.details == {"plugin": "bad"}


def test_a_lazy_answer_is_read_under_its_plugins_name():
    """A generator that fails half-way is its plugin's failure."""

    def lazily(plan):
        yield "one"
        raise OSError("torn")

    with pytest.raises(HookFailed, match="'lazy'"):
        list(dispatcher("moat_check_plan", lazy=lazily).collect_items("moat_check_plan", plan=None))


def test_calls_can_be_traced(monkeypatch, capsys):
    """With MOAT_TRACE_HOOKS=1 every call is told on stderr, with plugin and milliseconds."""
    monkeypatch.setenv("MOAT_TRACE_HOOKS", "1")
    dispatcher("moat_check_plan", quick=answers(1)).collect("moat_check_plan", plan=None)
    assert "moat hook moat_check_plan quick " in capsys.readouterr().err


def test_unknown_names_come_with_the_nearest_or_all():
    """The nearest if there is one, else everything there is."""
    error = unknown("runtime", "dokcer", ["docker", "apple"])
    assert isinstance(error, UnknownName)
    assert error.hint == "Known: docker."
    assert unknown("runtime", "qqq", ["docker", "apple"]).hint == "Known: docker, apple."
    assert unknown("runtime", "qqq", []).hint == ""


def test_an_only_child_comes_out_of_its_group():
    """However deep; several stay together."""
    inner = ValueError("x")
    assert unwrap(ExceptionGroup("a", [ExceptionGroup("b", [inner])])) is inner
    both = ExceptionGroup("a", [inner, ValueError("y")])
    assert unwrap(both) is both


@pytest.mark.parametrize("error", [HookContractError("Wrong."), ExceptionGroup("g", [HookContractError("Wrong.")])])
def test_a_plugins_error_names_it(error):
    """In its words and in its details, once, also out of a group; an inner plugin's stays its own."""
    dispatcher = Dispatcher(PluginManager())
    with pytest.raises(HookContractError) as caught, dispatcher.calling("outer", "h"), dispatcher.calling("inner", "h"):
        raise error
    assert (str(caught.value), caught.value.details["plugin"]) == ("Plugin 'inner': Wrong.", "inner")
