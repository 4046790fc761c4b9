"""What every page has around its content, and every answer in its head."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from moat_core.http.answer import Answer
from moat_plugins.routing.pages import policy
from moat_plugins.routing.pages.assets import hash_of, read
from moat_plugins.routing.pages.markup import Child, Element, el, render
from moat_plugins.routing.pages.state import Site

__all__ = ["index_answer", "json_answer", "page_answer"]

_CSS, _WAIT = "moat.css", "wait.js"


def index_answer(title: str, *content: Child, site: Site, foot: Child = None, reload_s: int | None = None) -> Answer:
    """Return a page of the index's host, with its style and script at paths of their own.

    Args:
        foot: What stands below, beside the version.
        reload_s: Without scripts the browser asks again after so many seconds.
    """
    links = [
        el("link", rel="icon", href="/moat.svg", type="image/svg+xml"),
        el("link", rel="stylesheet", href="/moat.css"),
        el("script", src="/moat.js", defer=True),
    ]
    document = _document(
        title, [*links, _reload(reload_s)], content, index="/", foot=[f"moat {site.version}".strip(), ".", foot]
    )
    return _answer(200, document, policy.index_headers())


def page_answer(
    status: int, title: str, *content: Child, site: Site, waits_s: int | None = None, headers: Mapping[str, str] = {}
) -> Answer:
    """Return a page for an agent's origin, or for nobody's: it needs nothing from there.

    Args:
        waits_s: It looks for the service, and reloads when that answers; without scripts after so many seconds.
        headers: Further ones.
    """
    head: list[Element | None] = [el("style", read(_CSS))]
    if waits_s is None:
        policed = policy.page_headers(hash_of(_CSS))
    else:
        head += [_reload(waits_s), el("script", read(_WAIT), type="module")]
        policed = policy.page_headers(hash_of(_CSS), hash_of(_WAIT), keeps_opener=True)
    document = _document(title, head, content, index=site.url(), foot=el("a", "What is running", href=site.url()))
    return _answer(status, document, {**policed, **headers})


def json_answer(status: int, value: Any, *, headers: Mapping[str, str] = {}) -> Answer:
    """Return VALUE as JSON."""
    body = json.dumps(value, indent=2).encode() + b"\n"
    return Answer(status, body, "application/json", {**policy.json_headers(), **headers})


def _reload(seconds: int | None) -> Element | None:
    if seconds is None:
        return None
    return el("noscript", el("meta", http_equiv="refresh", content=str(seconds)))


def _document(
    title: str, head: list[Element | None], content: tuple[Child, ...], *, index: str, foot: Child
) -> Element:
    return el(
        "html",
        el(
            "head",
            el("meta", charset="utf-8"),
            el("title", f"{title} · moat"),
            el("meta", name="viewport", content="width=device-width, initial-scale=1"),
            el("meta", name="color-scheme", content="light dark"),
            head,
        ),
        el(
            "body",
            el("a", "Skip to the content", class_="skip", href="#main"),
            el("header", el("a", "moat", class_="brand", href=index), el("p", id="link", role="status")),
            el("main", *content, id="main", tabindex="-1"),
            el("footer", el("p", foot)),
        ),
        lang="en",
    )


def _answer(status: int, document: Element, headers: Mapping[str, str]) -> Answer:
    body = f"<!doctype html>\n{render(document)}\n".encode()
    return Answer(status, body, "text/html; charset=utf-8", headers)
