"""The examples of docs/hooks are plugins that work, and each hook has its section, its signature and its example."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import tempfile

import pytest
from click.testing import CliRunner
from doc_pages import DOCS, headings

from moat_core.api import Moat
from moat_core.errors import PlanError
from moat_core.hooks.manager import SPECS, PluginManager, load_plugins
from moat_core.runtime.load import load_attribute

PHASES = {spec.__name__.rpartition(".")[2]: spec for spec in SPECS}
EXAMPLES = {f"hooks_{phase}": f"hooks_{phase}" for phase in PHASES}
HOOKS = [(phase, name) for phase, spec in PHASES.items() for name in vars(spec) if name.startswith("moat_")]


@pytest.fixture(scope="module")
def builtins():
    """The built-in plugins."""
    return load_plugins(environ={})


def _modules():
    return {name: importlib.import_module(module) for name, module in EXAMPLES.items()}


def _section(phase, hook):
    text = (DOCS / f"hooks/{phase}.md").read_text()
    (section,) = re.findall(rf"^## {hook}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return section


@pytest.mark.parametrize("phase", PHASES)
def test_a_page_has_a_section_for_each_hook(phase):
    """The page of a phase has the hooks of its module as sections, in the same order, and no others."""
    assert [hook for of, hook in HOOKS if of == phase] == headings(DOCS / f"hooks/{phase}.md", 2)


@pytest.mark.parametrize(("phase", "hook"), HOOKS)
def test_a_section_begins_with_the_signature(phase, hook):
    """The first block of a hook's section is its signature as it stands in the specification."""
    source = inspect.getsource(getattr(PHASES[phase], hook))
    signature = re.search(r"^(async )?def .*?:$", source, re.MULTILINE | re.DOTALL)

    first = re.search(r"```python\n(.*?)\n```", _section(phase, hook), re.DOTALL)

    assert f"{signature[0]} ..." == first[1]


@pytest.mark.parametrize(("phase", "hook"), HOOKS)
def test_a_section_tells_kind_and_implementers(builtins, phase, hook):
    """Kind and built-in implementers are what the code says."""
    info = builtins.info(hook)
    kind = f"{info.kind}, exactly one" if info.exactly_one else str(info.kind)
    names = [
        impl.plugin_name
        for impl in builtins.implementations(hook)
        if builtins.plugins[impl.plugin_name].origin == "moat-core"
    ]
    who = ", ".join(f"`{name}`" for name in names) or "nobody built in"

    assert f"Kind: **{kind}**. Implemented by: {who}." in _section(phase, hook)


@pytest.mark.parametrize(("phase", "hook"), HOOKS)
def test_a_section_shows_code(phase, hook):
    """Each section shows an implementation from a file that exists and is run."""
    shown = re.search(r"```\{literalinclude\} (\S+)", _section(phase, hook))

    assert shown is not None
    text = (DOCS / "hooks" / shown[1]).read_text()
    assert f"def {hook}(" in text or f"def {hook.removeprefix('moat_')}(" in text


def test_the_examples_register():
    """Every example passes the checks of registration."""
    manager = PluginManager()

    for name, module in _modules().items():
        manager.register(module, name)

    assert set(EXAMPLES) == set(manager.plugins)


def test_the_config_example(tmp_path):
    """The section can be set in the file, and a mistake in it is an error."""
    (tmp_path / "agent.yaml").write_text("greeting: {word: Ahoy}\n")
    startup = _modules()["hooks_startup"]
    moat = Moat(home=tmp_path / "state", plugins={"startup": startup})

    assert moat.config(tmp_path).section(startup.GreetingConfig).word == "Ahoy"


def test_the_command_example():
    """The verb that is registered can be loaded, and greets."""
    (info,) = _modules()["hooks_startup"].moat_register_commands()

    assert CliRunner().invoke(load_attribute(info.load), ["you"]).stdout == "Hello, you!\n"


def test_the_plan_example(tmp_path, monkeypatch):
    """It adds its variable under its name, and refuses a mount of the user's keys."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / "work").mkdir()
    moat = Moat(home=tmp_path / "state", plugins={"team": _modules()["hooks_plan"]})

    plan = moat.plan(moat.request(tmp_path / "work"))
    assert (plan.env["TEAM"].value, plan.env["TEAM"].origin) == ("green", "team")

    with pytest.raises(PlanError, match="our keys are in it"):
        moat.plan(moat.request(tmp_path / "work", mounts=[f"{tmp_path}/.ssh:/keys"]))


@pytest.mark.engine
async def test_all_examples_in_one_run(tmp_path, monkeypatch):
    """With all examples loaded a run gets what they add, they see it live and end, and nothing is left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "work").mkdir()
    modules = _modules()
    counter = modules["hooks_act"].StepCounter()

    plugins = {**modules, "counter": counter}
    async with Moat(home=tmp_path / "state", plugins=plugins, without=["routing"]) as moat:
        async with moat.run(tmp_path / "work", ports={"web": 8000}) as run:
            scratch = tmp_path / "tmp" / f"moat-scratch-{run.id}"
            assert (scratch / "beat").is_file()
            urls = json.loads((run.run.home / "urls.json").read_text())
            assert run.url("web") == urls["web"]
            motto = await run.exec(["sh", "-c", "cat /etc/motto; echo $TEAM; touch /scratch/a; echo done >report.txt"])
            assert motto.stdout == b"be kind\ngreen\n"
            status = await modules["hooks_upkeep"].moat_add_to_status()
            assert status[0].data == {"folders": 1}
        home = run.run.home

        assert not scratch.exists()
        assert (home / "report.txt").read_bytes() == b"done\n"
        assert not (home / "urls.json").exists()
        audit = (home / "audit.log").read_text()
        assert " sh took " in audit
        assert "RunStarted" in audit
        assert f"{run.id},finished," in (tmp_path / "tmp/runs.csv").read_text()
        assert "live example.scratch" in counter.steps
        assert counter.steps.index("forgotten docker.container") < counter.steps.index("forgotten example.scratch")

        # Something that no row knows: found, and released as a leftover.
        lost = tmp_path / "tmp/moat-scratch-run-0badcafe"
        lost.mkdir()
        (leftover,) = await modules["hooks_upkeep"].moat_find_leftovers(moat.upkeep())
        await moat.upkeep().release_leftover(leftover)
        assert not lost.exists()
        (check,) = await modules["hooks_upkeep"].moat_find_faults()
        assert check.status in {"ok", "warning"}
