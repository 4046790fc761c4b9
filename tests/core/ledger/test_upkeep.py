"""Acquiring, releasing, and undoing what dead owners left: one thing that fails hides no other."""

from __future__ import annotations

import time
from typing import ClassVar

import anyio
import attrs
import pytest

from moat_core import hookimpl
from moat_core.errors import HookContractError, MoatError
from moat_core.ledger import VOLATILE, Ledger, LedgerStep, kinds_of
from moat_core.ledger.resource import Resource, from_row, to_row
from moat_core.store import RunRow
from moat_core.testing import FakeContainer, FakeNetwork


@attrs.frozen
class Thing(Resource):
    """A thing that lives in a list, and whose making and undoing can be told to misbehave."""

    kind = "test.thing"
    name: str
    secret: str = attrs.field(default="", metadata={VOLATILE: True})
    world: ClassVar = []
    fail_create: ClassVar = None
    fail_release: ClassVar = None

    async def create(self, ctx):
        if type(self).fail_create is not None:
            raise type(self).fail_create
        self.world.append(self.name)
        return f"value of {self.name}"

    async def release(self, ctx):
        await anyio.lowlevel.checkpoint()
        if type(self).fail_release is not None and self.name.startswith("bad"):
            raise type(self).fail_release
        if self.name in self.world:
            self.world.remove(self.name)
            return True
        return False


class Kinds:
    """Registers the thing."""

    @hookimpl
    def moat_register_resources(self):
        return [Thing]


@pytest.fixture
async def library(moat, monkeypatch):
    """An entered Moat that knows things."""
    monkeypatch.setattr(Thing, "world", [])
    monkeypatch.setattr(Thing, "fail_create", None)
    monkeypatch.setattr(Thing, "fail_release", None)
    moat.register(Kinds(), "kinds")
    async with moat.moat() as library:
        yield library


@pytest.fixture
def ledger(library):
    """The ledger of a run, and its steps."""
    steps = []

    async def step(told: LedgerStep):
        steps.append(told.step)

    made = Ledger("run-00000001", library.store, kinds_of(library.dispatcher), library._connections, step, release_s=1)
    made.steps = steps
    return made


def rows(library):
    return [(row.kind, row.state, row.data) for row in library.store.resources()]


async def test_a_thing_is_written_down_before_it_is_made(ledger, library):
    """Secrets are not."""
    held = await ledger.acquire(Thing("a", secret="hidden"))
    assert held.value == "value of a"
    assert rows(library) == [("test.thing", "live", {"name": "a"})]
    assert await ledger.release(held)
    assert rows(library) == []
    assert Thing.world == []
    assert ledger.steps == ["intent", "created", "live", "releasing", "released", "forgotten"]


async def test_what_cannot_be_made_is_undone_and_forgotten(ledger, library):
    """The first error is raised."""
    Thing.fail_create = MoatError("no")
    with pytest.raises(MoatError, match="no"):
        await ledger.acquire(Thing("a"))
    assert rows(library) == []
    assert ledger.steps == ["intent", "releasing", "released", "forgotten"]


async def test_what_can_be_neither_made_nor_undone_stays_written_down(ledger, library):
    """The first error is told, the second is a note to it."""
    Thing.fail_create, Thing.fail_release = MoatError("no room"), MoatError("no way")
    with pytest.raises(MoatError, match="no room") as caught:
        await ledger.acquire(Thing("bad"))
    assert caught.value.__notes__ == ["The test.thing could not be undone either: no way"]
    assert rows(library) == [("test.thing", "intent", {"name": "bad"})]


async def test_an_unregistered_kind_is_refused_before_anything_is_written(ledger, library):
    """Nobody could undo it after a crash. A namesake of another class is not registered either."""

    @attrs.frozen
    class Other(Resource):
        kind = "test.other"

        async def create(self, ctx):
            raise AssertionError

        async def release(self, ctx):
            raise AssertionError

    @attrs.frozen
    class Namesake(Thing):
        pass

    for resource in (Other(), Namesake("a")):
        with pytest.raises(HookContractError, match="not registered"):
            await ledger.acquire(resource)
    assert rows(library) == []


async def test_an_engine_that_is_away_for_a_moment_is_asked_again(ledger, library, monkeypatch):
    """A restart does not leave things behind."""
    monkeypatch.setattr("moat_core.ledger.ledger._RETRY_S", 0.01)
    held = await ledger.acquire(Thing("bad"))
    Thing.fail_release = ConnectionRefusedError()
    async with anyio.create_task_group() as group:
        group.start_soon(ledger.release, held)
        await anyio.sleep(0.05)
        assert Thing.world == ["bad"]
        Thing.fail_release = None
    assert Thing.world == []


def test_two_plugins_with_one_kind_are_an_error(moat):
    """It names both."""

    @attrs.frozen
    class Namesake(Thing):
        pass

    class Others:
        @hookimpl
        def moat_register_resources(self):
            return [Namesake]

    moat.register(Kinds(), "kinds")
    moat.register(Others(), "others")
    with pytest.raises(MoatError, match="'kinds' and 'others' both registered"):
        kinds_of(moat.moat().dispatcher)


def test_rows_of_an_older_or_newer_version_are_read():
    """Fields that are unknown are dropped, those that are missing have their defaults."""
    assert to_row(Thing("a", secret="s")) == {"name": "a"}
    assert from_row(Thing, {"name": "a", "from_the_future": 1}) == Thing("a")


def dead_run(library, run_id, *things, state="live", age_s=100.0):
    """Write a run down whose owner has died, with THINGS that it made."""
    fields = dict.fromkeys(("name", "runtime", "address", "probe", "workspace", "owner_kind"), "x")
    library.store.add_run(
        RunRow(
            id=run_id,
            command=None,
            env_names=[],
            ports={},
            owner_pid=1,
            sandboxed=0,
            phase="act",
            created=1.0,
            **fields,
        )
    )
    for thing in things:
        Thing.world.append(thing)
        row = library.store.add_intent(run_id, "test.thing", {"name": thing})
        library.store.set_state(row, state)


async def test_dead_runs_are_undone_newest_first_and_over(library):
    """What was done is told."""
    dead_run(library, "run-0000000a", "one", "two")
    said = []
    upkeep = library.upkeep(automatic=True)
    assert upkeep.dead_runs() == ["run-0000000a"]
    reaped = await upkeep.reap(on_progress=said.append)
    assert reaped.released == [("run-0000000a", "test.thing two"), ("run-0000000a", "test.thing one")]
    assert reaped.problems == []
    assert len(said) == 1
    row = library.store.run("run-0000000a")
    assert (row.phase, row.status) == ("over", "failed")
    assert upkeep.dead_runs() == []


async def test_one_thing_that_cannot_be_undone_hides_no_other(library):
    """Whatever it raises: the others go, the run stays unfinished, and the next look tries again."""
    for error in (MoatError("no", hint="h"), KeyError("k"), TimeoutError()):
        Thing.fail_release = error
        dead_run(library, f"run-{type(error).__name__}", "one", "bad", "two")
        upkeep = library.upkeep(automatic=True)
        reaped = await upkeep.reap()
        assert Thing.world == ["bad"]
        assert [problem.where for problem in reaped.problems] == [f"run-{type(error).__name__}"]
        assert upkeep.dead_runs() == [f"run-{type(error).__name__}"]
        Thing.fail_release = None
        assert (await upkeep.reap()).problems == []
        assert Thing.world == []


async def test_a_kind_whose_plugin_is_gone_is_a_problem_that_says_so(library):
    """And is undone once the plugin is there again."""
    dead_run(library, "run-0000000a", "one")
    library.store.add_intent("run-0000000a", "gone.thing", {})
    library.store.add_intent("run-0000000a", "test.thing", {"no": "name"})
    reaped = await library.upkeep(automatic=True).reap()
    said = [problem.message for problem in reaped.problems]
    assert len(said) == 2
    assert any("gone.thing" in words and "not loaded" in words for words in said)
    assert any("cannot be read" in words for words in said)
    assert Thing.world == []


async def test_kept_things_are_left_alone_until_they_are_destroyed(library):
    """The reaper never touches them."""
    dead_run(library, "run-0000000a", "kept", state="kept")
    upkeep = library.upkeep(automatic=True)
    await upkeep.reap()
    assert Thing.world == ["kept"]
    assert await upkeep.destroy("run-0000000a") == []
    assert Thing.world == []


@pytest.fixture
def quick_late(monkeypatch):
    """Look again in milliseconds."""
    monkeypatch.setattr("moat_core.ledger.lane._AGAIN_S", 0.01)
    monkeypatch.setattr("moat_core.ledger.lane.LATE_S", 0.3)


async def test_an_intent_is_looked_for_again_however_old_it_is(library, quick_late):
    """The engine may have stood still since: what counts is how long it has been answering."""
    dead_run(library, "run-0000000a")
    row = library.store.add_intent("run-0000000a", "test.thing", {"name": "late"})
    library.store._write("UPDATE ledger SET created = ? WHERE id = ?", (time.time() - 60, row))

    async def make():
        await anyio.sleep(0.1)
        Thing.world.append("late")

    async with anyio.create_task_group() as group:
        group.start_soon(make)
        reaped = await library.upkeep(automatic=True).reap()
    assert reaped.released == [("run-0000000a", "test.thing late")]
    assert rows(library) == []
    assert Thing.world == []
    assert not library.store.is_unsure()


async def test_what_was_forgotten_unseen_is_looked_for_by_label_for_a_while(moat, library, quick_late, monkeypatch):
    """Every later command does it, until an engine that answers has had enough time."""
    dead_run(library, "run-0000000a")
    library.store.add_intent("run-0000000a", "test.thing", {"name": "never made"})
    upkeep = library.upkeep(automatic=True)
    await upkeep.reap()
    assert (rows(library), upkeep.dead_runs()) == ([], [])
    assert library.store.is_unsure()
    assert upkeep.addresses() == [("x", "x")]
    moat.engine.make("networks", "late", {"run_id": "run-0000000a", "labels": {}})
    assert (await upkeep.reap()).released == [("run-0000000a", "network late")]
    assert library.store.is_unsure()
    monkeypatch.setattr("moat_core.ledger.upkeep.UNSEEN_S", -1)
    await upkeep.reap()
    assert not library.store.is_unsure()


async def test_each_thing_has_its_own_time_from_when_its_turn_comes(library, monkeypatch):
    """Many dead runs at once: a few at a time, and none runs out of time because others took theirs."""
    for number in range(30):
        dead_run(library, f"run-000000{number:02d}", f"slow {number}")
    at_once = [0, 0]

    async def release(self, ctx):
        at_once[0] += 1
        at_once[1] = max(at_once)
        await anyio.sleep(0.05)
        at_once[0] -= 1
        self.world.remove(self.name)
        return True

    monkeypatch.setattr(Thing, "release", release)
    monkeypatch.setattr("moat_core.ledger.ledger.RELEASE_S", 0.2)
    monkeypatch.setattr("moat_core.ledger.lane._AT_ONCE", 3)
    assert (await library.upkeep(automatic=True).reap()).problems == []
    assert Thing.world == []
    assert at_once[1] == 3


async def test_an_engine_that_says_nothing_is_not_asked_thirty_times(library, monkeypatch):
    """After a few things in a row the rest waits for the next try; one that hangs alone stops nobody."""
    for number in range(30):
        dead_run(library, f"run-000000{number:02d}", f"bad {number}")
    Thing.fail_release = TimeoutError()
    assert 4 <= len((await library.upkeep(automatic=True).reap()).problems) <= 8
    Thing.fail_release = None
    dead_run(library, "run-000000aa", "good")
    assert (await library.upkeep(automatic=True).reap()).problems == []
    assert Thing.world == []


@pytest.mark.parametrize("where", ["file", "journal"])
async def test_the_ending_that_was_written_down_is_not_overwritten_by_a_guess(library, where):
    """Its owner had said how it ended, and died over the undoing."""
    dead_run(library, "run-0000000a", "one")
    ending = {"status": "finished", "exit_code": 0, "ended": 5.0}
    library.store.update_run("run-0000000a", phase="finish", **ending)
    if where == "journal":  # the file was locked just then
        library.store._write("UPDATE runs SET phase = 'act', status = NULL, exit_code = NULL, ended = NULL", ())
    await library.upkeep(automatic=True).reap()
    row = library.store.run("run-0000000a")
    assert (row.phase, row.error) == ("over", None)
    assert {key: getattr(row, key) for key in ending} == ending


async def test_what_only_labels_tell_is_swept(moat, library):
    """Things on the engine that no row knows go, if they are nobody's; those of a live run stay."""
    engine = moat.engine
    async with library.run(moat.workspace) as run:
        for kind, resource in (("containers", FakeContainer), ("networks", FakeNetwork)):
            assert resource.what == kind
            made = {"run_id": "run-0000dead", "role": "main", "state": "running", "exit_code": None, "agent": "x"}
            engine.make(kind, f"lost-{kind}", {**made, "labels": {}, "oci_runtime": "runc", "command": None, "env": {}})
        reaped = await library.upkeep(automatic=True).reap()
        assert sorted(reaped.released) == [
            ("run-0000dead", "container lost-containers"),
            ("run-0000dead", "network lost-networks"),
        ]
        assert (await run.exec(["true"])).ok
    assert engine.left() == []


async def test_a_plugin_that_cannot_look_hides_nobody_elses_answer(moat, library):
    """It is a problem of its own."""

    class Blind:
        @hookimpl
        async def moat_find_leftovers(self, upkeep):
            raise ValueError("blind")

    library.plugins.register(Blind(), "blind")
    moat.engine.make("networks", "lost", {"run_id": "run-0000dead", "labels": {}})
    reaped = await library.upkeep(automatic=True).reap()
    assert [problem.where for problem in reaped.problems] == ["blind"]
    assert moat.engine.left() == []


async def test_a_plugin_that_hangs_while_looking_is_given_up(library, monkeypatch):
    """The reaper ends."""

    class Slow:
        @hookimpl
        async def moat_find_leftovers(self, upkeep):
            await anyio.sleep_forever()

    monkeypatch.setattr("moat_core.ledger.upkeep._FIND_S", 0.05)
    library.plugins.register(Slow(), "slow")
    with anyio.fail_after(5):
        reaped = await library.upkeep(automatic=True).reap()
    assert "Is the engine well?" in {problem.hint for problem in reaped.problems}


async def test_two_reapers_do_the_work_once(library):
    """Whoever gets the lock."""
    for number in range(5):
        dead_run(library, f"run-0000000{number}", f"thing {number}")
    one, two = library.upkeep(automatic=True), library.upkeep(automatic=True)
    done = []

    async def reap(upkeep):
        done.append(await upkeep.reap())

    async with anyio.create_task_group() as group:
        group.start_soon(reap, one)
        group.start_soon(reap, two)
    assert sorted(what for reaped in done for _, what in reaped.released) == [f"test.thing thing {n}" for n in range(5)]
    assert Thing.world == []


async def test_what_another_home_owns_is_not_ours_to_sweep(moat, library):
    """Several homes may use one engine; each sweeps its own."""
    for name, owner in (("theirs", "somebody else"), ("ours", library.home.owner)):
        moat.engine.make("networks", name, {"run_id": "run-0000dead", "labels": {"moat.owner": owner}})
    await library.upkeep(automatic=True).reap()
    assert moat.engine.left() == ["theirs"]
