"""Contracts on names: what a module says is public is what is, and errors are told apart."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import moat_core
from moat_core import errors

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    path
    for package in ("moat_core", "moat_plugins")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__main__.py"
)


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def declared(tree):
    """The names in ``__all__``, if it is a plain list or tuple; ``None`` without one."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            try:
                return list(ast.literal_eval(node.value))
            except ValueError:
                return list(importlib.import_module("moat_core").__all__)
    return None


def defined(tree):
    """The public functions and classes that a module defines at its top level."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_all_names_what_is_there(path):
    """Every name in ``__all__`` can be imported, and none is named twice."""
    tree = ast.parse(path.read_text())
    names = declared(tree)
    if names is None:
        return
    module = importlib.import_module(name_of(path))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert len(set(module.__all__)) == len(module.__all__)


# Hook specifications and plugins are found by their names, and a module's helpers may be used by its neighbours.
@pytest.mark.parametrize(
    "module",
    [
        "moat_core",
        "moat_core.testing",
        *sorted(
            {name_of(path) for path in MODULES if path.name == "__init__.py" and path.parent.parent.name == "moat_core"}
        ),
    ],
)
def test_a_package_exports_what_it_says_and_nothing_else(module):
    """What a package's ``__init__`` imports for others is in its ``__all__``, and the other way round."""
    path = ROOT / Path(*module.split(".")) / "__init__.py"
    tree = ast.parse(path.read_text())
    names = declared(tree)
    if names is None:
        assert not [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module != "__future__"]
        return
    table = getattr(importlib.import_module(module), "_WHERE", None)
    if table is not None:
        assert set(importlib.import_module(module).__all__) - {"__version__"} == set(table)
        typed = {
            alias.asname
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module != "__future__"
            for alias in node.names
        }
        assert typed == set(table)
        return
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("moat_core")
        for alias in node.names
    }
    assert imported == set(names)


def test_every_public_name_is_documented():
    """The first thing that `help` shows of it."""
    assert [
        name for name in moat_core.__all__ if name != "__version__" and not inspect.getdoc(getattr(moat_core, name))
    ] == []


ERRORS = [
    kind for name in errors.__all__ if inspect.isclass(kind := getattr(errors, name)) and issubclass(kind, Exception)
]


def test_every_error_of_ours_is_exported():
    """None is hidden in the module."""
    there = {kind.__name__ for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, Exception)}
    assert {name for name in there if not name.startswith("_")} == {kind.__name__ for kind in ERRORS}


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_says_what_it_is(kind):
    """A docstring of its own, a code of its own, an exit status, and it is in the tree that the module draws."""
    assert kind.__doc__
    assert kind.__doc__ is not kind.__base__.__doc__
    assert issubclass(kind, errors.MoatError)
    assert [other for other in ERRORS if other.code == kind.code] == [kind]
    assert kind.code == kind.code.lower().replace("_", "-")
    assert kind.exit_code in {errors.EXIT_USAGE, errors.EXIT_OURS}
    assert kind.__name__ in errors.__doc__


@pytest.mark.parametrize("kind", [*ERRORS], ids=lambda kind: kind.__name__)
def test_every_error_is_one_sentence_and_json(kind):
    """Whatever it carries beside."""
    if issubclass(kind, errors.CommandFailed):
        from moat_core.types import ExecResult

        error = kind("It failed.", ExecResult(("a",), 3), hint="Try again.")
    elif issubclass(kind, errors.ConfigError | errors.PlanError):
        from moat_core.types import Problem

        error = kind([Problem("It failed.")], hint="Try again.")
    else:
        error = kind("It failed.", hint="Try again.")
    assert str(error) == "It failed."
    data = error.to_json()
    assert (data["code"], data["message"], data["hint"]) == (kind.code, "It failed.", "Try again.")


BUILT_IN = {
    "CommandTimeout": TimeoutError,
    "EngineTimeout": TimeoutError,
    "PathDenied": PermissionError,
    "PathIsDirectory": IsADirectoryError,
    "PathMissing": FileNotFoundError,
    "PathNotDirectory": NotADirectoryError,
    "RuntimeUnavailable": ConnectionError,
    "ServiceNotReady": TimeoutError,
    "WorkspaceError": OSError,
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_errors_are_also_pythons_own(name):
    """So that code which knows nothing of moat can catch them."""
    assert issubclass(getattr(errors, name), BUILT_IN[name])


LIGHT = {
    "moat_core": (),
    "moat_core.errors": (),
    "moat_core.testing": (),
    "moat_core.testing.plugin": ("pytest",),
    "moat_core.store": ("sqlite3",),
    "moat_core.cli.main": (),
    "moat_core.hooks": ("attr", "attrs", "pluggy"),
}


@pytest.mark.parametrize("module", LIGHT)
def test_what_starts_often_starts_light(module):
    """Importing these loads none of the heavy packages but those named."""
    heavy = {
        "attr",
        "attrs",
        "anyio",
        "asyncio",
        "pluggy",
        "yaml",
        "click",
        "aiodocker",
        "aiohttp",
        "structlog",
        "sqlite3",
        "hypothesis",
        "pytest",
    }
    code = f"import sys; import {module}; print(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    allowed = set(LIGHT[module])
    if "pytest" in allowed:
        return  # pytest brings what it likes
    assert heavy.intersection(loaded) - allowed == set()


def test_the_pytest_plugin_loads_nothing_of_ours_before_a_fixture_is_used():
    """It is there in every test run of every project that has moat installed."""
    code = (
        "import sys, pytest; import moat_core.testing.plugin; print([n for n in sys.modules if n.startswith('moat_')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['moat_core', 'moat_core.testing', 'moat_core.testing.plugin']"
