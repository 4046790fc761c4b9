"""Where upkeep looks, and that one place that hangs holds up no other."""

from __future__ import annotations

import anyio

from moat_core import hookimpl
from moat_core.ledger import Connections
from moat_core.store.db import RunRow
from moat_core.types import Problem


class Slow:
    """A connection that is only made to some places."""

    @classmethod
    async def connect(cls, address):
        if address == "dead":
            await anyio.sleep_forever()
        return cls()

    async def aclose(self):
        await anyio.lowlevel.checkpoint()


async def test_a_place_that_hangs_holds_up_no_other():
    """Connections to different addresses are made side by side."""
    async with Connections() as connections, anyio.create_task_group() as group:
        group.start_soon(connections.get, Slow, "dead")
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(5):
            assert await connections.get(Slow, "alive") is await connections.get(Slow, "alive")
        group.cancel_scope.cancel()


def add_run(store, number, phase, address):
    store.add_run(
        RunRow(
            id=f"run-0000000{number}",
            name=f"n{number}",
            runtime="fake",
            address=address,
            probe="",
            workspace="/",
            command=None,
            env_names=[],
            ports={},
            owner_pid=1,
            owner_kind="foreground",
            sandboxed=0,
            phase=phase,
            created=float(number),
        )
    )
    return f"run-0000000{number}"


async def test_only_places_where_something_may_be_are_looked_at(moat):
    """Runs that are over and left nothing are history; kept things and live runs are not."""
    async with moat.moat() as library:
        store = library.store
        add_run(store, 1, "over", "history")
        store.set_state(store.add_intent(add_run(store, 2, "over", "kept"), "fake.container", {}), "kept")
        add_run(store, 3, "act", "live")
        upkeep = library.upkeep()
        assert upkeep.addresses() == [("fake", "live"), ("fake", "kept")]
        assert upkeep.owner == library.home.owner
        for run_id in ("run-00000002", "run-00000003"):
            for row in store.resources(run_id):
                store.forget_resource(row.id)
            store.update_run(run_id, phase="over")
        assert upkeep.addresses() == []


class Reporter:
    """Cannot see everything."""

    @hookimpl
    async def moat_find_leftovers(self, upkeep):
        upkeep.report(Problem("half of it cannot be seen", where="there"))
        return []


async def test_what_could_not_be_seen_is_told_beside_what_was(moat):
    """Once for each look."""
    moat.register(Reporter())
    async with moat.moat() as library:
        upkeep = library.upkeep()
        for _ in range(2):
            found, problems = await upkeep.find_leftovers()
            assert found == []
            assert [problem.where for problem in problems] == ["there"]


async def test_runs_carry_their_owner(moat):
    """Every container's labels tell the home."""
    async with moat.moat() as library, library.run(moat.workspace):
        (container,) = moat.engine.containers().values()
        assert container["labels"]["moat.owner"] == library.home.owner
