"""The headers that keep agents' pages and ours apart.

What a hostile page at ``http://web.evil.localhost:8080`` may try to read of the index, and why it fails:

=================================  ===================================================================================
it tries                           it fails because
=================================  ===================================================================================
``fetch``, XMLHttpRequest          another origin, and no ``Access-Control-Allow-Origin`` is ever sent
``fetch`` with ``no-cors``         the answer would be opaque; ``Cross-Origin-Resource-Policy`` makes it an error
``EventSource``                    it is a CORS request, as ``fetch``
``<script src>`` of the JSON       ``nosniff``: JSON is no script; and the resource policy
``<link>``, ``<img>`` of ours      the resource policy: not even whether moat is here shows in a size
``<iframe>``, ``<object>``         ``frame-ancestors 'none'``, and ``X-Frame-Options`` for what does not know it
``window.open``                    another origin's document; ``Cross-Origin-Opener-Policy`` cuts the handle as well
a form that posts                  nothing here takes one; every method but GET and HEAD is a 405
its own name for 127.0.0.1         a Host that is not under ``localhost`` is answered 421 (DNS rebinding)
=================================  ===================================================================================

Before any of that `accept.is_foreign` lets the proxy refuse such a request, where the browser says whose it is.

Pages on an agent's own origin can be read by code that the agent has left there (a service worker): they tell of that
agent alone. The list of agents on the page of an unknown one is for `accept.is_navigation` only.
"""

from __future__ import annotations

__all__ = ["asset_headers", "index_headers", "json_headers", "page_headers"]

_ALWAYS = {
    "Cache-Control": "no-store",
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_NO_MARKUP = "require-trusted-types-for 'script'; trusted-types 'none'"
"""The scripts make no markup from texts, and shall not begin to."""


def index_headers() -> dict[str, str]:
    """Return those of a page on the index's host, whose files are at paths of their own."""
    return _headers(
        f"{_NOTHING}; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; {_NO_MARKUP}"
    )


def page_headers(style: str, script: str = "", *, keeps_opener: bool = False) -> dict[str, str]:
    """Return those of a page on an agent's origin, which brings all that it needs.

    Args:
        style: The hash of its style; ``script`` likewise, if it has one.
        keeps_opener: The window that opened it keeps its handle: a login in a popup comes back to a service that is
            just starting, and the page is in its place for a moment.
    """
    runs = f"; script-src {script}; connect-src 'self'; {_NO_MARKUP}" if script else ""
    return _headers(f"{_NOTHING}; style-src {style}{runs}", keeps_opener=keeps_opener)


def json_headers() -> dict[str, str]:
    """Return those of JSON and of events."""
    return _headers(_NOTHING)


def asset_headers() -> dict[str, str]:
    """Return those of the index's files."""
    return _headers(_NOTHING)


def _headers(policy: str, *, keeps_opener: bool = False) -> dict[str, str]:
    opener = {} if keeps_opener else {"Cross-Origin-Opener-Policy": "same-origin"}
    return {"Content-Security-Policy": policy, **opener, **_ALWAYS}
