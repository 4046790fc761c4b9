"""The distribution is `moat-core`: on the package index the name `moat` belongs to somebody else's project."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = [
    path
    for pattern in ("*.md", "*.toml", "*.sh", "*.txt", "*.yaml", "scripts/*")
    for path in ROOT.rglob(pattern)
    if path.is_file() and not {".venv", ".git", ".nox", "_build"} & set(path.relative_to(ROOT).parts)
]
# The word `moat` where an installer reads names: after "pip install" and its like, or in a list of requirements.
INSTALLS = re.compile(
    r"""\b(?:pip|pip3|pipx|uv|poetry|pdm)\ (?:\w+\ )*?(?:install|add|run)\b[^\n`\#]*?(?<![\w./'"-])moat(?![\w./-])"""
    r"""|=\s*\[(?:[^\]]*,)?\s*["']moat\s*(?:\[[\w,\s-]+\])?\s*(?:[<>=!~][^"']*)?["']""",
    re.VERBOSE,
)


def dependencies_of(path):
    project = tomllib.loads(path.read_text()).get("project", {})
    extras = project.get("optional-dependencies", {})
    return [*project.get("dependencies", ()), *(each for extra in extras.values() for each in extra)]


@pytest.mark.parametrize("path", [path for path in TEXTS if path.suffix == ".toml"], ids=str)
def test_nothing_depends_on_the_strangers_project(path):
    """Not ours, not the examples: each requirement's name is read as an installer reads it."""
    names = [re.split(r"[\s\[<>=!~;@]", each, maxsplit=1)[0] for each in dependencies_of(path)]
    assert "moat" not in names


def test_nobody_is_told_to_install_it():
    """No page, example or script names `moat` to an installer."""
    found = {str(path.relative_to(ROOT)): match[0] for path in TEXTS for match in INSTALLS.finditer(path.read_text())}
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "pip install moat",
        "pip install -e 'x' moat",
        "uv tool install moat",
        'dependencies = ["moat"]',
        'x = ["moat[test]"]',
        'd = ["a", "moat>=1"]',
    ],
)
def test_what_would_be_found_is_found(text):
    """The pattern sees what it is there for."""
    assert INSTALLS.search(text)


def test_the_wheel_alone_is_enough(tmp_path):
    """Built and installed into a fresh environment, with what it asks for from the index, it is the command `moat`."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MOAT_"))}
    environ["PIP_CONSTRAINT"] = str(ROOT / "constraints.txt")
    pip = ["-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, *pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, ROOT],
        check=True,
        env=environ,
        timeout=300,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith("moat_core-")
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, *pip[2:], "install", "--quiet", wheel],
        check=True,
        env=environ,
        timeout=300,
    )

    done = subprocess.run(
        [python.parent / "moat", "version"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout.split()[0]) == (0, "moat"), done.stderr
