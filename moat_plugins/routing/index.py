"""What is served at ``localhost`` itself: the page, its events, logs. The table is in `moat_plugins.routing.pages`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import anyio
import anyio.to_thread

from moat_core.http.answer import Answer, Streamed
from moat_plugins.routing.pages import assets, errors, index, log
from moat_plugins.routing.pages.accept import Asker, is_foreign, wants_events
from moat_plugins.routing.pages.state import OVER
from moat_plugins.routing.runs import LogReader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moat_core.http.answer import Deferred, Said
    from moat_plugins.routing.pages.state import RunView, Site
    from moat_plugins.routing.runs import Runs

__all__ = ["Index"]

_LOOK_S = 1.0
_KEEP_ALIVE_S = 15.0
_METHODS = ("GET", "HEAD")


class Index:
    """Answers requests for the index."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def answer(self, target: str, fields: Mapping[str, str], asker: Asker) -> Said:
        """Return what is said to a request.

        Args:
            target: Path and query.
            fields: Its header fields, by lower-case names.
        """
        if is_foreign(fields):
            return errors.foreign(asker)
        if asker.method not in _METHODS:
            return errors.bad_request(405, "This page only shows.", asker, allow=", ".join(_METHODS))
        path, _, query = target.partition("?")
        if path == "/":
            return self._page(asker)
        if path == "/events":
            return log.events_answer(lambda: self._events(asker.site))
        return assets.asset(path) or self._find_log(path, query, fields, asker)

    def _find_log(self, path: str, query: str, fields: Mapping[str, str], asker: Asker) -> Said:
        run_id = path.removeprefix("/runs/").removesuffix("/log")
        if path != f"/runs/{run_id}/log":
            return errors.unknown_page(path, asker)
        if wants_events(fields.get("accept", "")):
            after = fields.get("last-event-id", "") or parse_qs(query).get("after", [""])[0]
            return self._log_events(run_id, after, asker)
        return self._log(run_id, asker)

    def _page(self, asker: Asker) -> Deferred:
        async def make() -> Answer:
            return index.index_page(await self._runs.live(asker.site), asker, now=time.time())

        return make

    async def _events(self, site: Site) -> AsyncIterator[bytes]:
        yield log.BEGIN
        told: list[RunView] | None = None
        since = 0.0
        while True:
            runs = await self._runs.live(site)
            since += _LOOK_S
            if runs != told:
                yield index.runs_event(runs, site, now=time.time())
                told, since = list(runs), 0.0
            elif since > _KEEP_ALIVE_S:
                yield log.KEEP_ALIVE
                since = 0.0
            await anyio.sleep(_LOOK_S)

    def _log(self, run_id: str, asker: Asker) -> Deferred:
        async def make() -> Answer:
            run = await self._runs.get(run_id, asker.site)
            if run is None:
                return errors.unknown_page(f"/runs/{run_id}/log", asker)
            with closing(LogReader(self._runs.moat, run_id, tail=log.MOST_LINES)) as reader:
                lines = await anyio.to_thread.run_sync(reader.read)
            return log.log_page(run, lines, asker, cursor=reader.cursor)

        return make

    def _log_events(self, run_id: str, after: str, asker: Asker) -> Deferred:
        async def make() -> Answer | Streamed:
            if await self._runs.get(run_id, asker.site) is None:
                return errors.unknown_page(f"/runs/{run_id}/log", asker)
            return log.events_answer(lambda: self._lines(run_id, after, asker.site))

        return make

    async def _lines(self, run_id: str, after: str, site: Site) -> AsyncIterator[bytes]:
        yield log.BEGIN
        since = 0.0
        with closing(LogReader(self._runs.moat, run_id, tail=log.MOST_LINES, after=after)) as reader:
            while True:
                run = await self._runs.get(run_id, site)
                lines = await anyio.to_thread.run_sync(reader.read)
                since += _LOOK_S
                if lines:
                    yield log.lines_event(lines, cursor=reader.cursor)
                    since = 0.0
                elif run is None or run.state in OVER:
                    if run is not None:
                        yield log.end_event(run)
                    return
                elif since > _KEEP_ALIVE_S:
                    yield log.KEEP_ALIVE
                    since = 0.0
                await anyio.sleep(_LOOK_S)
