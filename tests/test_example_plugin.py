"""`examples/plugin-hello`, installed beside moat into a fresh environment, as its users would install it.

Both are built into wheels, so this also sees what a wheel of moat lacks. The packages that both depend on come from
the environment of the tests, through a path file: nothing is fetched.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "plugin-hello"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A fresh environment with both distributions; returns how to run something in it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", symlinks=True)
    binaries = folder / "venv" / "bin"
    site = sysconfig.get_path("purelib", vars={"base": str(folder / "venv")})
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["-m", "pip", "--python", str(binaries / "python"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, *install, "--no-deps", "--no-index", "--no-build-isolation", ROOT, EXAMPLE],
        check=True,
        capture_output=True,
        timeout=120,
    )
    work = folder / "work"
    work.mkdir()
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MOAT_", "PYTHON", "PYTEST"))}

    def run(*argv, cwd=work):
        return subprocess.run(
            [binaries / argv[0], *argv[1:]],
            cwd=cwd,
            env={**inherited, "PATH": f"{binaries}:{os.environ['PATH']}", "MOAT_HOME": str(folder / "home")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    run.work = work
    run.site = site
    return run


def test_both_are_installed_from_their_wheels(environment):
    """Neither is imported from the checkout."""
    code = "import moat_core, moat_plugins, moat_plugin_hello as h; print(moat_core.__file__, moat_plugins.__file__, h.__file__)"
    done = environment("python", "-c", code)
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(environment.site) for path in done.stdout.split()), done.stdout


def test_the_plugin_is_listed_with_its_distribution(environment):
    """As a third party's, after the built-ins."""
    done = environment("moat", "plugins")
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("hello"))
    assert "moat-plugin-hello" in line
    assert "0.1.0" in line


def test_its_verb_runs(environment):
    """With its section of the config, which `moat config` knows."""
    (environment.work / "agent.yaml").write_text("hello:\n  word: Ciao\n")
    done = environment("moat", "hello", "fox")
    assert (done.returncode, done.stdout) == (0, "Ciao, fox!\n"), done.stderr
    done = environment("moat", "--without", "hello", "hello", "fox")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_its_own_tests_pass(environment):
    """With moat_core.testing, from its own distribution."""
    done = environment("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=EXAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed" in done.stdout


def test_it_uses_public_names_only():
    """At run time nothing of the command, the lifecycle or the store, nor of another plugin."""
    import ast

    for path in (EXAMPLE / "src").rglob("*.py"):
        tree = ast.parse(path.read_text())
        typing_only = {
            id(node)
            for block in ast.walk(tree)
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
            for node in ast.walk(block)
        }
        modules = [
            node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and id(node) not in typing_only and node.module
        ]
        forbidden = ("moat_core.cli", "moat_core.lifecycle", "moat_core.store", "moat_plugins")
        assert [module for module in modules if module.startswith(forbidden)] == []
