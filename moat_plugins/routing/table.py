"""Who is reached by which name, as the ledger says it now.

A request costs a look into a dict. Whether the store has changed is asked at most once in `_LOOK_S` (it takes some
microseconds), and always before a new connection is used: an answer may come from a run that ended a moment ago, never
from another.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs

from moat_core.errors import StoreError
from moat_core.ledger import LedgerView
from moat_plugins.routing.names import DEFAULT_ENDPOINT
from moat_plugins.routing.resources import AgentName, Route

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from moat_core.ledger import Entry

__all__ = ["Agent", "Table"]

_LOOK_S = 0.025


@attrs.frozen
class Agent:
    """A name that a live run has.

    Args:
        endpoints: All that there will be -> port in the container.
        places: Endpoint -> address, once the run is up.
        has_moved: Where it was another run is now, or it is nowhere; it has yet to say where it is itself.
    """

    name: str
    run_id: str
    endpoints: Mapping[str, int]
    places: Mapping[str, tuple[str, int]]
    has_moved: bool = False

    @property
    def default(self) -> str:
        """The endpoint that the agent's bare name means; ``""`` if none does."""
        if len(self.endpoints) == 1:
            return next(iter(self.endpoints))
        return DEFAULT_ENDPOINT if DEFAULT_ENDPOINT in self.endpoints else ""


class Table:
    """The routes of one ``MOAT_HOME``.

    Args:
        home: It.
        clock: Seconds, monotonic.
    """

    def __init__(self, home: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._view = LedgerView(home, [AgentName, Route])
        self._clock = clock
        self.on_gone: Callable[[tuple[str, int]], None] = lambda place: None
        """Told each address that is no route any more, or another run's."""
        self.version = 0
        """Another number after each change."""
        self._looked = -1.0
        self._stale = True
        self.agents: dict[str, Agent] = {}
        self._up: set[str] = set()  # runs that have had routes

    def look(self, *, fresh: bool = False) -> bool:
        """Read the ledger again if it may have changed, and tell whether it had.

        Args:
            fresh: However short ago it was that somebody looked.
        """
        now = self._clock()
        if not fresh and now - self._looked < _LOOK_S:
            return False
        self._looked = now
        try:
            self._stale = self._view.changed() or self._stale
            if not self._stale:
                return False
            agents = _arrange(self._view.read(), self._view.is_live)
        except StoreError:
            return False  # what was known is better than nothing; it is tried again
        self._stale = False
        self.version += 1
        self._replace(agents)
        return True

    def is_live(self, agent: Agent) -> bool:
        """Tell whether the run lives: the rows of one whose owner died may stand for a moment longer.

        One that has been up and has no routes any more is being undone, be it by a reaper, who has its lock then.
        """
        try:
            owned = self._view.is_live(agent.run_id)
        except StoreError:
            owned = True  # nobody can tell: what is there goes on
        return owned and (bool(agent.places) or agent.has_moved or agent.run_id not in self._up)

    def close(self) -> None:
        """Close the store."""
        self._view.close()

    def _replace(self, agents: dict[str, Agent]) -> None:
        before, self.agents = self.agents, agents
        self._up &= {agent.run_id for agent in agents.values()}
        self._up |= {agent.run_id for agent in agents.values() if agent.places}
        owners = _owners(agents)
        for place, run_id in _owners(before).items():
            if owners.get(place) != run_id:
                self.on_gone(place)


def _owners(agents: Mapping[str, Agent]) -> dict[tuple[str, int], str]:
    return {place: agent.run_id for agent in agents.values() for place in agent.places.values()}


def _arrange(entries: list[Entry], is_live: Callable[[str], bool]) -> dict[str, Agent]:
    """Return agents by name. Of several that claim one, the first that lives has it: the dead may not be undone yet.

    Of several at one address it is the newest one's: an engine gives nobody a port that it has not got back.
    """
    claims: dict[str, Entry] = {}
    routes: dict[tuple[str, int], Entry] = {}
    moved: set[str] = set()
    places: dict[str, dict[str, tuple[str, int]]] = {}
    for entry in entries:
        resource = entry.resource
        if isinstance(resource, AgentName):
            held = claims.get(resource.agent)
            if held is None or not is_live(held.run_id):
                claims[resource.agent] = entry
        elif isinstance(resource, Route):
            place = resource.host, resource.port
            if not resource.port:
                moved.add(entry.run_id)
                continue
            if place in routes:
                moved.add(routes[place].run_id)
            routes[place] = entry
    for place, entry in sorted(routes.items(), key=lambda item: item[1].row_id):
        assert isinstance(entry.resource, Route)
        places.setdefault(entry.run_id, {})[entry.resource.endpoint] = place
    agents = {}
    for name, entry in claims.items():
        assert isinstance(entry.resource, AgentName)
        run_id = entry.run_id
        agents[name] = Agent(name, run_id, entry.resource.endpoints, places.get(run_id, {}), run_id in moved)
    return agents
