"""`moat deps`: readable in any width, stable as JSON."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from moat_core.api import Moat
from moat_core.errors import UnknownName
from moat_core.plan import offered_dependencies
from moat_plugins import dependencies
from moat_plugins.dependencies.cli import deps
from moat_plugins.dependencies.registry import DYNAMIC, KINDS, REGISTRY

FIELDS = {"name", "type", "summary", "default", "versions", "requires", "members", "package", "command", "source"}


@pytest.fixture
def run(monkeypatch):
    def invoke(*argv, columns=100):
        monkeypatch.setenv("COLUMNS", str(columns))
        return CliRunner().invoke(deps, argv)

    return invoke


def test_command_is_registered():
    """The verb names this very group."""
    from moat_core.runtime.load import load_attribute

    (info,) = dependencies.moat_register_commands()
    assert info.name == "deps"
    assert load_attribute(info.load) is deps


def test_list_shows_everything(run, tmp_path):
    """Every name is listed, one a line."""
    done = run("list")
    assert done.exit_code == 0
    offered = offered_dependencies(Moat(home=tmp_path).dispatcher)
    names = {line.split()[0] for line in done.stdout.splitlines()}
    assert names == {*REGISTRY, *(f"{name}:" for name in DYNAMIC), *offered}


@pytest.mark.parametrize("columns", [30, 59, 60, 80, 200])
def test_list_fits_the_terminal(run, columns):
    """No line is wider than the terminal, down to a narrow one."""
    lines = run("list", columns=columns).stdout.splitlines()
    assert max(len(line) for line in lines) <= columns


@pytest.mark.parametrize("kind", KINDS)
def test_list_of_one_type(run, kind):
    """--type leaves only its own."""
    found = json.loads(run("list", "--type", kind, "--json").stdout)
    assert found or kind == "plugin"
    assert {entry["type"] for entry in found} <= {kind}


def test_json_is_stable_and_alone(run):
    """The fields are the documented ones, and nothing else is on stdout."""
    assert all(set(entry) == FIELDS for entry in json.loads(run("list", "--json").stdout))
    assert set(json.loads(run("info", "ripgrep", "--json").stdout)) == FIELDS


@pytest.mark.parametrize("name", ["node", "ripgrep", "python-dev", "npm:", "npm:left-pad", "pytest"])
def test_info(run, name):
    """Everything about one name, and the line to write."""
    done = run("info", name)
    assert done.exit_code == 0
    assert "under dependencies:" in done.stdout


def test_info_of_nothing_names_the_nearest(run):
    """An unknown name is an error of the user's, with the nearest."""
    done = run("info", "rufff")
    assert isinstance(done.exception, UnknownName)
    assert "ruff" in done.exception.hint
    assert isinstance(run("info", "bad:x").exception, UnknownName)
