"""Who asks, and for what: HTML for a browser, JSON for programs, events for the page's own script.

Pure functions of a request's header lines.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from moat_plugins.routing.pages.state import Site

__all__ = ["Asker", "is_foreign", "is_navigation", "read_fields", "wants_events", "wants_html"]

_MOST = 32
_HTML = ("text/html", "application/xhtml+xml")


@attrs.frozen
class Asker:
    """Who is answered.

    Args:
        site: How the proxy is reached.
        html: A page is wanted; else JSON.
        method: The request's.
    """

    site: Site
    html: bool = False
    method: str = "GET"

    @property
    def is_safe(self) -> bool:
        """Whether the request may be sent again by itself (RFC 9110, 9.2.1, less OPTIONS and TRACE)."""
        return self.method in {"GET", "HEAD"}


def read_fields(head: bytes) -> dict[str, str]:
    """Return the header fields in a request's HEAD, by lower-case names; those that came twice are joined."""
    fields: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            key = name.lower()
            fields[key] = f"{fields[key]}, {value.strip()}" if key in fields else value.strip()
    return fields


def wants_html(accept: str) -> bool:
    """Tell whether ACCEPT asks for HTML by name, and not rather for JSON (RFC 9110, 12.5.1).

    ``*/*`` does not: it is what curl and most libraries send, and what ``<script>`` does.
    """
    weights = _weights(accept)
    html = max((weights[kind] for kind in _HTML if kind in weights), default=weights.get("text/*", 0.0))
    return html > 0 and html >= weights.get("application/json", 0.0)


def wants_events(accept: str) -> bool:
    """Tell whether ACCEPT asks for server-sent events."""
    return _weights(accept).get("text/event-stream", 0.0) > 0


def _weights(accept: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for item in accept.lower().split(",", _MOST)[:_MOST]:
        kind, *parameters = (part.strip() for part in item.split(";"))
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                weight = _weight(value.strip())
        weights[kind] = max(weight, weights.get(kind, 0.0))
    return weights


def _weight(value: str) -> float:
    try:
        weight = float(value)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0


def is_navigation(fields: Mapping[str, str]) -> bool:
    """Tell whether somebody opens the address in a window, or asks with no browser at all.

    What a service worker has the browser ask for ahead is read by that worker (Service Workers, navigation preload).
    """
    if "service-worker-navigation-preload" in fields:
        return False
    if "sec-fetch-site" not in fields:
        return True
    return fields.get("sec-fetch-mode") == "navigate" and fields.get("sec-fetch-dest") == "document"


def is_foreign(fields: Mapping[str, str]) -> bool:
    """Tell whether another origin's page asks for a part of itself (Fetch Metadata, W3C, 2 to 3).

    It could not read the answer anyway; so it need not be given one, or an event stream to hold open.
    """
    return fields.get("sec-fetch-site", "none") not in {"none", "same-origin"} and not is_navigation(fields)
