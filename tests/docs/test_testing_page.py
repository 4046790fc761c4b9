"""The tests that docs/testing-plugins.md shows pass, put together in one file as a plugin's author would."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from doc_pages import DOCS, ROOT, blocks

_INI = """\
[pytest]
asyncio_mode = auto
markers = engine: needs an engine
"""


def _run(tmp_path, marker):
    (tmp_path / "pytest.ini").write_text(_INI)
    (tmp_path / "scratch").mkdir()
    page = "\n\n".join(block.code for block in blocks(DOCS / "testing-plugins.md", "python"))
    (tmp_path / "test_page.py").write_text(page)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", marker, "test_page.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "examples/hooks"), "TMPDIR": str(tmp_path / "scratch")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_quick_tests_pass(tmp_path):
    """All tests of the page that need no engine pass, and leave no scratch folder."""
    done = _run(tmp_path, "not engine")

    assert (done.returncode, "5 passed" in done.stdout) == (0, True), done.stdout
    assert list((tmp_path / "scratch").glob("moat-scratch-*")) == []


@pytest.mark.engine
def test_the_engine_test_passes(tmp_path):
    """The one that needs an engine passes on it."""
    done = _run(tmp_path, "engine")

    assert (done.returncode, "1 passed" in done.stdout) == (0, True), done.stdout
