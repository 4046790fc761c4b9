"""Heads that were read before: `parse_request` and `parse_response` are pure functions, and most heads come again.

A client sends the same lines with each of its requests, and only the first one differs. What llhttp and we made of the
lines holds for any first line of the plain form that `_START` matches: it has no part in what they mean.

They hold cookies and tokens: they are few, and `clear` is called each minute.
"""

from __future__ import annotations

import re

from moat_core.http.head import Request, Response, parse_request, parse_response

__all__ = ["Heads"]

_START = re.compile(rb'(DELETE|GET|HEAD|OPTIONS|PATCH|POST|PUT) (/[!"$-~]*) HTTP/1\.1\r\n')
_MOST = 512
_MOST_BYTES = 4096


class Heads:
    """See the module."""

    def __init__(self) -> None:
        self._requests: dict[bytes, tuple[bytes, bytes, int, int, bool, bytes, bool, tuple[bytes, ...]]] = {}
        self._responses: dict[bytes, Response] = {}

    def request(self, data: bytes) -> Request:
        """Do what `parse_request` does."""
        start = _START.match(data)
        if start is None:
            return parse_request(data)
        method, target = start.groups()
        key = method + data[start.end() :]
        known = self._requests.get(key)
        if known is not None:
            host, head, body, minor, keep_alive, upgrade, expects, via = known
            head = b"%b %b%b" % (method, target, head)
            return Request(method, target, host, head, body, minor, keep_alive, upgrade, expects, via)
        found = parse_request(data)
        if len(data) <= _MOST_BYTES:
            if len(self._requests) >= _MOST:
                self._requests.clear()
            self._requests[key] = (
                found.host, found.head[len(method) + 1 + len(target) :], found.body, found.minor, found.keep_alive,
                found.upgrade, found.expects, found.via,
            )  # fmt: skip
        return found

    def response(self, data: bytes, method: bytes) -> Response:
        """Do what `parse_response` does."""
        if method == b"HEAD":
            return parse_response(data, method)
        known = self._responses.get(data)
        if known is not None:
            return known
        found = parse_response(data, method)
        if len(data) <= _MOST_BYTES:
            if len(self._responses) >= _MOST:
                self._responses.clear()
            self._responses[data] = found
        return found

    def clear(self) -> None:
        """Forget all of them."""
        self._requests.clear()
        self._responses.clear()
