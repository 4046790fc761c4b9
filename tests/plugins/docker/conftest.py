"""Connections to a scripted engine."""

from __future__ import annotations

import anyio
import pytest
from scripted_engine import ScriptedEngine

from moat_plugins.docker.client import Engine
from moat_plugins.docker.endpoint import find_endpoint


@pytest.fixture
def scripted(tmp_path):
    """A context: ``async with scripted(script) as (scripted engine, Engine)``."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def serve(script, timeout_s=5.0):
        path = tmp_path / "engine.sock"
        theirs = ScriptedEngine(path, script)
        with anyio.fail_after(20):
            async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as group:
                group.start_soon(listener.serve, theirs.serve)
                engine = await Engine.connect(theirs.address, timeout_s=timeout_s)
                try:
                    yield theirs, engine
                finally:
                    await engine.aclose()
                    group.cancel_scope.cancel()

    return serve


@pytest.fixture
def endpoint(tmp_path):
    """A place where nothing is."""
    return find_endpoint(f"unix://{tmp_path}/none.sock")
