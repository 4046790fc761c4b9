"""Every code block of docs/library.md is run: the first as a program, the others in one live run."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import subprocess
import sys

import anyio
import pytest
from doc_pages import DOCS, blocks

from moat_core.api import Moat

PAGE = DOCS / "library.md"
PROGRAM, *SNIPPETS = blocks(PAGE, "python")

pytestmark = pytest.mark.engine


def test_the_first_block_is_a_program(tmp_path):
    """The page's first block, run by itself, prints Python's version."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.code)
    workspace = tmp_path / "workspace"
    workspace.mkdir()

    done = subprocess.run(
        [sys.executable, script],
        cwd=workspace,
        env={**os.environ, "MOAT_HOME": str(tmp_path / "state"), "MOAT_DISABLE": "routing"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )

    assert (done.returncode, done.stdout[:8]) == (0, "Python 3"), done.stderr


async def test_every_snippet(tmp_path, monkeypatch):
    """The other blocks do what they assert, one after the other in one run, and leave nothing."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("MOAT_HOME", str(tmp_path / "state"))
    # A proxy would outlive the test; that it is there has tests of its own.
    async with Moat(without=["routing"]) as moat:
        async with moat.run(".", dependencies=["python"], ports={"web": 8000}) as run:
            names = {"asyncio": asyncio, "moat": moat, "run": run}
            for snippet in SNIPPETS:
                try:
                    await _live(snippet, names)
                except Exception as error:
                    error.add_note(f"in the block at docs/library.md:{snippet.line}")
                    raise
        with anyio.fail_after(30):
            while moat.store.unfinished():  # the detached one's supervisor is at it
                await anyio.sleep(0.05)
        assert moat.store.resources() == []


async def _live(snippet, names):
    """As in a notebook: what a block defines, a later one may use."""
    code = compile(snippet.code, f"{PAGE.name}:{snippet.line}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if inspect.isawaitable(result):
        await result
