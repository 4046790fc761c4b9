"""The page at ``<agent>.localhost`` when several endpoints could be meant and none is called ``default``."""

from __future__ import annotations

from moat_core.http.answer import Answer
from moat_plugins.routing.pages.accept import Asker
from moat_plugins.routing.pages.frame import json_answer, page_answer
from moat_plugins.routing.pages.index import badges, endpoint_list
from moat_plugins.routing.pages.markup import el
from moat_plugins.routing.pages.state import RunView

__all__ = ["agent_page"]


def agent_page(run: RunView, asker: Asker) -> Answer:
    """Return RUN's endpoints. The origin may be the agent's another time: nothing else of the run is told."""
    endpoints = [endpoint.to_json() for endpoint in run.endpoints]
    if not asker.html:
        told = {"id": run.id, "name": run.name, "state": run.state, "isolation": run.isolation, "endpoints": endpoints}
        return json_answer(200, told)
    log = el("p", el("a", "Its log", href=asker.site.url(path=run.log_path))) if run.has_log else None
    return page_answer(
        200,
        run.name,
        el("h1", run.name),
        el("p", badges(run), class_="facts"),
        endpoint_list(run.endpoints),
        el(
            "p",
            "An endpoint called ",
            el("code", "default"),
            " in ",
            el("code", "ports:"),
            " of its ",
            el("code", "agent.yaml"),
            " would answer here.",
            class_="quiet",
        ),
        log,
        site=asker.site,
    )
