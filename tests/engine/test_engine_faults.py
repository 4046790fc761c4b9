"""An engine that refuses, hangs, hangs up or loses its answer, at every single call of a run."""

from __future__ import annotations

import asyncio

import pytest
from fault_proxy import FaultProxy

from moat_core import Moat, MoatError


async def live(home, workspace, proxy, monkeypatch):
    """One run with a command and an exec through the proxy; returns its error, if any."""
    monkeypatch.setenv("DOCKER_HOST", proxy.address)
    monkeypatch.setenv("MOAT_ENGINE_TIMEOUT_S", "1.5")
    try:
        async with asyncio.timeout(60):
            async with Moat(home=home, grace_s=4) as moat:
                async with moat.run(workspace, sandbox=False, command=["sh", "-c", "echo hello; sleep 0.2"]) as run:
                    assert (await run.wait()).stdout == b"hello\n"
    except MoatError as error:
        return error
    return None


async def count_calls(home, workspace, engine, tmp_path, monkeypatch):
    with FaultProxy(tmp_path / "count.sock", engine) as proxy:
        assert await live(home, workspace, proxy, monkeypatch) is None
        return list(proxy.requests)


@pytest.mark.parametrize("fault", ["refuse", "close", "lose", "hang"])
async def test_a_fault_at_every_call_leaks_nothing(fault, world, home, workspace, engine, tmp_path, monkeypatch):
    """Whatever call goes wrong, in whatever way: a clear error or a good end, and nothing is left within 5 s."""
    calls = await count_calls(home, workspace, engine, tmp_path, monkeypatch)
    assert len(calls) >= 6
    for at in range(1, len(calls) + 1):
        with FaultProxy(tmp_path / f"{at}.sock", engine, fault, at) as proxy:
            try:
                error = await live(home, workspace, proxy, monkeypatch)
            except TimeoutError as late:
                raise AssertionError((at, proxy.requests)) from late
            struck = proxy.requests[at - 1] if proxy.has_struck else "nothing"
            # The reaper, too, goes through this proxy: it must have finished while it stands.
            left = await asyncio.to_thread(world.wait_until_empty, 8)
        assert not left, (at, struck, left)
        if error is not None:
            assert "Traceback" not in str(error), (at, struck)
            assert error.message.endswith((".", ")")), (at, struck, error.message)
