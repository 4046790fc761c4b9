"""The engine refuses, hangs, or does without answering, at each call of a run: the run ends, and nothing leaks.

The calls are counted by running once.
"""

from __future__ import annotations

import asyncio
import os

import anyio
import pytest

from moat_core.errors import EngineError, EngineTimeout, MoatError, RuntimeUnavailable

TIMEOUT_S = 0.02


async def body(run):
    result = await run.exec(["true"])
    assert result.exit_code == 0


async def count_calls(moat):
    """How many calls a run makes; and leave the engine as it was."""
    record = await moat.run(body)
    record.assert_clean()
    return len(own_calls(moat.engine))


def own_calls(engine):
    """The calls of this process; a reaper may be at work in another."""
    return [call["call"] for call in engine.calls() if call["pid"] == os.getpid()]


@pytest.fixture
def engine(moat):
    """The engine, with short answers awaited."""
    moat.engine.set_timeout(TIMEOUT_S)
    moat.grace_s = 2.0
    return moat.engine


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["refuse", "hang", "lose"])
async def test_a_fault_at_any_one_call_ends_the_run_with_its_error_and_nothing_left(moat, engine, how):
    """Each call goes wrong once: what was open is undone, and the error or a problem says what happened."""
    calls = await count_calls(moat)
    assert calls >= 6
    for at in range(1, calls + 1):
        engine.behave()
        before = len(own_calls(engine))
        engine.misbehave(how, at=before + at)
        record = await asyncio.wait_for(moat.run(body), 10)
        bad = own_calls(engine)[before + at - 1]
        error = record.outcome.error
        told = [str(problem) for problem in record.problems] + ([] if error is None else [str(error)])
        assert any(bad in words for words in told), (at, bad, record)
        if error is not None:
            assert isinstance(error, EngineError if how == "refuse" else EngineTimeout)
            assert error.hint
        engine.behave()
        await finish(moat)
        assert moat.left() == [], (at, bad)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["refuse", "hang"])
async def test_an_engine_that_breaks_for_good_ends_the_run_and_a_later_look_finishes_the_work(moat, engine, how):
    """From each call on nothing is answered any more: the run ends within its graces; once the engine is well again, all goes."""
    moat.grace_s = 0.1
    calls = await count_calls(moat)
    for at in range(1, calls + 1):
        engine.behave()
        engine.misbehave(how, at=len(own_calls(engine)) + at, onwards=True)
        record = await asyncio.wait_for(moat.run(body), 10)
        assert record.outcome.status == "failed" or record.problems, at
        assert isinstance(record.outcome.error, MoatError | None)
    engine.behave()
    await finish(moat)
    assert moat.left() == []


async def test_what_the_engine_makes_after_its_client_gave_up_is_removed_all_the_same(moat, engine):
    """A container that appears a second after its creation timed out is waited for, and removed."""
    for kind in ("create_network", "create_container"):
        engine.behave()
        engine.misbehave("late", call=kind)
        moat.grace_s = 10.0
        record = await asyncio.wait_for(moat.run(body), 10)
        assert isinstance(record.outcome.error, EngineTimeout)
        assert record.left == []
        await anyio.sleep(0.2)
        assert engine.left() == [], kind


async def test_an_engine_that_goes_down_under_a_live_run_ends_it_with_a_clear_error(moat, engine):
    """The run ends with the engine's error; what it held is removed once the engine is back."""
    moat.grace_s = 0.1

    async def down(run):
        engine.go_down()
        await asyncio.wait({run._driver})
        with pytest.raises(MoatError):
            await run.exec(["true"])

    record = await asyncio.wait_for(moat.run(down), 10)
    assert isinstance(record.outcome.error, RuntimeUnavailable)
    assert record.problems
    assert record.left
    engine.come_up()
    await finish(moat)
    assert moat.left() == []


async def finish(moat):
    """Do what every later command does."""
    async with moat.moat() as library:
        upkeep = library.upkeep(automatic=True)
        with anyio.fail_after(15):
            while moat.left():
                await upkeep.reap()
                await anyio.sleep(0.05)
