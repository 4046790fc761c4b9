"""Ends that are easy to get wrong: patience lost, supervisors that break, limits, callbacks that raise."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import pytest
from fault_proxy import FaultProxy

from moat_core import Moat, hookimpl
from moat_core.errors import RunError, TeardownError, UsageError
from moat_core.store.log import read_log
from moat_core.store.paths import Lock, is_locked


async def test_impatience_leaves_nothing_for_long(world, home, workspace):
    """Whoever cancels again and again gets the task back at once, and the reaper does the rest while we live."""
    async with Moat(home=home) as moat:

        async def life():
            async with moat.run(workspace, sandbox=False) as run:
                await run.exec(["sleep", "1000"])

        for delay in (0.0, 0.001, 0.003, 0.01):
            task = asyncio.create_task(life())
            while not await asyncio.to_thread(world.containers):
                await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.sleep(delay)
            while not task.done():
                task.cancel()
                await asyncio.sleep(0)
            deadline = time.monotonic() + 5
            while await asyncio.to_thread(world.containers) and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
            assert not await asyncio.to_thread(world.containers), delay
        deadline = time.monotonic() + 5
        while world.rows() and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert world.rows() == []


async def test_a_plugin_that_exits_ends_the_run_in_order(world, home, workspace):
    """sys.exit() in a plugin is that plugin's failure: it is told, and everything is undone."""

    class Exits:
        @hookimpl
        async def moat_on_event(self, run, event):
            if type(event).__name__ == "RunStarted":
                sys.exit(3)

    async with Moat(home=home, plugins={"exits": Exits()}) as moat:
        async with moat.run(workspace, sandbox=False) as run:
            assert (await run.exec(["true"])).ok
        assert any("exits" in str(problem) for problem in run.run.problems)
    assert not world.wait_until_empty(15)


async def test_what_the_callback_raises_comes_back_as_it_is(world, home, workspace):
    """on_output's own error ends the run and is raised, not another one in its place."""

    async def on_output(output):
        raise ValueError("my callback failed")

    async with Moat(home=home) as moat:
        with pytest.raises(ValueError, match="my callback failed"):
            async with moat.run(workspace, sandbox=False, command=["echo", "x"], on_output=on_output) as run:
                await run.wait()
    assert not world.wait_until_empty(15)


async def test_what_could_not_be_undone_is_raised(world, home, workspace):
    """A body that ended well does not hide that the end did not."""

    class Stuck:
        @hookimpl
        @asynccontextmanager
        async def moat_open_services(self, run):
            yield
            raise OSError("the tape is jammed")

    async with Moat(home=home, plugins={"stuck": Stuck()}) as moat:
        with pytest.raises(TeardownError, match="the tape is jammed"):
            async with moat.run(workspace, sandbox=False):
                pass


@pytest.mark.parametrize("sandbox", [True, False], ids=["gvisor", "runc"])
async def test_the_time_limit_ends_a_run_without_a_command(world, home, workspace, sandbox):
    """timeout_s bounds the run, whatever it does."""
    async with Moat(home=home) as moat:
        with pytest.raises(RunError, match="time limit"):
            async with moat.run(workspace, sandbox=sandbox, timeout_s=1.5) as run:
                await run.exec(["sleep", "1000"])
    assert not world.wait_until_empty(15)


def test_the_time_limit_ends_a_detached_run(moat, world):
    """-d --timeout is kept by the supervisor."""
    done = moat("run", "-d", "--no-sandbox", "--timeout", "2")
    assert done.returncode == 0, done.stderr
    assert not world.wait_until_empty(8)


async def detach(moat, workspace, **arguments):
    async with moat.run(workspace, sandbox=False, **arguments) as run:
        await run.detach()
        return run.id


async def test_detach_keeps_the_limit_and_the_wish_to_keep(world, home, workspace, moat):
    """What was asked for goes with the run: its time limit, and that its container is to be kept."""
    async with Moat(home=home) as library:
        await detach(library, workspace, timeout_s=2)
    assert not await asyncio.to_thread(world.wait_until_empty, 8)
    async with Moat(home=home) as library:
        kept = await detach(library, workspace, keep=True, command=["sleep", "1"])
    deadline = time.monotonic() + 10
    while [row[2] for row in world.rows()] != ["kept"] and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    listed = json.loads((await asyncio.to_thread(moat, "list", "--json")).stdout)
    assert [(run["id"], run["state"]) for run in listed] == [(kept, "kept")]
    assert (await asyncio.to_thread(moat, "destroy", "-f", kept)).returncode == 0


async def test_a_command_that_ends_while_it_is_handed_over_has_ended_well(world, home, workspace, monkeypatch):
    """The supervisor, slow to start, finds it over: that is its end, and no error."""
    from moat_core.api import supervisor

    give = supervisor._give

    def late(process, task):
        subprocess.run(["docker", "wait", f"moat-{json.loads(task)['adopt']}"], check=True, capture_output=True)
        give(process, task)

    monkeypatch.setattr(supervisor, "_give", late)
    async with Moat(home=home) as library:
        run_id = await detach(library, workspace, command=["sh", "-c", "echo out; sleep 1; exit 7"])
    assert not await asyncio.to_thread(world.wait_until_empty, 10)
    async with Moat(home=home) as library:
        ended = library.store.run(run_id)
    assert (ended.status, ended.exit_code) == ("finished", 7)
    assert [record.data for record in read_log(home / "runs" / run_id)] == [b"out\n"]


async def test_a_supervisor_survives_a_broken_connection(world, home, workspace, engine, tmp_path, monkeypatch, moat):
    """All of its connections to the engine break at once: the run lives on, and so does its log."""
    with FaultProxy(tmp_path / "engine.sock", engine) as proxy:
        monkeypatch.setenv("DOCKER_HOST", proxy.address)
        command = ["sh", "-c", "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.7; done"]
        async with Moat(home=home) as library:
            run_id = await detach(library, workspace, command=command)
            assert library.store.run(run_id).owner_pid != os.getpid()
        while not await asyncio.to_thread(moat, "logs", run_id):
            await asyncio.sleep(0.05)
        proxy.break_connections()
        assert not await asyncio.to_thread(world.wait_until_empty, 15)
        logged = (await asyncio.to_thread(moat, "logs", run_id)).stdout
    assert logged == b"".join(b"line %d\n" % n for n in range(1, 7))


async def test_a_plugin_of_this_process_cannot_be_handed_over(world, home, workspace):
    """A supervisor could not load it: detach() says so, and the run goes on."""
    async with Moat(home=home, plugins={"mine": object()}) as moat, moat.run(workspace, sandbox=False) as run:
        with pytest.raises(UsageError, match="mine"):
            await run.detach()
        assert (await run.exec(["true"])).ok


def test_looking_does_not_hinder_an_owner(tmp_path):
    """A lock that is only looked at, however often, can be taken at the first try."""
    import threading

    path = str(tmp_path / "lock")
    stop = threading.Event()

    def look():
        while not stop.is_set():
            is_locked(path)

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(300):
            lock = Lock(path)
            assert lock.acquire()
            lock.release()
    finally:
        stop.set()
        for looker in lookers:
            looker.join()


def test_a_teardown_problem_is_not_success(world, workspace, tmp_path, home):
    """`moat run` of a command that ended with 0 does not end with 0 when something is left behind."""
    (tmp_path / "stuck_plugin.py").write_text(
        "from contextlib import asynccontextmanager\nfrom moat_core import hookimpl\n"
        "@hookimpl\n@asynccontextmanager\nasync def moat_open_services(run):\n    yield\n    raise OSError('jammed')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "moat_core.cli", "run", "--no-sandbox", "--", "true"], cwd=workspace,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "MOAT_PLUGINS": "stuck_plugin"}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 125
    assert b"jammed" in done.stderr
    assert b"Traceback" not in done.stderr
