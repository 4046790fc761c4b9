"""`Moat`: what is shared by the runs of one program, and what others see of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import anyio
import pytest

from moat_core import Moat, Mount
from moat_core.errors import RunOver, RuntimeUnavailable, TeardownError, UnknownName, UsageError
from moat_core.testing import HangsOnClose


async def test_nothing_happens_before_it_must(moat):
    """Making and entering a Moat touches neither disk nor engine."""
    async with moat.moat():
        pass
    assert not os.path.exists(moat.home.path)
    assert moat.engine.calls() == []


async def test_runs_need_an_open_moat(moat):
    """The error says how to open it."""
    library = moat.moat()
    with pytest.raises(RunOver) as caught:
        async with library.run(moat.workspace):
            pass
    assert "async with Moat()" in caught.value.hint


async def test_all_runs_share_one_connection_and_one_watchdog(moat):
    """A run costs no second client and no second shell."""
    async with moat.moat() as library:
        async with library.run(moat.workspace) as one, library.run(moat.workspace) as two:
            assert await one.run.runtime() is await two.run.runtime()
            watchdog = library._watchdog.pid
            assert watchdog
        async with library.run(moat.workspace):
            assert library._watchdog.pid == watchdog
    with pytest.raises(ProcessLookupError):
        os.kill(watchdog, 0)


async def test_a_watchdog_that_was_killed_is_replaced_by_the_next_run(moat):
    """A long-lived program is not left without one."""
    async with moat.moat() as library:
        async with library.run(moat.workspace):
            first = library._watchdog.pid
        os.kill(first, signal.SIGKILL)
        with anyio.fail_after(5):
            while library._watchdog._process.poll() is None:
                await anyio.sleep(0.01)
        async with library.run(moat.workspace):
            assert library._watchdog.pid != first
            os.kill(library._watchdog.pid, 0)


async def test_two_moats_of_one_program_do_not_disturb_each_other(moat):
    """One that closes while the other's run lives calls no reaper for it."""
    async with moat.moat() as first, first.run(moat.workspace) as run:
        async with moat.moat() as second:
            async with second.run(moat.workspace):
                pass
            watchdog = second._watchdog._process
        assert watchdog.returncode == 0
        assert "reaper" not in "".join(os.listdir(moat.home.path)) or not reaper_log(moat)
        assert (await run.exec(["true"])).ok


def reaper_log(moat):
    with open(os.path.join(moat.home.path, "reaper.log")) as file:
        return file.read()


async def test_what_could_not_be_undone_is_told_and_reaped(moat):
    """Leaving raises what is left; the watchdog is let go without a word, becomes the reaper, and finishes the work."""
    moat.grace_s = 0.1
    moat.engine.misbehave("refuse", call="remove_container")
    async with moat.moat() as library:
        with pytest.raises(TeardownError, match="remove_container"):
            async with library.run(moat.workspace):
                pass
        assert moat.left()
        moat.engine.behave()
    with anyio.fail_after(10):
        while moat.left():
            await anyio.sleep(0.05)
    assert "its owner is gone" in reaper_log(moat)


async def test_runs_are_listed_found_and_attached_to(moat):
    """By id, prefix and name, from another Moat as from another process."""
    async with moat.moat() as library, library.run(moat.workspace, name="fox") as run:
        async with moat.moat() as other:
            (info,) = await other.list()
            assert (info.id, info.name, info.state, info.owner_pid) == (run.id, "fox", "running", os.getpid())
            assert info.to_json()["state"] == "running"
            for reference in (run.id, run.id[:8], "fox"):
                assert (await other.find(reference)).id == run.id
            attached = await other.attach("fox")
            assert (await attached.exec(["true"])).ok
            await attached.sandbox.refresh()
            with pytest.raises(UnknownName) as caught:
                await other.find("foxx")
            assert "fox" in caught.value.hint
    async with moat.moat() as other:
        assert await other.list() == []
        (info,) = await other.list(over=True)
        assert (info.state, info.owner_pid) == ("exited", None)
        with pytest.raises(RunOver):
            await other.attach("fox")


async def test_a_name_that_means_several_is_told_with_all(moat):
    """Two live runs of one name are told apart by their ids."""
    async with moat.moat() as library:
        async with library.run(moat.workspace, name="fox") as one, library.run(moat.workspace, name="fox") as two:
            with pytest.raises(UnknownName) as caught:
                await library.find("fox")
            assert one.id in caught.value.hint
            assert two.id in caught.value.hint


async def test_a_run_whose_engine_is_down_is_listed_with_the_reason(moat):
    """It hides nothing, and attaching raises the whole error."""
    async with moat.moat() as library:
        with pytest.raises(RuntimeUnavailable):
            async with library.run(moat.workspace, name="fox") as run:
                moat.engine.go_down()
                async with moat.moat() as other:
                    (info,) = await other.list()
                    assert "down" in info.engine_error
                    with pytest.raises(RuntimeUnavailable):
                        await other.attach("fox")
                with anyio.fail_after(5):
                    while not run.run.cancel_requested:  # it sees by itself that its engine has gone
                        await anyio.sleep(0.01)
                moat.engine.come_up()
    assert moat.left() == []


async def test_without_an_engine_entering_says_where_it_was_looked_for(moat, monkeypatch):
    """And nothing is left of the attempt."""
    monkeypatch.delenv("MOAT_FAKE_ENGINE")
    async with moat.moat() as library:
        with pytest.raises(RuntimeUnavailable) as caught:
            async with library.run(moat.workspace):
                pass
    assert "MOAT_FAKE_ENGINE" in caught.value.hint
    assert isinstance(caught.value, ConnectionError)


async def test_a_run_can_be_detached(moat):
    """It lives on under a supervisor of its own, without a moment unowned; `moat stop` ends it."""
    async with moat.moat() as library:
        async with library.run(moat.workspace, name="fox") as run:
            await run.detach()
        assert len(moat.engine.containers()) == 1
    async with moat.moat() as other:
        (info,) = await other.list()
        assert info.state == "running"
        assert info.owner_pid not in {None, os.getpid()}
    done = moat.cli("stop", "fox")
    assert done.returncode == 0, done.stderr
    assert moat.left() == []


async def test_mounts_may_be_written_as_flags(moat):
    """As on the command line."""
    async with moat.moat() as library:
        request = library.request(moat.workspace, mounts=["/a:/b:ro", Mount("/c", "/d")])
    assert [str(mount) for mount in request.mounts] == ["/a:/b:ro", "/c:/d"]


def test_leaving_plugins_out(moat):
    """By name; an unknown one is an error."""
    assert "fake" not in Moat(without=["fake"]).plugins.hook_names
    assert {info.name: info.state for info in Moat(without=["fake"]).plugin_infos()}["fake"] == "disabled"
    with pytest.raises(UsageError):
        _ = Moat(without=["fkae"]).plugins


def test_importing_moat_core_does_nothing_and_is_light():
    """No third-party package is loaded, nor anything of ours, before a name is used."""
    code = "import sys; import moat_core; print(sorted(name for name in sys.modules if name.startswith(%r)))"
    heavy = (
        "moat_core.",
        "moat_plugins",
        "attr",
        "anyio",
        "asyncio",
        "pluggy",
        "yaml",
        "click",
        "aiodocker",
        "structlog",
        "sqlite3",
    )
    done = subprocess.run([sys.executable, "-c", code % (heavy,)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


async def test_a_hanging_exit_does_not_hang_the_program(moat):
    """With a plugin that never closes, leaving takes the grace."""
    moat.grace_s = 0.05
    moat.register(HangsOnClose(), "villain")
    with anyio.fail_after(10):
        async with moat.moat() as library:
            handle = library.run(moat.workspace)
            with pytest.raises(TeardownError):
                async with handle:
                    pass
            assert (await handle.aclose()).problems
