"""The conformance suite on a sandbox that is this machine: it tests the suite, and all that is built on ``exec``."""

from __future__ import annotations

import pytest

from moat_core.testing import HostSandbox, SandboxConformance


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    return HostSandbox(tmp_path_factory.mktemp("sandbox"))


class TestHostSandbox(SandboxConformance):
    """Commands, streams, killing and files through a real shell, without an engine."""

    has_tty = False
    has_users = False
