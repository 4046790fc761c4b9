"""A router over real sockets, and the runs that it looks at."""

from __future__ import annotations

import pytest
from routing_world import World, routing


@pytest.fixture
def world(moat):
    world = World(moat.home.path)
    yield world
    world.close()


@pytest.fixture
async def net(world, moat):
    """The router that serves WORLD."""
    async with moat.moat(keep_going=True) as library, routing(world, library) as net:
        yield net
