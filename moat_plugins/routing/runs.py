"""What the pages show of runs: the library's listing and who listens, not asked more often than `_FRESH_S`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio

from moat_core.errors import MoatError
from moat_plugins.routing.listening import Listening
from moat_plugins.routing.pages.state import OVER, EndpointState, EndpointView, LogLine, RunView, Site

if TYPE_CHECKING:
    from moat_core.api import Moat, RunInfo
    from moat_plugins.routing.table import Table

__all__ = ["LogReader", "Runs"]

_FRESH_S = 1.0
_SLOW_S = 3.0
_DIGITS = 12


class Runs:
    """All runs of one ``MOAT_HOME``, live ones first.

    Args:
        table: Where their endpoints are.
    """

    def __init__(self, moat: Moat, table: Table) -> None:
        self.moat, self._table = moat, table
        self._lock = anyio.Lock()
        self._read = self._looked = -_FRESH_S
        self._runs: list[RunInfo] = []
        self._listening = Listening()

    async def all(self, site: Site) -> list[RunView]:
        """Return every run that is remembered, newest first; links lead to SITE."""
        runs = await self._list()
        async with self._lock:
            if time.monotonic() - self._looked > _FRESH_S:
                self._table.look(fresh=True)
                await self._listening.look([p for agent in self._table.agents.values() for p in agent.places.values()])
                self._looked = time.monotonic()
        return [self._view(info, site) for info in runs]

    async def _list(self, *, fresh: bool = False) -> list[RunInfo]:
        """Engines that do not answer in time leave it as it was."""
        asked = time.monotonic()
        async with self._lock:
            # Whoever waited for others who asked has their answer, if they asked late enough.
            if self._read < asked - (0 if fresh else _FRESH_S):
                began = time.monotonic()
                with anyio.move_on_after(_SLOW_S):
                    try:
                        self._runs = await self.moat.list(over=True)
                    except MoatError:
                        pass  # `moat list` says why
                self._read = began
            return self._runs

    async def live(self, site: Site) -> list[RunView]:
        """Return those that are not over."""
        return [run for run in await self.all(site) if run.state not in OVER]

    async def get(self, run_id: str, site: Site) -> RunView | None:
        """Return one of them."""
        return next((run for run in await self.all(site) if run.id == run_id), None)

    async def find_ended(self, run_id: str, name: str, site: Site) -> RunView | None:
        """Return a run by its id or, if that is not known, the newest of NAME that was reached by it.

        It has ended a moment ago, perhaps: what was read before that is read again.
        """

        def is_it(info: RunInfo) -> bool:
            return info.id == run_id if run_id else info.name == name and _is_routed(info)

        found = next(filter(is_it, await self._list()), None)
        if found is not None and found.state not in OVER:
            found = next(filter(is_it, await self._list(fresh=True)), None)
        return self._view(found, site) if found is not None else None

    def _view(self, info: RunInfo, site: Site) -> RunView:
        urls = {name: _url(name, info, site) for name in info.ports}
        url = next(iter(urls.values())) if len(urls) == 1 else ""
        if not url and any(urls.values()):
            url = site.url(f"{info.name}.localhost")
        return RunView(
            id=info.id,
            name=info.name,
            state=str(info.state),
            isolation=("gvisor" if "runsc" in info.oci_runtime else "none") if info.oci_runtime else "",
            oci_runtime=info.oci_runtime,
            created=info.created,
            endpoints=tuple(
                EndpointView(name, urls[name], number, self._state(name, info)) for name, number in info.ports.items()
            ),
            url=url,
            workspace=info.workspace,
            command=info.command,
            ended=info.ended,
            exit_code=info.exit_code,
            error=info.error,
        )

    def _state(self, endpoint: str, info: RunInfo) -> EndpointState:
        agent = self._table.agents.get(info.name)
        if agent is None or agent.run_id != info.id:
            return ""
        place = agent.places.get(endpoint)
        listens = self._listening[place] if place is not None else False
        return "" if listens is None else "ready" if listens else "waiting"


def _is_routed(info: RunInfo) -> bool:
    return any(f".{info.name}.localhost" in url for url in info.urls.values())


def _url(endpoint: str, info: RunInfo, site: Site) -> str:
    """Return where a browser that has come by SITE finds an endpoint; ``""`` before it is there."""
    url = info.urls.get(endpoint, "")
    routed = f"{endpoint}.{info.name}.localhost"
    return site.url(routed) if f"//{routed}" in url else url


class LogReader:
    """Reads a run's log, at first its last lines, then what has come since. It has to be closed.

    Args:
        tail: How many are the last.
        after: A `cursor`: what comes up to there is left out.
    """

    def __init__(self, moat: Moat, run_id: str, *, tail: int, after: str = "") -> None:
        self._follower, self._tail = moat.log(run_id, tail=tail), tail
        self._time, _, count = after.partition("-")
        self._count = self._skip = int(count) if count.isascii() and count.isdecimal() and len(count) < _DIGITS else 0

    @property
    def cursor(self) -> str:
        """Where it is: the time of the last record and how many have had that; ``""`` before there was any."""
        return f"{self._time}-{self._count}" if self._time else ""

    def read(self) -> list[LogLine]:
        """Return what there is by now."""
        try:
            records = self._follower.read()
        except OSError:
            return []
        lines = []
        for record in records:
            moment = f"{record.time:.6f}"
            if moment < self._time:
                continue
            if moment == self._time and self._skip:
                self._skip -= 1
                continue
            self._count = self._count + 1 if moment == self._time else 1
            self._time, self._skip = moment, 0
            lines.append(LogLine(record.stream, record.data, record.time))
        if len(records) > self._tail:  # it is written faster than it is shown: from the last lines again, then
            self._follower.close()
            self._skip = self._count
        return lines

    def close(self) -> None:
        """Close the file."""
        self._follower.close()
