"""A run as the library's user holds it, on the fake engine."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import anyio
import pytest

from moat_core import Command, CommandFailed, MoatError, hookimpl
from moat_core.errors import (
    CommandTimeout,
    ConfigError,
    EngineError,
    HookFailed,
    PlanError,
    RunError,
    RunOver,
    SandboxGone,
    UsageError,
)
from moat_core.events import ExecEnded, ExecStarted


@pytest.fixture
async def library(moat):
    """An entered Moat."""
    async with moat.moat() as library:
        yield library


async def test_a_commands_end_is_data(moat, library):
    """Whatever the code; `check` raises with the result."""
    moat.engine.reply(["pytest"], stdout=b"1 failed\n", stderr=b"a\nb\nc\nd\n", exit_code=1)
    async with library.run(moat.workspace) as run:
        result = await run.exec(["pytest", "-q"])
        assert (result.exit_code, result.returncode, result.ok) == (1, 1, False)
        assert (result.text, result.stderr) == ("1 failed\n", b"a\nb\nc\nd\n")
        with pytest.raises(CommandFailed, match="pytest ended with exit code 1") as caught:
            await run.exec(["pytest"], check=True)
        assert caught.value.result.stdout == b"1 failed\n"
        assert caught.value.hint == "b\nc\nd"
    assert moat.engine.commands() == [("pytest", "-q"), ("pytest",)]


async def test_what_is_given_to_a_command_arrives(moat, library):
    """Environment, folder, user and input."""
    async with library.run(moat.workspace) as run:
        await run.exec(["cmd"], env={"A": "b"}, cwd="/x", user="root", stdin="ä")
    (call,) = moat.engine.calls("exec")
    assert (call["env"], call["cwd"], call["user"]) == ({"A": "b"}, "/x", "root")
    assert [call["data"] for call in moat.engine.calls("stdin")] == ["ä".encode().decode("latin-1")]
    assert len(moat.engine.calls("close_stdin")) == 1


async def test_a_timeout_is_data_too(moat, library):
    """`timed_out` says so, and 137; checked it is a TimeoutError with the partial result."""
    moat.engine.reply(["slow"], stdout=b"begun", hangs=True)
    async with library.run(moat.workspace) as run:
        result = await run.exec(["slow"], timeout_s=0.05)
        assert (result.timed_out, result.exit_code, result.stdout) == (True, 137, b"begun")
        with pytest.raises(TimeoutError) as caught:
            await run.exec(["slow"], timeout_s=0.05, check=True)
        assert isinstance(caught.value, CommandTimeout)
        assert caught.value.result.stdout == b"begun"


@pytest.mark.parametrize("argv", ["ls -l", [], [1], ["ls", None], None])
async def test_a_command_is_a_list_of_strings(moat, library, argv):
    """Anything else is told at once."""
    async with library.run(moat.workspace) as run:
        with pytest.raises(UsageError) as caught:
            await run.exec(argv)
        assert '["sh", "-c"' in caught.value.hint
    assert moat.engine.commands() == []


async def test_a_started_command_is_streamed(moat, library):
    """Its output comes in pieces; leaving its context ends it."""
    moat.engine.reply(["server"], stdout=b"listening\n", hangs=True)
    async with library.run(moat.workspace) as run:
        async with run.start(["server"], stdin=True, tty=True, size=(10, 20)) as process:
            assert (await anext(aiter(process))).data == b"listening\n"
            await process.write(b"hello")
            await process.resize(30, 40)
    assert [call["data"] for call in moat.engine.calls("stdin")] == ["hello"]


class Around:
    """Writes down what surrounds a command."""

    def __init__(self, log, name):
        self.log, self.name = log, name

    @hookimpl
    @asynccontextmanager
    async def moat_around_exec(self, run, command):
        self.log.append(f"+{self.name} {command.argv[0]}")
        yield
        await anyio.sleep(0)
        self.log.append(f"-{self.name}")


async def test_commands_are_surrounded_in_order_and_told(moat):
    """Contexts are entered in order and left in reverse, also around a timeout, a failure and a started command."""
    log, events = [], []
    moat.register(Around(log, "a"), "a")
    moat.register(Around(log, "b"), "b")
    moat.engine.reply(["slow"], hangs=True)
    async with moat.moat() as library, library.run(moat.workspace) as run:
        unsubscribe = run.subscribe(events.append)
        await run.exec(["quick"])
        await run.exec(["slow"], timeout_s=0.02)
        async with run.start(["started"]):
            pass
        unsubscribe()
        await run.exec(["unheard"])
    assert log == [
        word for name in ("quick", "slow", "started", "unheard") for word in (f"+a {name}", f"+b {name}", "-b", "-a")
    ]
    told = [(type(event), event.exec_id[-2:]) for event in events]
    assert told[:5] == [
        (ExecStarted, ".1"),
        (ExecEnded, ".1"),
        (ExecStarted, ".2"),
        (ExecEnded, ".2"),
        (ExecStarted, ".3"),
    ]
    assert events[3].timed_out


async def test_a_context_around_a_command_that_fails_keeps_it_from_starting(moat):
    """The plugin is named, what was entered is left, and the run goes on."""
    log = []
    moat.register(Around(log, "a"), "a")

    class Refuses:
        @hookimpl
        @asynccontextmanager
        async def moat_around_exec(self, run, command):
            if command.argv == ("forbidden",):
                raise ValueError("no")
            yield

    moat.register(Refuses(), "refuses")
    async with moat.moat() as library, library.run(moat.workspace) as run:
        with pytest.raises(HookFailed, match="'refuses'"):
            await run.exec(["forbidden"])
        assert log == ["+a forbidden", "-a"]
        assert (await run.exec(["allowed"])).ok
    assert moat.engine.commands() == [("allowed",)]


async def test_a_cancelled_command_leaves_its_surroundings_in_peace(moat):
    """A cancellation while a command runs ends it; its contexts are left in full, and the run lives on."""
    log = []
    moat.register(Around(log, "a"), "a")
    moat.engine.reply(["slow"], hangs=True)
    async with moat.moat() as library, library.run(moat.workspace) as run:
        with anyio.move_on_after(0.02):
            await run.exec(["slow"])
        assert log == ["+a slow", "-a"]
        assert (await run.exec(["quick"])).ok


async def test_its_own_command_is_waited_for(moat, library):
    """With its output, which is in its log as well."""
    moat.engine.reply(["train"], stdout=b"out", stderr=b"err\n", exit_code=7)
    async with library.run(moat.workspace, command=["train"]) as run:
        result = await run.wait()
        assert await run.wait() == result
    assert (result.argv, result.exit_code, result.stdout, result.stderr) == (("train",), 7, b"out", b"err\n")
    row = moat.store().run(run.id)
    assert (row.exit_code, row.status, row.command) == (7, "finished", ["train"])
    log = (moat.workspace.parent / "moat-home" / "runs" / run.id / "log").read_bytes()
    assert b" o out\n" in log
    assert b" E err\n" in log


async def test_its_own_commands_output_can_be_heard_instead(moat, library):
    """It is then not kept in memory."""
    heard = []

    async def hear(output):
        heard.append((output.stream, output.data))

    moat.engine.reply(["train"], stdout=b"out", stderr=b"err")
    async with library.run(moat.workspace, command=["train"], on_output=hear) as run:
        result = await run.wait()
    assert sorted(heard) == [("stderr", b"err"), ("stdout", b"out")]
    assert result.stdout == b""


async def test_its_own_command_has_its_time(moat, library):
    """When it is up, the container is stopped, and it says so."""
    moat.engine.reply(["train"], hangs=True)
    async with library.run(moat.workspace, command=["train"], timeout_s=0.05) as run:
        result = await run.wait()
    assert (result.timed_out, result.exit_code) == (True, 137)
    assert moat.left() == []


async def test_without_a_command_there_is_nothing_to_wait_for(moat, library):
    """The error says what to use."""
    async with library.run(moat.workspace) as run:
        with pytest.raises(UsageError) as caught:
            await run.wait()
    assert caught.value.hint == "Use exec()."


async def test_a_run_is_entered_once_and_over_when_left(moat, library):
    """Before and after, everything says so; closing it again is harmless."""
    handle = library.run(moat.workspace)
    with pytest.raises(RunOver, match="not entered"):
        _ = handle.id
    async with handle as run:
        pass
    with pytest.raises(RunOver, match="is over"):
        await run.exec(["true"])
    with pytest.raises(UsageError, match="entered once"):
        async with handle:
            pass
    assert (await handle.aclose()).is_clean


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"name": "Not A Name"}, PlanError), ({"options": {"nothing": {"x": 1}}}, ConfigError)],
)
async def test_what_cannot_be_is_told_when_it_is_entered(moat, library, arguments, error):
    """And nothing is made."""
    handle = library.run(moat.workspace, **arguments)
    with pytest.raises(error):
        async with handle:
            pass
    assert not handle.is_begun
    assert moat.store().runs() == []


async def test_a_run_that_cannot_open_raises_why(moat, library):
    """The engine's error, after all is undone."""
    moat.engine.misbehave("refuse", call="create_container")
    with pytest.raises(EngineError, match="create_container"):
        async with library.run(moat.workspace):
            pass
    assert moat.left() == []
    (row,) = moat.store().runs()
    assert (row.status, row.phase) == ("failed", "over")
    assert "create_container" in row.error


async def test_a_container_that_went_away_is_never_a_commands_failure(moat, library):
    """The run's own reason is raised, also by what comes later."""
    with pytest.raises(SandboxGone):
        async with library.run(moat.workspace) as run:
            moat.engine.end(run.sandbox.info.id, 137)
            with anyio.fail_after(5):
                while not run.run.cancel_requested:
                    await asyncio.sleep(0.01)
            with pytest.raises(SandboxGone, match="has ended"):
                await run.exec(["true"])


async def test_the_reason_of_an_end_from_within_is_raised_when_leaving(moat, library):
    """A plugin that ends a run with an error has it told; one without is no error of the caller's."""
    with pytest.raises(RunError, match="policy"):
        async with library.run(moat.workspace) as run:
            run.run.cancel(RunError("policy"))
    async with library.run(moat.workspace) as run:
        run.run.cancel()


async def test_an_endpoint_that_is_not_there_is_told_with_those_that_are(moat, library):
    """The fake engine publishes nothing."""
    async with library.run(moat.workspace, ports={"web": 80}) as run:
        for name in ("web", "api"):
            with pytest.raises(UsageError) as caught:
                run.url(name)
            assert caught.value.hint == "It has: none."


async def test_a_kept_run_leaves_its_container_behind(moat, library):
    """Stopped; the reaper does not touch it; destroying it does."""
    async with library.run(moat.workspace, keep=True) as run:
        pass
    (container,) = moat.engine.containers().values()
    assert container["state"] == "exited"
    assert moat.engine.networks() == {}
    await library.upkeep(automatic=True).reap()
    assert len(moat.engine.containers()) == 1
    assert [(info.id, info.state) for info in await library.list()] == [(run.id, "kept")]
    assert await library.upkeep().destroy(run.id) == []
    assert moat.engine.left() == []
    assert moat.store().resources() == []


async def test_a_kept_run_that_fails_is_not_kept(moat, library):
    """What did not end well is undone."""
    with pytest.raises(ValueError, match="mine"):
        async with library.run(moat.workspace, keep=True):
            raise ValueError("mine")
    assert moat.engine.left() == []
    assert moat.left() == []


async def test_runs_side_by_side(moat, library):
    """Each has its own container, name and end; one that fails disturbs no other."""

    async def one(number):
        async with library.run(moat.workspace, name=f"run{number}") as run:
            assert (await run.exec(["true"])).ok
            if number == 3:
                raise ValueError("three")
            return run.id

    results = await asyncio.gather(*[one(number) for number in range(8)], return_exceptions=True)
    assert len({result for result in results if isinstance(result, str)}) == 7
    assert [str(result) for result in results if isinstance(result, Exception)] == ["three"]
    assert moat.left() == []


async def test_a_run_id_that_is_alive_cannot_be_taken(moat, library):
    """And the one that asks leaves the other's row alone."""
    async with library.run(moat.workspace) as run:
        with pytest.raises(MoatError, match="owns"):
            async with library.run(moat.workspace, run_id=run.id):
                pass
        assert moat.store().run(run.id).phase == "act"
        assert (await run.exec(["true"])).ok
    assert moat.left() == []


def test_commands_are_values():
    """Two of the same words are equal."""
    assert Command(("a",)) == Command(("a",))
