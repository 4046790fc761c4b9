"""What the proxy knows of runs: as the store says it now, whoever has written there, and whatever becomes of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from routing_world import Clock, World

from moat_core.store import Store
from moat_plugins.routing.resources import Route
from moat_plugins.routing.table import Agent, Table

GATE_S = 0.025


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "home")
    yield world
    world.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def table(world, clock):
    """It remembers in ``told`` the ports of which it said that they are nobody's any more."""
    table = Table(world.home.path, clock)
    table.told = []
    table.on_gone = lambda place: table.told.append(place[1])
    yield table
    table.close()


def places(table):
    """Agent -> endpoint -> port, as a look shows them now."""
    table.look(fresh=True)
    return {name: {key: place[1] for key, place in agent.places.items()} for name, agent in table.agents.items()}


def test_an_empty_home_has_nobody_and_stays_empty(tmp_path):
    """Looking makes nothing, not even the folder."""
    table = Table(tmp_path / "home", Clock())
    for _ in range(3):
        table.look(fresh=True)
        assert table.agents == {}
    assert not os.path.exists(tmp_path / "home")
    table.close()


def test_runs_appear_and_vanish_as_they_are_written(world, table):
    """A claim is known before its routes are; both go with the run."""
    assert places(table) == {}
    fox = world.run("fox", web=3000, api=8000)
    assert places(table) == {"fox": {}}
    assert table.agents["fox"] == Agent("fox", fox.id, {"web": 3000, "api": 8000}, {})
    fox.route(web=4001, api=4002)
    owl = world.run("owl").route(web=4003)
    assert places(table) == {"fox": {"web": 4001, "api": 4002}, "owl": {"web": 4003}}
    fox.unroute()
    assert places(table) == {"fox": {}, "owl": {"web": 4003}}
    fox.end()
    owl.end()
    assert places(table) == {}


WRITER = """
import sys
from routing_world import Clock, World
world = World(sys.argv[1])
run = world.run("fox").route(web=4001)
print("there", flush=True)
sys.stdin.readline()
run.route(web=4002)
print("moved", flush=True)
sys.stdin.readline()
run.end()
print("gone", flush=True)
sys.stdin.readline()
"""


def test_another_process_is_seen_at_once(world, table):
    """What it has committed counts for the next look; that it was killed, by its lock."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, world.home.path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ,
        ) as writer:  # fmt: skip
            assert writer.stdout.readline() == "there\n"
            assert places(table) == {"fox": {"web": 4001}}
            assert table.is_live(table.agents["fox"])
            print(file=writer.stdin, flush=True)
            assert writer.stdout.readline() == "moved\n"
            assert places(table) == {"fox": {"web": 4002}}
            print(file=writer.stdin, flush=True)
            assert writer.stdout.readline() == "gone\n"
            assert places(table) == {}
            writer.kill()


def test_a_killed_owner_is_known_although_no_row_has_changed(world, table):
    """The rows stay until somebody undoes them; the lock does not."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, world.home.path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ,
    ) as writer:  # fmt: skip
        assert writer.stdout.readline() == "there\n"
        assert places(table) == {"fox": {"web": 4001}}
        assert table.is_live(table.agents["fox"])
        writer.kill()
        writer.wait()
    assert not table.look(fresh=True)
    assert not table.is_live(table.agents["fox"])


def test_it_looks_once_in_25_ms(world, table, clock):
    """A look within that time of another costs nothing and sees nothing, unless it has to be fresh."""
    table.look()
    world.run("fox")
    clock.now += 0.024
    assert not table.look()
    assert table.agents == {}
    clock.now += 0.002
    assert table.look()
    assert list(table.agents) == ["fox"]
    world.run("owl")
    assert not table.look()
    assert table.look(fresh=True)
    assert list(table.agents) == ["fox", "owl"]
    clock.now += 100
    assert not table.look()


def test_a_fresh_look_opens_no_gate(world, table, clock):
    """The next one counts from the last, of whatever kind."""
    table.look(fresh=True)
    clock.now += 0.020
    table.look(fresh=True)
    world.run("fox")
    clock.now += 0.020
    assert not table.look()
    clock.now += 0.006
    assert table.look()


def test_the_gate_spares_the_store(world, table, clock, monkeypatch):
    """Ten thousand requests in 25 ms ask it once."""
    asked = []
    version = Store.version

    def count(store):
        asked.append(1)
        return version(store)

    monkeypatch.setattr(Store, "version", count)
    for _ in range(10_000):
        clock.now += GATE_S / 10_001
        table.look()
    assert len(asked) == 1


def test_of_two_that_claim_a_name_the_first_that_lives_has_it(world, table):
    """Whatever order they go in."""
    first, second, third = (world.run("fox").route(web=port) for port in (4001, 4002, 4003))
    assert places(table) == {"fox": {"web": 4001}}
    assert table.agents["fox"].run_id == first.id
    second.end()
    assert places(table) == {"fox": {"web": 4001}}
    first.end()
    assert places(table) == {"fox": {"web": 4003}}
    assert table.agents["fox"].run_id == third.id


def test_a_dead_owners_claim_is_ignored(world, table):
    """It may not be undone yet; whoever comes next has the name, and nothing of the dead one's."""
    dead = world.run("fox", web=3000, api=8000).route(web=4001, api=4002)
    dead.die()
    assert places(table) == {"fox": {"web": 4001, "api": 4002}}
    assert not table.is_live(table.agents["fox"])
    heir = world.run("fox").route(web=4003)
    assert places(table) == {"fox": {"web": 4003}}
    assert (table.agents["fox"].run_id, table.agents["fox"].endpoints) == (heir.id, {"web": 3000})
    assert table.is_live(table.agents["fox"])


def test_of_two_routes_of_an_endpoint_the_newer_counts(world, table):
    """A container that has moved: the new place is written before the old one goes."""
    fox = world.run("fox").route(web=4001)
    fox._write(Route("fox", "web", 3000, "127.0.0.1", 4002))
    assert places(table) == {"fox": {"web": 4002}}


def test_a_route_without_a_claim_is_nobodys(world, table):
    """The claim goes last: what has none is of a run that is nobody's any more."""
    fox = world.run("fox").route(web=4001)
    world.store.forget_resource(fox.claim)
    assert places(table) == {}


@pytest.mark.parametrize(
    ("endpoints", "default"),
    [
        (["web"], "web"), (["default"], "default"), (["web", "default"], "default"), (["web", "api"], ""),
        (["default", "web", "api"], "default"),
    ],
)  # fmt: skip
def test_the_default_endpoint(endpoints, default):
    """The only one, else ``default``, else none."""
    assert Agent("fox", "run-00000000", dict.fromkeys(endpoints, 1), {}).default == default


def test_addresses_that_vanish_are_told_exactly(world, table):
    """Once, those alone, and when they are in no route any more."""
    fox, owl = world.run("fox", web=1, api=2).route(web=4001, api=4002), world.run("owl").route(web=4003)
    places(table)
    assert table.told == []
    fox.route(web=4004)
    places(table)
    assert table.told == [4001]
    owl.end()
    places(table)
    assert table.told[1:] == [4003]
    fox.end()
    places(table)
    assert sorted(table.told[2:]) == [4002, 4004]
    places(table)
    assert len(table.told) == 4


def test_an_address_that_goes_over_to_another_run_is_told(world, table):
    """Between two looks: what waits there was made for the one that has gone, and may still be answered by it."""
    fox = world.run("fox").route(web=4001)
    places(table)
    fox.end()
    world.run("owl").route(web=4001)
    assert places(table) == {"owl": {"web": 4001}}
    assert table.told == [4001]


def test_a_run_that_is_being_undone_by_a_reaper_does_not_live(world, table):
    """The reaper has its lock; what had routes and has none is on its way out."""
    fox = world.run("fox")
    places(table)
    assert table.is_live(table.agents["fox"])
    fox.route(web=4001)
    places(table)
    assert table.is_live(table.agents["fox"])
    fox.unroute()
    places(table)
    assert not table.is_live(table.agents["fox"])
    fox.end()
    world.run("fox", run_id=fox.id)
    places(table)


def block(path):
    """Put a folder where the database was: it cannot be opened."""
    os.rename(f"{path}/moat.db", f"{path}/aside.db")
    os.mkdir(f"{path}/moat.db")


def unblock(path):
    os.rmdir(f"{path}/moat.db")
    os.rename(f"{path}/aside.db", f"{path}/moat.db")


def test_an_unreadable_store_keeps_what_was_known_and_recovers(world, table):
    """Nobody is told that anything is gone; what was written meanwhile counts once it can be read again."""
    fox = world.run("fox").route(web=4001)
    assert places(table) == {"fox": {"web": 4001}}
    block(world.home.path)
    for _ in range(3):
        assert places(table) == {"fox": {"web": 4001}}
    assert table.told == []
    unblock(world.home.path)
    assert places(table) == {"fox": {"web": 4001}}
    fox.end()
    assert places(table) == {}


def test_what_was_written_while_it_could_not_be_read_counts_afterwards(world, table):
    """By a process that had the file open all the time."""
    fox = world.run("fox").route(web=4001)
    places(table)
    block(world.home.path)
    assert places(table) == {"fox": {"web": 4001}}
    fox.route(web=4002)
    unblock(world.home.path)
    fresh = Table(world.home.path)
    assert places(fresh) == {"fox": {"web": 4002}}
    fresh.close()
    assert places(table) == {"fox": {"web": 4002}}


def test_a_row_of_another_version_hides_nobody_else(world, table):
    """The proxy outlives an upgrade: a row that it does not understand is that run's trouble alone."""
    world.run("fox").route(web=4001)
    odd = world.run("odd")
    world.store.add_intent(odd.id, Route.kind, {"agent": "odd", "endpoint": "web", "socket": "/run/odd"})
    assert places(table)["fox"] == {"web": 4001}


def test_a_store_that_was_removed_leaves_nobody_alive(world, table):
    """Whoever empties the state folder has ended what it told of; a new one in its place is read."""
    fox = world.run("fox").route(web=4001)
    places(table)
    for name in os.listdir(world.home.path):
        if name.startswith("moat.db"):
            os.unlink(f"{world.home.path}/{name}")
    fox.lock.release()
    table.look(fresh=True)
    assert not any(table.is_live(agent) for agent in table.agents.values())
    again = World(world.home.path)
    again.run("owl").route(web=4002)
    assert places(table) == {"owl": {"web": 4002}}
    assert table.told == [4001]
    again.close()
