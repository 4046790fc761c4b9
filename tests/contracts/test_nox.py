"""Every session of nox starts what it says it starts. Run dry: the program that it ends in is asked for its help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOX = [sys.executable, "-m", "nox", "--no-venv", "--noxfile", ROOT / "noxfile.py"]
SESSIONS = json.loads(subprocess.run([*NOX, "--list", "--json"], capture_output=True, check=True).stdout)
NEEDS_DOCS = "sphinx"
"""What is no part of the environment of the tests: this session is seen to ask for it."""


@pytest.mark.parametrize("session", [each["name"] for each in SESSIONS])
def test_a_session_runs(session):
    """With ``--help`` for its programs, in the environment of the tests."""
    done = subprocess.run(
        [*NOX, "--session", session, "--", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )

    if session == "docs":
        assert f"No module named {NEEDS_DOCS}" in done.stdout + done.stderr or done.returncode == 0, done.stderr
    else:
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_says_what_it_is_for():
    """In `nox -l`."""
    assert [each["name"] for each in SESSIONS if not each["description"]] == []
