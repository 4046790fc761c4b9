"""However the body of a run ends, everything is undone in exact reverse and the outcome says how it was."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import anyio
import pytest

from moat_core import hookimpl
from moat_core.errors import HookContractError, RunError, SandboxGone, ServiceCrashed
from moat_core.testing import DiesLater

ALL = ("run", "net", "rt", "end")


async def test_a_run_that_goes_well_closes_in_exact_reverse(moat, layers):
    """Contexts are left newest first, each service stopping just before what was opened below it."""
    record = await moat.run(["true"])
    assert layers.log == layers.expected(*ALL)
    assert layers.log[4:] == ["-end", "svc-end", "-rt", "svc-rt", "-net", "svc-net", "-run", "svc-run"]
    record.assert_clean().assert_order(
        "layers:moat_open_run",
        "fake:moat_open_network",
        "layers:moat_open_network",
        "fake:moat_open_sandbox",
        "-fake:moat_open_sandbox",
        "-layers:moat_open_network",
        "-fake:moat_open_network",
        "-layers:moat_open_run",
        "moat_on_closed",
    )
    assert [type(event).__name__ for event in record.events] == [
        "PhaseStarted",
        "RunStarted",
        "PhaseStarted",
        "ExecStarted",
        "ExecEnded",
        "RunEnded",
        "PhaseStarted",
    ]


async def test_an_error_in_the_body_is_the_outcome_and_reaches_the_caller(moat, layers):
    """An exception raised under `async with` passes through unchanged, and plugins see it as the outcome."""
    error = ValueError("mine")

    async def body(run):
        raise error

    record = await moat.run(body)
    assert record.outcome.error is error
    assert layers.outcomes == ["failed"] * 4
    assert layers.log == layers.expected(*ALL)
    async with moat.moat() as library:
        with pytest.raises(ValueError, match="mine"):
            async with library.run(moat.workspace) as run:
                await body(run)
    assert moat.left() == []


@pytest.mark.parametrize("way", ["task", "anyio scope", "asyncio.timeout"])
async def test_a_cancelled_body_is_a_cancelled_run(moat, layers, way):
    """Whatever cancels the caller in the body, contexts are left in peace and the cancellation goes on."""
    alive = asyncio.Event()

    async def body(run):
        alive.set()
        if way == "anyio scope":
            scope.cancel()
        elif way == "asyncio.timeout":
            limit.reschedule(asyncio.get_running_loop().time())
        await asyncio.sleep(3600)

    if way == "task":
        task = asyncio.create_task(moat.run(body))
        await alive.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    elif way == "anyio scope":
        with anyio.CancelScope() as scope:
            await moat.run(body)
        assert scope.cancelled_caught
    else:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as limit:
                await moat.run(body)
    assert layers.log == layers.expected(*ALL)
    assert layers.outcomes == ["cancelled"] * 4
    assert not layers.result.problems
    assert moat.left() == []


@pytest.mark.parametrize("error", [None, RunError("Enough.")])
async def test_a_request_to_end_is_heard_by_the_body_of_execute(moat, layers, error):
    """`Run.cancel` makes the run end; waiting for its command raises why."""

    async def body(run):
        run.run.cancel(error)
        with pytest.raises(RunError):
            await run.wait()

    moat.engine.reply(["sleep"], hangs=True)
    record = await moat.run(body, command=["sleep", "9"])
    assert record.outcome.status == ("failed" if error else "cancelled")
    assert record.outcome.error is error
    assert layers.log == layers.expected(*ALL)
    assert record.left == []


@pytest.mark.parametrize("error", [None, OSError("broken"), SandboxGone("It is gone.")])
async def test_a_service_that_dies_ends_the_run_in_order(moat, layers, error):
    """A crash or an early end of a service is the outcome; an error of ours is told as it is."""
    villain = DiesLater(error)
    moat.register(villain, "villain")

    async def body(run):
        villain.kill.set()
        await asyncio.sleep(3600)

    record = await asyncio.wait_for(_until_dead(moat, body), 5)
    kind = SandboxGone if isinstance(error, SandboxGone) else ServiceCrashed
    assert type(record.outcome.error) is kind
    assert layers.log == layers.expected(*ALL)
    assert record.left == []


async def _until_dead(moat, body):
    """Run a body that never ends by itself, until its run does."""

    async def watched(run):
        task = asyncio.create_task(body(run))
        await asyncio.wait({task, run._driver}, return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        await asyncio.wait({task})

    return await moat.run(watched)


async def test_several_services_that_die_together_leave_the_undoing_its_time(moat, layers):
    """What breaks while the run is undone already takes nobody's time away: no context is cut short."""
    villains = [DiesLater(OSError(str(number))) for number in range(3)]
    for number, villain in enumerate(villains):
        moat.register(villain, f"villain{number}")

    async def body(run):
        for villain in villains:
            villain.kill.set()
        await asyncio.sleep(3600)

    class Slow:
        """Takes a while to leave, during which the others die."""

        closed = False

        @hookimpl
        @asynccontextmanager
        async def moat_open_endpoints(self, run):
            yield
            run.cancel(OSError("one more"))
            await anyio.sleep(0.05)
            self.closed = True

    slow = Slow()
    moat.register(slow, "slow")
    record = await _until_dead(moat, body)
    assert slow.closed
    assert record.outcome.status == "failed"
    assert layers.log == layers.expected(*ALL)
    assert not any("not undone" in str(problem) for problem in record.problems)
    assert record.left == []


async def test_a_container_that_ends_by_itself_ends_the_run(moat, layers):
    """A run without a command whose container ends has failed, and says with which exit code."""

    async def body(run):
        moat.engine.end(run.sandbox.info.id, 137)
        await asyncio.sleep(3600)

    record = await _until_dead(moat, body)
    assert isinstance(record.outcome.error, SandboxGone)
    assert "exit code 137" in str(record.outcome.error)
    assert layers.log == layers.expected(*ALL)


async def test_a_plugins_own_task_group_may_live_across_its_yield(moat, layers):
    """Discouraged, but a context that holds a task group is entered, shielded and left like any other."""
    log = []

    class Grouped:
        @hookimpl
        @asynccontextmanager
        async def moat_open_services(self, run):
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                yield
                await anyio.sleep(0)
                log.append("left")
                group.cancel_scope.cancel()

    moat.register(Grouped(), "grouped")
    alive = asyncio.Event()

    async def body(run):
        alive.set()
        await asyncio.sleep(3600)

    task = asyncio.create_task(moat.run(body))
    await alive.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["left"]
    assert layers.log == layers.expected(*ALL)
    assert moat.left() == []


async def test_a_plugins_own_task_group_that_dies_ends_the_run_and_all_is_undone(moat, layers):
    """When such a group dies under the run, the layers above and below it are still left in order."""
    die = asyncio.Event()

    class Grouped:
        @hookimpl
        @asynccontextmanager
        async def moat_open_services(self, run):
            async def dies():
                await die.wait()
                raise OSError("broken")

            async with anyio.create_task_group() as group:
                group.start_soon(dies)
                yield

    moat.register(Grouped(), "grouped")

    async def body(run):
        die.set()
        await asyncio.sleep(3600)

    record = await _until_dead(moat, body)
    assert isinstance(record.outcome.error, HookContractError)
    assert any("ExceptionGroup" in str(problem) for problem in record.problems)
    assert layers.log == layers.expected(*ALL)
    assert record.left == []


async def test_a_dying_loop_undoes_the_run_all_the_same(moat, layers):
    """A driver that is cancelled from outside, as `asyncio.run` does at its end, still undoes everything."""

    async def body(run):
        run._driver.cancel()
        await asyncio.wait({run._driver})

    with pytest.raises(asyncio.CancelledError):
        await moat.run(body)
    assert layers.log == layers.expected(*ALL)
    assert moat.left() == []
