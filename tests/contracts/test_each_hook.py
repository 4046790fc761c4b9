"""One test a hook: it is called, when its page says, with what its signature says. And the list is complete."""

from __future__ import annotations

import inspect
import re
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest

from moat_core import hookimpl
from moat_core.config import option
from moat_core.errors import PlanError
from moat_core.events import PhaseStarted, RunStarted
from moat_core.hooks.manager import SPECS, PluginManager
from moat_core.runtime.base import RuntimeInfo
from moat_core.testing import FakeNetwork, FakeSandbox
from moat_core.types import Check, CommandInfo, DependencyInfo, Leftover, Problem, StatusLine

ROOT = Path(__file__).parents[2]
HOOKS = PluginManager().hook_names
PAGES = {module.__name__.rpartition(".")[2]: module for module in SPECS}


def plugin(hook, function, **options):
    """A plugin with one hook."""
    return type("Plugin", (), {hook: staticmethod(hookimpl(**options)(function))})()


# -- the list is complete ------------------------------------------------------------------------------------------


def test_every_hook_has_a_test_of_its_own_here():
    """`test_hook_NAME` for each, and for nothing else."""
    tests = {name.removeprefix("test_hook_") for name in globals() if name.startswith("test_hook_")}
    assert tests == {hook.removeprefix("moat_") for hook in HOOKS}


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_specified_whole(hook):
    """Kind, docstring, annotated arguments and result."""
    manager = PluginManager()
    function = manager.spec(hook)
    assert manager.info(hook).kind
    assert inspect.getdoc(function)
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        assert parameter.default is inspect.Parameter.empty


@pytest.mark.parametrize("phase", PAGES)
def test_a_phases_page_shows_its_hooks_with_their_exact_signatures(phase):
    """In the order of the module."""
    text = (ROOT / "docs" / "hooks" / f"{phase}.md").read_text()
    hooks = [name for name in vars(PAGES[phase]) if name in HOOKS]
    assert re.findall(r"^## (moat_\w+)$", text, re.MULTILINE) == hooks
    for hook in hooks:
        function = getattr(PAGES[phase], hook)
        start = "async def" if inspect.iscoroutinefunction(function) else "def"
        signature = " ".join(f"{start} {hook}{inspect.signature(function)}: ...".replace("'", "").split())
        shown = " ".join(text.split()).replace("( ", "(").replace(", )", ")")
        assert signature in shown


def test_the_docs_mention_no_hook_that_is_not_there():
    """A renamed hook leaves no page behind."""
    known = {*HOOKS, "moat_core", "moat_plugins"}
    unknown = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
        for name in re.findall(
            r"\bmoat_(?:add|register|choose|check|open|resolve|around|on|find)_\w+", path.read_text()
        )
        if name not in known
    }
    assert unknown == set()


def test_the_table_of_contents_names_every_hook():
    """In the docstring of `moat_core.hooks`."""
    import moat_core.hooks

    assert [hook for hook in HOOKS if hook.removeprefix("moat_") not in moat_core.hooks.__doc__] == []


# -- startup -------------------------------------------------------------------------------------------------------


@attrs.frozen
class HelloConfig:
    """A section."""

    word: str = option("hi", help="What is said.", widens=False)


def test_hook_add_config(moat):
    """A section can be set in the file, and read by its class."""
    moat.register(plugin("moat_add_config", lambda schema: schema.add_section("hello", HelloConfig)), "hello")
    moat.file("agent.yaml", "hello:\n  word: ciao\n")
    assert moat.moat().config(moat.workspace).section(HelloConfig).word == "ciao"


def test_hook_register_commands(moat):
    """A verb is listed in the command's help and can be used."""
    moat.file("verbs.py", "import click\n\n@click.command()\ndef greet():\n    click.echo('hello')\n")
    text = "from moat_core import hookimpl\nfrom moat_core.types import CommandInfo\n\n@hookimpl\ndef moat_register_commands():\n    return [CommandInfo('greet', 'Say hello.', 'verbs:greet')]\n"
    moat.file("greeter.py", text)
    environ = {"MOAT_PLUGINS": "moat_core.testing.fake,greeter", "PYTHONPATH": str(moat.workspace)}
    assert "Say hello." in moat.cli("--help", env=environ).stdout
    assert moat.cli("greet", env=environ).stdout == "hello\n"
    assert CommandInfo("greet", "Say hello.", "verbs:greet").name == "greet"


def test_hook_register_runtimes(moat):
    """A runtime can be asked for by its name."""
    moat.register(plugin("moat_register_runtimes", lambda: [RuntimeInfo("moon", "nowhere:Moon")]), "moon")
    assert moat.plan(runtime="moon").runtime == "moon"


def test_hook_register_dependencies(moat):
    """A name can be asked for; the build runs its script, and what it implies is installed."""
    from moat_plugins import dependencies

    info = DependencyInfo("motto:kind", "A motto.", ("jq",), "echo kind >/etc/motto\n")
    moat.register(plugin("moat_register_dependencies", lambda: [info]), "motto")
    moat.register(dependencies, "dependencies")
    plan = moat.plan(dependencies=["motto:kind"])
    assert plan.details["dependencies"] == ["jq", "motto:kind"]
    assert plan.image.files["moat/motto-kind.sh"] == b"echo kind >/etc/motto\n"
    with pytest.raises(PlanError, match="needs a mode"):
        moat.plan(dependencies=["motto"])


async def test_hook_register_resources(moat):
    """A kind that is not registered cannot be acquired; one that is can."""

    @attrs.frozen
    class Flag(FakeNetwork):
        kind = "hello.flag"

    async def body(run):
        await run.run.acquire(Flag(run.run.address, "flag", {}))
        return moat.engine.networks()

    record = await moat.run(body)
    assert "not registered" in str(record.outcome.error)
    moat.register(plugin("moat_register_resources", lambda: [Flag]), "hello")
    record = (await moat.run(body)).assert_clean()
    assert "flag" in record.value


# -- plan ----------------------------------------------------------------------------------------------------------


def test_hook_choose_runtime(moat):
    """Asked when nobody names one."""
    moat.register(plugin("moat_register_runtimes", lambda: [RuntimeInfo("moon", "nowhere:Moon")]), "moon")
    moat.register(plugin("moat_choose_runtime", lambda request, config: "moon"), "choice")
    assert moat.plan().runtime == "moon"
    assert moat.plan(runtime="fake").runtime == "fake"


def test_hook_add_to_plan(moat):
    """It is given the request, the config and the builder."""

    def add(request, config, plan):
        plan.set_env("WHERE", f"{request.workspace.name} {config.core.name}")

    moat.register(plugin("moat_add_to_plan", add), "hello")
    moat.file("agent.yaml", "name: fox\n")
    item = moat.plan().env["WHERE"]
    assert (item.value, item.origin) == ("workspace fox", "hello")


def test_hook_check_plan(moat):
    """It sees the finished plan; a warning is kept, and an error would stop here."""
    moat.register(plugin("moat_check_plan", lambda plan: [Problem(plan.name, severity="warning")]), "hello")
    assert [problem.message for problem in moat.plan(name="fox").warnings] == ["fox"]


# -- open ----------------------------------------------------------------------------------------------------------


def context(log, word):
    @asynccontextmanager
    async def hold(run):
        log.append(word(run))
        yield
        log.append(f"left {run.outcome.status}")

    return hold


async def opened(moat, hook, word):
    log = []
    moat.register(plugin(hook, context(log, word)), "hello")
    record = (await moat.run(["true"])).assert_clean()
    assert log[1:] == ["left finished"]
    return record, log[0]


async def test_hook_open_run(moat):
    """Outermost: nothing of the run is there yet, and the plan may be replaced."""

    @asynccontextmanager
    async def rename(run):
        assert moat.engine.left() == []
        run.replace_plan(attrs.evolve(run.plan, name="renamed"))
        yield
        assert moat.engine.left() == []

    moat.register(plugin("moat_open_run", rename), "hello")
    record = (await moat.run(["true"])).assert_clean()
    assert record.result.name == "renamed"


async def test_hook_resolve_image(moat):
    """The first answer is what the container is made from."""

    async def resolve(run):
        return f"{run.plan.image.reference}@mine"

    moat.register(plugin("moat_resolve_image", resolve), "hello")

    async def body(run):
        return run.run.image

    assert (await moat.run(body)).value == "debian:bookworm-slim@mine"


async def test_hook_build_image(moat):
    """Asked for an image that is to be built, and only then; its answer is what the container is made from."""
    moat.register(plugin("moat_build_image", lambda run, image: f"{image.reference}@built"), "hello")

    def wants(plan):
        plan.image = attrs.evolve(plan.image, dockerfile="FROM scratch\n", tag="mine")

    async def body(run):
        return run.run.image

    assert (await moat.run(body)).value == "debian:bookworm-slim"
    moat.register(plugin("moat_add_to_plan", wants), "wanting")
    assert (await moat.run(body)).value == "mine@built"


async def test_hook_open_network(moat):
    """Before any container exists."""
    record, seen = await opened(moat, "moat_open_network", lambda run: len(moat.engine.containers()))
    assert seen == 0
    record.assert_order(
        "hello:moat_open_network", "moat_open_sandbox", "-moat_open_sandbox", "-hello:moat_open_network"
    )


async def test_hook_open_services(moat):
    """Between networks and the container; names given here are known inside."""

    @asynccontextmanager
    async def serve(run):
        run.add_host("db", "10.0.0.9")
        yield

    moat.register(plugin("moat_open_services", serve), "hello")
    record = (await moat.run(["true"])).assert_clean()
    record.assert_order("moat_open_network", "hello:moat_open_services", "moat_open_sandbox")


async def test_hook_open_sandbox(moat):
    """Its value is the run's sandbox."""

    async def body(run):
        return run.sandbox

    assert isinstance((await moat.run(body)).value, FakeSandbox)


async def test_hook_open_endpoints(moat):
    """The container is up."""
    _, seen = await opened(moat, "moat_open_endpoints", lambda run: run.sandbox.info.state)
    assert seen == "running"


# -- act, finish ---------------------------------------------------------------------------------------------------


async def test_hook_around_exec(moat):
    """Entered before each command, left after it."""
    log = []

    @asynccontextmanager
    async def around(run, command):
        log.append((command.argv, len(moat.engine.commands())))
        yield
        log.append(len(moat.engine.commands()))

    moat.register(plugin("moat_around_exec", around), "hello")
    (await moat.run(["true", "x"])).assert_clean()
    assert log == [(("true", "x"), 0), 1]


async def test_hook_on_event(moat):
    """Told every coarse event of the run, in order."""
    told = []

    async def hear(run, event):
        assert event.run_id == run.id
        told.append(event)

    moat.register(plugin("moat_on_event", hear), "hello")
    record = (await moat.run(["true"])).assert_clean()
    assert told == record.events
    assert [type(event) for event in told[:2]] == [PhaseStarted, RunStarted]


async def test_hook_on_ledger_step(moat):
    """Told each step of making and undoing, just after it was done."""
    steps = []

    async def hear(step):
        steps.append((step.step, step.resource.kind if step.resource else None))

    moat.register(plugin("moat_on_ledger_step", hear), "hello")
    (await moat.run(["true"])).assert_clean()
    made = ["intent", "created", "live"]
    undone = ["releasing", "released", "forgotten"]
    assert steps == [
        ("opened", None),
        *((step, kind) for kind in ("fake.network", "fake.container") for step in made),
        *((step, kind) for kind in ("fake.container", "fake.network") for step in undone),
        ("closed", None),
    ]


async def test_hook_on_body_end(moat):
    """The last look at a live container; how the body ended is known."""
    seen = []

    async def look(run):
        seen.append((run.outcome.status, (await run.sandbox.refresh()).state))

    moat.register(plugin("moat_on_body_end", look), "hello")
    (await moat.run(["true"])).assert_clean()
    assert seen == [("finished", "running")]


async def test_hook_on_closed(moat):
    """Everything is undone, and the result says how it was."""
    seen = []

    async def hear(result):
        seen.append((result.outcome.status, moat.engine.left()))

    moat.register(plugin("moat_on_closed", hear), "hello")
    (await moat.run(["true"])).assert_clean()
    assert seen == [("finished", [])]


# -- upkeep --------------------------------------------------------------------------------------------------------


async def test_hook_find_leftovers(moat):
    """What nobody knows is found; the reaper removes what it may by itself."""
    moat.engine.make("networks", "lost", {"run_id": "run-00000000", "labels": {}})
    moat.engine.make("networks", "wanted", {"run_id": "run-00000001", "labels": {}})

    async def find(upkeep):
        resource = FakeNetwork(moat.engine.folder, "lost")
        return [Leftover("network", "lost", "Lost.", resource, automatic=True)]

    moat.register(plugin("moat_find_leftovers", find), "hello")
    async with moat.moat(without=[]) as library:
        library.plugins.unregister("fake")
        library.plugins.register(plugin("moat_register_resources", lambda: [FakeNetwork]), "kinds")
        reaped = await library.upkeep(automatic=True).reap()
    assert reaped.released == [("", "network lost")]
    assert moat.engine.left() == ["wanted"]


async def test_hook_find_faults(moat):
    """For `moat doctor`: what is well, too."""
    check = Check("hello", "warning", "It is cold.", "Light a fire.")
    moat.register(plugin("moat_find_faults", lambda upkeep: [check]), "hello")
    async with moat.moat() as library:
        items, problems = await library.dispatcher.survey("moat_find_faults", upkeep=library.upkeep())
    assert (items, problems) == ([("hello", check)], [])


async def test_hook_add_to_status(moat):
    """For `moat status`."""
    line = StatusLine("images", "hello", "3 images")
    moat.register(plugin("moat_add_to_status", lambda upkeep: [line]), "hello")
    async with moat.moat() as library:
        items, problems = await library.dispatcher.survey("moat_add_to_status", upkeep=library.upkeep())
    assert (items, problems) == ([("hello", line)], [])
