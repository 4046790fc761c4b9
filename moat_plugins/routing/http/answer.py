"""What the proxy says itself."""

from __future__ import annotations

import http
from collections.abc import Mapping

import attrs

__all__ = ["Answer"]


@attrs.frozen
class Answer:
    """A whole response.

    Args:
        status: HTTP's.
        body: Of ``content_type``.
        headers: Further ones.
    """

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = attrs.field(factory=dict)

    def encode(self, *, keep_alive: bool, is_head: bool) -> bytes:
        """Return its bytes; a HEAD request's answer has no body."""
        lines = [
            f"HTTP/1.1 {self.status} {http.HTTPStatus(self.status).phrase}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
            f"Connection: {'keep-alive' if keep_alive else 'close'}",
        ]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        return head if is_head else head + self.body
