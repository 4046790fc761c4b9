"""What moat runs on the host, where an agent could have written it: its owner's script lies in the workspace.

The attacker is the agent. It leaves modules under names that moat imports, and waits: for its owner to die, for the
owner's next import, for the next `moat` of a virtual environment. Its code on the host leaves a mark in a folder that
no run was given.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from attack import attack

from moat_core.api import Moat
from moat_core.errors import MoatError
from moat_plugins.workspace import shield

_RUNNER = """
import asyncio, os, signal, sys
from moat_core import Moat
import moat_core.ledger.watchdog, moat_core.lifecycle.open

if sys.argv[1] == "control":
    argv = [sys.executable, "-m", "moat_core.store.vigil"]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    moat_core.ledger.watchdog.process_argv = lambda *_: argv
    moat_core.lifecycle.open.look_there_last = lambda folders: None

async def main():
    async with Moat() as moat, moat.run(os.path.dirname(__file__), sandbox=sys.argv[3] == "gVisor") as run:
        for name in sys.argv[4:]:
            await run.write(name, open("evil.txt").read())
        if sys.argv[2] == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        __import__(sys.argv[2])
        import beside
        print(beside.__file__)

asyncio.run(main())
"""
_DEATHS = {
    "the standard library's": ("runc", ["sqlite3.py"]),
    "a package of it": ("runc", ["collections/__init__.py", "importlib/__init__.py"]),
    "moat itself": ("runc", ["moat_core/__init__.py"]),
    "what starts with Python": ("runc", ["sitecustomize.py", "usercustomize.py"]),
    "from gVisor": ("gVisor", ["sqlite3.py", "signal.py", "json/__init__.py"]),
}


@pytest.fixture
def project(tmp_path):
    """A project whose script runs an agent in it, and where the agent's code leaves its mark."""
    folder, mark = tmp_path / "project", tmp_path / "marked"
    folder.mkdir()
    (folder / "runner.py").write_text(_RUNNER)
    (folder / "beside.py").touch()
    (folder / "evil.txt").write_text(f"open({str(mark)!r}, 'a').write('x')\nraise ImportError('evil')\n")
    return folder


def start(project, *words, defended):
    argv = [sys.executable, str(project / "runner.py"), "defended" if defended else "control", *words]
    return subprocess.run(argv, cwd=project, capture_output=True, text=True, timeout=120, check=False)


@attack("own code", _DEATHS)
def test_the_owner_dies_and_its_modules_are_the_agents(row, defended, world, project):
    """Who undoes the run would import them; and undo nothing."""
    sandbox, names = row
    done = start(project, "dies", sandbox, *names, defended=defended)
    assert done.returncode == -9, done.stderr
    mark, deadline = project.parent / "marked", time.monotonic() + 60
    while (left := world.containers()) and not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    subprocess.run([sys.executable, "-I", "-m", "moat_core.cli", "list"], capture_output=True, check=True)  # undoes it
    return mark.exists() or (left and f"left: {left}")


@attack(
    "own code", {"the standard library's": "stringprep", "an installed package": "h2", "a package of ours": "grpclib"}
)
def test_the_owner_imports_late(row, defended, world, project):
    """While its run lives: the guard's `h2`, what a codec needs. What the project has of its own is found as before."""
    done = start(project, row, "runc", f"{row}/__init__.py", defended=defended)
    if defended:
        assert Path(done.stdout.strip()) == project / "beside.py", done.stderr
    return (project.parent / "marked").exists()


_CHANGES = {
    "a module changed": "echo evil >/workspace/.venv/lib/anyio.py",
    "a module added": "echo evil >/workspace/.venv/lib/evil.py",
    "another in its place": "mv /workspace/.venv /workspace/old && mkdir -p /workspace/.venv/lib && echo evil >/workspace/.venv/lib/anyio.py",
    "a link in its place": "rm -rf /workspace/.venv; ln -s mine /workspace/.venv && mkdir -p /workspace/mine/lib && echo evil >/workspace/mine/lib/evil.py",
}  # fmt: skip


@attack(
    "own code",
    {f"{what}, {sandbox}": (words, sandbox) for what, words in _CHANGES.items() for sandbox in ("runc", "gVisor")},
)
async def test_moat_is_installed_in_the_workspace(row, defended, world, workspace, monkeypatch):
    """`.venv` of the project is where moat runs from: the next command would run what the agent has put there."""
    words, sandbox = row
    (workspace / ".venv/lib").mkdir(parents=True)
    (workspace / ".venv/lib/anyio.py").write_text("mine")
    monkeypatch.setattr(shield, "own_code", lambda: [str(workspace / ".venv")] if defended else [])
    try:
        async with Moat() as moat, moat.run(workspace, sandbox=sandbox == "gVisor") as run:
            await run.exec(["sh", "-c", words])
    except MoatError as error:
        pytest.fail(str(error))
    found = (
        [path.read_text() for path in (workspace / ".venv/lib").iterdir()]
        if os.path.exists(workspace / ".venv/lib")
        else []
    )
    return "evil\n" in found
