"""The page at ``localhost``: what is running. It only shows."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime

from moat_core.http.answer import Answer
from moat_plugins.routing.pages.accept import Asker
from moat_plugins.routing.pages.frame import index_answer, json_answer
from moat_plugins.routing.pages.markup import Element, Node, el, to_json
from moat_plugins.routing.pages.state import OVER, EndpointView, RunView, Site
from moat_plugins.routing.pages.text import age, join, shorten

__all__ = ["badges", "endpoint_list", "index_page", "runs_event", "runs_json"]

_RELOAD_S = 5
_COMMAND, _ERROR = 200, 500
_ISOLATION = {"gvisor": "gVisor", "none": "not isolated by gVisor"}
_ENDPOINT = {"ready": "ready", "waiting": "not listening yet", "": ""}


def index_page(runs: Sequence[RunView], asker: Asker, *, now: float) -> Answer:
    """Return the page, or the same as JSON.

    Args:
        runs: In the order in which they are shown.
        now: Seconds since 1970.
    """
    if not asker.html:
        return json_answer(200, runs_json(runs, asker.site))
    return index_answer(
        "Agents",
        el("h1", "Agents"),
        _live(runs, asker.site, now),
        site=asker.site,
        foot=[" This page only shows; it changes nothing. As JSON: ", el("code", f"curl {asker.site.url()}")],
        reload_s=_RELOAD_S,
    )


def runs_json(runs: Sequence[RunView], site: Site) -> dict[str, object]:
    """Return ``{"version", "url", "runs": [...]}``."""
    return {"version": site.version, "url": site.url(), "runs": [run.to_json() for run in runs]}


def runs_event(runs: Sequence[RunView], site: Site, *, now: float) -> bytes:
    """Return the event that tells the page of RUNS, all of them: who comes back after a pause has missed nothing."""
    tree = json.dumps(to_json(_live(runs, site, now)), separators=(",", ":"))
    return f"event: runs\ndata: {tree}\n\n".encode()


def _live(runs: Sequence[RunView], site: Site, now: float) -> Element:
    """Return the part of the page that changes; its script puts the new one in place of the old."""
    content = (
        el("ul", [_run(run, _age(run, now)) for run in runs], class_="runs", role="list") if runs else _nothing(site)
    )
    return el("div", el("p", _summary(runs), id="summary", role="status"), content, id="live", data_events="/events")


def _summary(runs: Sequence[RunView]) -> str:
    """Return one sentence; it is read out when it changes."""
    if not runs:
        return "Nothing is running."
    counts: dict[str, int] = {}
    for run in runs:
        counts[run.state] = counts.get(run.state, 0) + 1
    waiting = sum(endpoint.state == "waiting" for run in runs for endpoint in run.endpoints)
    text = f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}: {join(f'{n} {state}' for state, n in counts.items())}."
    if waiting:
        text += f" {waiting} {'endpoint does' if waiting == 1 else 'endpoints do'} not listen yet."
    return text


# Kept, for hundreds of runs of which one has changed: whoever draws the page holds up what the proxy carries.
@functools.lru_cache(maxsize=256)
def _run(run: RunView, since: str) -> Element:
    is_over = run.state in OVER
    name = el("a", run.name, href=run.url) if run.url and not is_over else run.name
    endpoints = endpoint_list(run.endpoints) if run.endpoints else el("p", "It has no endpoints.", class_="quiet")
    log = el("a", "Log", href=run.log_path, aria_label=f"Log of {run.name}") if run.has_log else None
    return el(
        "li",
        el("h2", name, id=f"{run.id}-name"),
        el("p", badges(run), _since(run, since), class_="facts"),
        el("p", shorten(run.error, _ERROR), class_="error") if run.error else None,
        None if is_over else endpoints,
        el("div", _details(run), log, class_="more"),
        id=run.id,
        class_="run over" if is_over else "run",
        aria_labelledby=f"{run.id}-name",
    )


def badges(run: RunView) -> list[Node]:
    """Return state and isolation, as words with a mark."""
    state = run.state if run.exit_code is None else f"{run.state} ({run.exit_code})"
    shown: list[Node] = [el("span", state, class_=f"badge state-{run.state}"), " "]
    if not run.isolation:
        return shown
    isolation = _ISOLATION[run.isolation]
    if run.isolation == "none" and run.oci_runtime:
        isolation += f" ({run.oci_runtime})"
    return [*shown, el("span", isolation, class_=f"badge isolation-{run.isolation}"), " "]


def _age(run: RunView, now: float) -> str:
    start = run.created if run.ended is None else run.ended
    return "" if start is None else age(now - start)


def _since(run: RunView, since: str) -> Element | None:
    start = run.created if run.ended is None else run.ended
    if start is None:
        return None
    moment = datetime.fromtimestamp(start, UTC).isoformat(timespec="seconds")
    time = el("time", since, datetime=moment, data_since=f"{start:.0f}")
    return el("span", "for " if run.ended is None else "ended ", time, " ago" if run.ended is not None else None)


def endpoint_list(endpoints: Sequence[EndpointView]) -> Element:
    """Return endpoints as links."""
    return el("ul", map(_endpoint, endpoints), class_="endpoints", role="list")


def _endpoint(endpoint: EndpointView) -> Element:
    state = _ENDPOINT[endpoint.state]
    return el(
        "li",
        el(
            "a",
            el("b", endpoint.name),
            " ",
            el("span", endpoint.url.removesuffix("/"), class_="url"),
            href=endpoint.url,
        ),
        " ",
        el("span", f"port {endpoint.port}", class_="quiet"),
        " ",
        el("span", state, class_=f"mark mark-{endpoint.state}") if state else None,
        id=f"endpoint-{endpoint.url}",
    )


def _details(run: RunView) -> Element:
    """Return what few want to see; whoever has opened it keeps it open."""
    command = None if run.command is None else shorten(shlex.join(run.command), _COMMAND)
    facts = {
        "Run": el("code", run.id),
        "Command": "none of its own: it waits for moat exec" if command is None else el("code", command),
        "Workspace": el("code", run.workspace) if run.workspace else None,
        "Container runtime": el("code", run.oci_runtime) if run.oci_runtime else None,
        "In a terminal": el("code", f"moat logs -f {run.id}"),
    }
    rows = [el("div", el("dt", name), el("dd", value)) for name, value in facts.items() if value]
    return el("details", el("summary", "Details", aria_label=f"Details of {run.name}"), el("dl", rows))


def _nothing(site: Site) -> Element:
    """Return how to begin."""
    return el(
        "div",
        el("p", "Name the ports of an agent in the ", el("code", "agent.yaml"), " of its folder:"),
        el("pre", el("code", "name: shop\ncommand: [npm, start]\nports:\n  web: 3000"), tabindex="0"),
        el("p", "Start it there:"),
        el("pre", el("code", "moat run"), tabindex="0"),
        el("p", "It shows up here, and its page is ", el("code", site.url("web.shop.localhost", "")), "."),
        class_="begin",
    )
