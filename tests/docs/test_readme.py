"""The README's first screen is true: its example is run as it stands, its commands exist."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys

import click
import pytest
from doc_pages import ROOT, blocks

from moat_core.api import Moat
from moat_core.cli.main import make_cli
from moat_core.runtime.load import load_attribute

README = ROOT / "README.md"
EXAMPLE_LINES = 16
"""Fifteen lines of program, and the line that starts it."""


def _example() -> str:
    (block,) = blocks(README, "python")
    return block.code


def test_the_example_is_short():
    """The library example fits on the first screen."""
    assert len([line for line in _example().splitlines() if line.strip()]) <= EXAMPLE_LINES


def test_the_commands_exist():
    """The README's commands that are scripts are there, and can be executed."""
    named = [line.split()[0] for line in blocks(README, "sh")[0].code.splitlines()]

    assert named == ["./scripts/demo", "./scripts/test"]
    assert all(os.access(ROOT / script, os.X_OK) for script in named)


def test_the_verbs_and_options_exist():
    """Each line of the README's tour names a verb and options of it that exist."""
    group = make_cli()
    lines = [shlex.split(line, comments=True) for line in blocks(README, "sh")[1].code.splitlines()]

    with click.Context(group) as context:
        for _, verb, *words in lines:
            known = {option for each in group.get_command(context, verb).params for option in each.opts}
            options = [word for word in words[: words.index("--") if "--" in words else None] if word.startswith("-")]
            assert set(options) <= known, verb


def test_the_config_is_valid(tmp_path):
    """The README's agent.yaml makes a plan."""
    (block,) = blocks(README, "yaml")
    (tmp_path / "agent.yaml").write_text(block.code)
    moat = Moat(home=tmp_path / "state")

    plan = moat.plan(moat.request(tmp_path))

    assert (plan.name, plan.command) == ("red-panda", ("npm", "start"))


@pytest.mark.engine
async def test_the_example_runs(tmp_path):
    """Copied out of the README and run, the example passes the project's tests in gVisor and leaves nothing."""
    shutil.copytree(ROOT / "examples/python-project", tmp_path / "examples/python-project")
    script = tmp_path / "example.py"
    script.write_text(_example())
    home = tmp_path / "state"

    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "MOAT_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert " in runsc: exit code 0" in done.stdout
    assert " passed" in done.stdout
    assert "2\tgreen" in done.stdout
    async with Moat(home=home) as moat:
        (info,) = await moat.list(over=True)
        runtime = await load_attribute("moat_plugins.docker.runtime:DockerRuntime").connect(info.address)
        try:
            assert info.state == "exited"
            assert moat.store.resources() == []
            assert await runtime.find_sandboxes(info.id) == []
        finally:
            await runtime.aclose()
