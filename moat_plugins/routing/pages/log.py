"""The end of a run's log, as a page, as JSON and as events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence

from moat_core.http.answer import Answer, Streamed
from moat_plugins.routing.pages.accept import Asker
from moat_plugins.routing.pages.frame import index_answer, json_answer
from moat_plugins.routing.pages.index import badges
from moat_plugins.routing.pages.markup import Element, el
from moat_plugins.routing.pages.policy import json_headers
from moat_plugins.routing.pages.state import OVER, LogLine, RunView

__all__ = ["BEGIN", "EVENTS", "KEEP_ALIVE", "MOST_LINES", "end_event", "events_answer", "lines_event", "log_page"]

MOST_LINES = 300
"""Of a page or an event; the browser keeps 2,000 of them."""
EVENTS = "text/event-stream"
BEGIN = b"retry: 2000\n\n"
"""What a stream begins with: when the browser comes back after a break, in milliseconds."""
KEEP_ALIVE = b":\n\n"
"""A comment, for a stream on which nothing happens: a client that is gone shows only when something is sent."""
_RELOAD_S = 5


def log_page(run: RunView, lines: Sequence[LogLine], asker: Asker, *, cursor: str = "") -> Answer:
    """Return the last LINES of RUN's log.

    Args:
        cursor: Where they end, as the log's reader writes it; events go on from there.
    """
    lines = lines[-MOST_LINES:]
    if not asker.html:
        told = {"run": run.to_json(), "lines": [line.to_json() for line in lines], "cursor": cursor}
        return json_answer(200, told)
    is_over = run.state in OVER
    return index_answer(
        f"Log of {run.name}",
        el("p", el("a", "All agents", href="/"), class_="up"),
        el("h1", "Log of ", run.name),
        el("p", badges(run), el("code", run.id), class_="facts"),
        el("p", "" if lines else f"It has written nothing{'' if is_over else ' yet'}.", id="summary", role="status"),
        el(
            "pre",
            map(_line, lines),
            id="log",
            tabindex="0",
            role="region",
            aria_label=f"The last lines of the log of {run.name}",
            data_events=None if is_over else run.log_path,
            data_cursor=cursor,
        ),
        el(
            "p", "A bar at the left marks stderr. All of it: ", el("code", f"moat logs -n all {run.id}"), class_="quiet"
        ),
        site=asker.site,
        reload_s=None if is_over else _RELOAD_S,
    )


def _line(line: LogLine) -> Element:
    return el("span", f"{line.text}\n", class_="err" if line.stream == "stderr" else None)


def lines_event(lines: Sequence[LogLine], *, cursor: str) -> bytes:
    """Return the event of further LINES.

    Args:
        cursor: Where they end. The browser sends it as ``Last-Event-ID`` when it comes back.
    """
    told = json.dumps({"lines": [line.to_json() for line in lines[-MOST_LINES:]]}, separators=(",", ":"))
    return f"id: {_field(cursor)}\nevent: lines\ndata: {told}\n\n".encode()


def end_event(run: RunView) -> bytes:
    """Return the event after which nothing comes: RUN is over. The page does not ask again."""
    told = json.dumps({"state": run.state, "exit_code": run.exit_code}, separators=(",", ":"))
    return f"event: end\ndata: {told}\n\n".encode()


def events_answer(body: Callable[[], AsyncIterator[bytes]]) -> Streamed:
    """Return a stream of events.

    Args:
        body: Yields `BEGIN`, then events, and `KEEP_ALIVE` when nothing happens.
    """
    return Streamed(200, EVENTS, {**json_headers(), "X-Accel-Buffering": "no"}, body)


def _field(text: str) -> str:
    """Return TEXT for a line of its own (WHATWG HTML, 9.2.5: no line end, no NUL)."""
    return "".join(c for c in text if c.isascii() and c.isprintable())
