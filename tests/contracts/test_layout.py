"""Contracts on the layout: sizes, the anatomy of plugins, what is listed and what is there."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PLUGINS = sorted(path.parent.name for path in (ROOT / "moat_plugins").glob("*/__init__.py"))
SOURCES = sorted(path for package in ("moat_core", "moat_plugins") for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FILE_LINES, FUNCTION_LINES, TEST_FILE_LINES = 400, 60, 600


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_sources_are_small_enough_to_read_whole(path):
    """No file of more than 400 lines, no function of more than 60."""
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_LINES
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {
        node.name: length for node in functions if (length := node.end_lineno - node.lineno + 1) > FUNCTION_LINES
    } == {}


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_module_says_what_it_is_for(path):
    """In its first lines."""
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_test_files_are_bounded_too():
    """No file of more than 600 lines."""
    assert {
        name(path): lines for path in TESTS if (lines := len(path.read_text().splitlines())) > TEST_FILE_LINES
    } == {}


def test_every_test_says_what_it_is_for():
    """In one sentence, as its docstring."""
    silent = [
        f"{name(path)}: {node.name}"
        for path in TESTS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_no_test_is_skipped_for_want_of_an_engine():
    """What needs an engine fails without one."""
    engine = (ROOT / "tests" / "engine").rglob("*.py")
    assert [name(path) for path in engine if "pytest.skip" in (text := path.read_text()) or "mark.skip" in text] == []


def test_the_built_ins_that_are_listed_are_those_that_are_there():
    """The entry points name every folder of moat_plugins, as a third party would name its own."""
    listed = PYPROJECT["project"]["entry-points"]["moat"]
    assert listed == {plugin: f"moat_plugins.{plugin}" for plugin in listed}
    assert sorted(listed) == PLUGINS


def test_the_layers_contract_knows_every_plugin():
    """No built-in is left out of the rule that plugins do not know each other."""
    contracts = {contract["name"]: contract for contract in PYPROJECT["tool"]["importlinter"]["contracts"]}
    assert sorted(contracts["plugins do not know each other"]["modules"]) == [
        f"moat_plugins.{name}" for name in PLUGINS
    ]


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_plugins_front_holds_hooks_only_and_is_light(plugin):
    """`__init__` defines hook implementations and nothing else public; what it needs is imported inside them."""
    tree = ast.parse((ROOT / "moat_plugins" / plugin / "__init__.py").read_text())
    public = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    assert public
    for node in public:
        assert node.name.startswith("moat_"), node.name
        assert any("hookimpl" in ast.unparse(decorator) for decorator in node.decorator_list), node.name
        assert ast.get_docstring(node), node.name
    heavy = ("anyio", "asyncio", "aiodocker", "aiohttp", "yaml", "click", "subprocess")
    imported = [
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert [module for module in imported if module.split(".")[0] in heavy] == []


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_plugin_has_its_anatomy(plugin):
    """Its config section in `config.py`, if it has one; tests of its own."""
    folder = ROOT / "moat_plugins" / plugin
    front = (folder / "__init__.py").read_text()
    assert ("def moat_add_config(" in front) == (folder / "config.py").exists()
    tests = [
        *(ROOT / "tests" / "plugins").glob(f"{plugin}/test_*.py"),
        *(ROOT / "tests" / "engine").glob(f"test_{plugin}*.py"),
    ]
    assert tests


MACHINE = ("/work/", "/root/", "pypi.org", "pythonhosted", "deb.debian.org", "registry.npmjs")


@pytest.mark.parametrize(
    "path", [*SOURCES, *(ROOT / "examples").rglob("*.py"), *(ROOT / "examples").rglob("*.toml")], ids=name
)
def test_nothing_names_this_machine_or_a_registry(path):
    """What is here runs anywhere; `/root` inside a container is meant with its quote."""
    text = path.read_text()
    assert [word for word in MACHINE if word in text] == []
