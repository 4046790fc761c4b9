"""The conformance suite on a sandbox that is this machine: it tests the suite, and all that is built on ``exec``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from moat_core.testing import HostSandbox, SandboxConformance


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    yield HostSandbox(tmp_path_factory.mktemp("sandbox"))
    for path in Path("/tmp").glob("moat-*"):  # the suite writes where a container has a folder of its own
        if path.name == "moat-files":
            shutil.rmtree(path, ignore_errors=True)
        elif path.name in {"moat-plain", "moat-progress"}:
            path.unlink(missing_ok=True)


class TestHostSandbox(SandboxConformance):
    """Commands, streams, killing and files through a real shell, without an engine."""

    has_tty = False
    has_users = False
