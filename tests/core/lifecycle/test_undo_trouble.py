"""Trouble while a run is undone: every exit runs, within its time, and what failed is told."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import anyio
import pytest

from moat_core import hookimpl
from moat_core.errors import ServiceNotReady, TeardownError
from moat_core.testing import FailsToClose, FailsToOpen, HangsOnClose, HangsOnOpen, NeverReady, SlowToClose

ALL = ("run", "net", "rt", "end")


async def test_an_exit_that_fails_stops_no_other(moat, layers):
    """Every failing exit is a problem naming plugin and hook; the others run, in order."""
    moat.register(FailsToClose(), "one")
    moat.register(FailsToClose(TeardownError("Tired.")), "two")
    record = await moat.run(["true"])
    assert layers.log == layers.expected(*ALL)
    assert [problem.where for problem in record.problems] == ["two moat_open_services", "one moat_open_services"]
    assert "RuntimeError: The villain does not close." in str(record.problems[1])
    assert "clean" in record.problems[1].hint
    assert record.outcome.status == "finished"
    assert not record.result.is_clean
    assert record.left == []


async def test_an_exit_that_hangs_is_cut_off_after_the_grace(moat, layers):
    """A hanging exit costs its grace and no more; the problem says how long it was waited for."""
    moat.grace_s = 0.05
    moat.register(HangsOnClose(), "villain")
    record = await asyncio.wait_for(moat.run(["true"]), 5)
    assert layers.log == layers.expected(*ALL)
    assert [problem.where for problem in record.problems] == ["villain moat_open_services"]
    assert "not undone in 0.1 s" in str(record.problems[0])
    assert record.left == []


async def test_an_exit_has_its_time_after_a_cancellation(moat, layers):
    """A cancelled run is undone in peace: a slow exit is let finish within the grace."""
    villain = SlowToClose(0.05)
    moat.register(villain, "villain")
    alive = asyncio.Event()

    async def body(run):
        alive.set()
        await asyncio.sleep(3600)

    task = asyncio.create_task(moat.run(body))
    await alive.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert villain.closed
    assert not layers.result.problems


async def test_a_second_cancellation_takes_all_patience(moat, layers):
    """Cancelled again while it hangs in an exit, a run gives nothing any more time, and the ledger says what is left."""
    moat.grace_s = 3600
    villain = HangsOnClose()
    moat.register(villain, "villain")
    alive = asyncio.Event()

    async def body(run):
        alive.set()
        await asyncio.sleep(3600)

    task = asyncio.create_task(moat.run(body))
    await alive.wait()
    task.cancel()
    await villain.hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(task), 5)
    assert layers.log[:6] == ["+run", "+net", "+rt", "+end", "-end", "svc-end"]
    assert "villain moat_open_services" in {problem.where for problem in layers.result.problems}
    await moat_is_empty(moat)  # what had no time was the reaper's


async def moat_is_empty(moat):
    """Wait until the reaper, in its own process, has undone everything."""
    with anyio.fail_after(10):
        while moat.left():
            await anyio.sleep(0.05)


async def test_a_service_that_will_not_stop_is_a_problem(moat, layers):
    """A service that fails when it is stopped is told as a problem; the others are stopped all the same."""

    class Stubborn:
        @hookimpl
        @asynccontextmanager
        async def moat_open_services(self, run):
            async def serve(*, task_status):
                task_status.started()
                try:
                    await anyio.sleep_forever()
                finally:
                    raise OSError("no")

            await run.start_service("stubborn", serve)
            yield

    moat.register(Stubborn(), "villain")
    record = await moat.run(["true"])
    assert [(problem.where, problem.message) for problem in record.problems] == [("stubborn", "OSError: no")]
    assert layers.log == layers.expected(*ALL)


async def test_a_service_that_is_never_ready_is_given_up(moat, layers):
    """A service has its time to say it is ready; then it is stopped and the run fails, naming it."""
    moat.register(NeverReady(0.05), "villain")
    record = await asyncio.wait_for(moat.run(["true"]), 5)
    assert isinstance(record.outcome.error, ServiceNotReady)
    assert isinstance(record.outcome.error, TimeoutError)
    assert "never-ready" in str(record.outcome.error)
    assert layers.log == layers.expected("run", "net", "rt")
    assert record.left == []


@pytest.mark.parametrize("villain", [FailsToOpen, HangsOnOpen])
async def test_a_villain_beside_it_keeps_no_plugin_from_being_undone(moat, layers, villain):
    """The villains that plugin authors are offered do what they are named for."""
    plugin = villain()
    moat.register(plugin, "villain")
    if villain is FailsToOpen:
        record = await moat.run(["true"])
        assert "The villain does not open." in str(record.outcome.error)
    else:
        task = asyncio.create_task(moat.run(["true"]))
        await plugin.hanging.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert layers.log == layers.expected("run", "net", "rt")
    assert moat.left() == []


EVENT_HOOKS = ("moat_on_event", "moat_on_ledger_step", "moat_on_body_end", "moat_on_closed")


def listener(hook, what):
    """Make a plugin that does WHAT when it is told HOOK, whatever its arguments are."""
    arguments = {
        "moat_on_event": "run, event",
        "moat_on_ledger_step": "step",
        "moat_on_body_end": "run",
        "moat_on_closed": "result",
    }[hook]
    namespace = {"what": what}
    exec(f"async def {hook}(self, {arguments}):\n    await what()", namespace)
    return type("Listener", (), {hook: hookimpl(namespace[hook])})()


async def fails():
    raise ValueError("deaf")


@pytest.mark.parametrize("hook", EVENT_HOOKS)
async def test_a_listener_that_fails_or_hangs_stops_nothing(moat, layers, hook):
    """Event hooks that raise or hang delay a run by its grace at most, and everything is undone."""
    moat.grace_s = 0.02
    moat.register(listener(hook, fails), "fails")
    moat.register(listener(hook, anyio.sleep_forever), "hangs")
    record = await asyncio.wait_for(moat.run(["true"]), 10)
    assert record.outcome.status == "finished"
    assert layers.log == layers.expected(*ALL)
    assert record.left == []
    if hook != "moat_on_ledger_step":
        told = {(problem.where, "did not return" in str(problem)) for problem in record.problems}
        assert told == {("fails", False), ("hangs", True)}


async def test_a_hanging_listener_does_not_keep_a_cancellation_waiting(moat, layers):
    """A caller who is cancelled while a listener hangs waits for the grace, not for ever."""
    moat.grace_s = 0.05
    moat.register(listener("moat_on_event", anyio.sleep_forever), "hangs")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await moat.run()
    assert moat.left() == []


async def test_a_subscriber_that_raises_stops_nothing(moat, layers):
    """A callback for events that fails is a problem of the run."""

    def fail(event):
        raise OSError("closed")

    async with moat.moat() as library:
        handle = library.run(moat.workspace, on_event=fail)
        async with handle as run:
            await run.exec(["true"])
        result = await handle.aclose()
    assert result.outcome.status == "finished"
    assert {problem.where for problem in result.problems} == {"events"}
    assert layers.log == layers.expected(*ALL)
    assert moat.left() == []


async def test_an_exit_may_raise_a_cancellation_of_its_own(moat, layers):
    """A context that raises CancelledError by itself when it is left loses nobody else's exit."""

    class Odd:
        @hookimpl
        @asynccontextmanager
        async def moat_open_services(self, run):
            yield
            raise asyncio.CancelledError

    moat.register(Odd(), "odd")
    record = await moat.run(["true"])
    assert [problem.where for problem in record.problems] == ["odd moat_open_services"]
    assert layers.log == layers.expected(*ALL)
    assert record.left == []
