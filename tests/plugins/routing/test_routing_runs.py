"""What the pages are told of runs, and at what cost: logs that an agent has filled, listings that many wait for."""

from __future__ import annotations

import asyncio
import os

import pytest

from moat_core.store import log as log_module
from moat_core.store.log import LogWriter
from moat_plugins.routing.pages.state import Site
from moat_plugins.routing.runs import LogReader, Runs

pytestmark = pytest.mark.moat(plugins=["routing"])
SITE = Site()


@pytest.fixture
def written(world):
    """The log of a run: write to it."""
    fox = world.run("fox", run_id="run-00000001").remember()
    folder = world.home.run_folder(fox.id)
    os.makedirs(folder, exist_ok=True)
    writer = LogWriter(folder)
    yield lambda data: writer.write("stdout", data)
    writer.close()


@pytest.fixture
async def library(moat):
    async with moat.moat(keep_going=True) as library:
        yield library


def texts(lines):
    return [line.data.strip() for line in lines]


async def test_what_was_written_at_one_moment_is_told_once_and_whole(library, written, monkeypatch):
    """Also if it was read up to its middle: all lines of a write have the same time."""
    monkeypatch.setattr(log_module.time, "time", lambda: 1000.5)
    written(b"a\nb\n")
    reader = LogReader(library, "run-00000001", tail=10)
    assert texts(reader.read()) == [b"a", b"b"]
    written(b"c\n")
    again = LogReader(library, "run-00000001", tail=10, after=reader.cursor)
    assert texts(again.read()) == [b"c"]
    assert texts(reader.read()) == [b"c"]
    assert reader.cursor == again.cursor
    written(b"d\n")
    monkeypatch.setattr(log_module.time, "time", lambda: 1000.6)
    written(b"e\n")
    assert texts(again.read()) == texts(reader.read()) == [b"d", b"e"]
    third = LogReader(library, "run-00000001", tail=10, after=reader.cursor)
    assert third.read() == []
    for each in (reader, again, third):
        each.close()


@pytest.mark.parametrize("cursor", ["", "x", "-", "1e9", "\0-\0", "9" * 5000 + "-" + "9" * 5000, "1000.5-²", "-1-5"])
async def test_a_cursor_of_somebody_elses_making_harms_nobody(library, written, cursor):
    """It comes in an address."""
    written(b"a\n")
    reader = LogReader(library, "run-00000001", tail=10, after=cursor)
    assert texts(reader.read()) in ([b"a"], [])
    reader.close()


async def test_who_writes_faster_than_is_shown_is_shown_from_the_end(library, written):
    """And nothing is told twice."""
    written(b"first\n")
    reader = LogReader(library, "run-00000001", tail=5)
    reader.read()
    written(b"".join(b"%d\n" % number for number in range(100)))
    assert texts(reader.read())[-1] == b"99"
    written(b"".join(b"%d\n" % number for number in range(100, 200)))
    assert texts(reader.read()) == [b"195", b"196", b"197", b"198", b"199"]
    written(b"last\n")
    assert texts(reader.read()) == [b"last"]
    reader.close()


async def test_the_end_of_a_full_log_is_read_alone(library, written, monkeypatch):
    """An agent fills its log once; whoever looks at it each second must not pay for all of it."""
    for number in range(200):
        written(b"%d\n" % number * 1000)
    parsed = []
    parse = log_module.parse_record
    monkeypatch.setattr(log_module, "parse_record", lambda line: parsed.append(1) or parse(line))
    reader = LogReader(library, "run-00000001", tail=10)
    assert texts(reader.read()) == [b"199"] * 10
    assert len(parsed) < 20_000  # of 200,000
    parsed.clear()
    assert reader.read() == []
    assert parsed == []
    reader.close()


async def test_many_that_wait_for_the_same_listing_have_one(library, world, monkeypatch):
    """Each of them asked before it began."""
    from moat_plugins.routing.table import Table

    world.run("fox", run_id="run-00000001").remember()
    table = Table(world.home.path)
    runs, listings, listing = Runs(library, table), [], library.list

    async def listed(**options):
        listings.append(1)
        await asyncio.sleep(0.05)
        return await listing(**options)

    monkeypatch.setattr(library, "list", listed)
    await runs.all(SITE)
    listings.clear()
    found = await asyncio.gather(*(runs.find_ended("run-00000001", "fox", SITE) for _ in range(30)))
    assert {run.id for run in found} == {"run-00000001"}
    assert 1 <= len(listings) <= 3
    table.close()
