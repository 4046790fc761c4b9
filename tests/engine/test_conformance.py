"""The conformance suite on real containers: the docker plugin's sandbox, on runc and in gVisor."""

from __future__ import annotations

import os

import pytest_asyncio

from moat_core import Moat
from moat_core.testing import SandboxConformance


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["runc", "runsc"])
async def sandbox(request, engine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("conformance")
    # The workspace's owner is whom commands run as: somebody to whom not everything is allowed.
    workspace = folder / "workspace"
    workspace.mkdir()
    os.chown(workspace, 1234, 1234)
    async with Moat(home=folder / "home") as moat:
        async with moat.run(workspace, sandbox=request.param == "runsc") as run:
            assert run.oci_runtime == request.param
            yield run.sandbox


class TestDockerSandbox(SandboxConformance):
    """Each check on both OCI runtimes."""
