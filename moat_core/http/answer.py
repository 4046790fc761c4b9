"""What the proxy says itself."""

from __future__ import annotations

import http
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeAlias

import attrs

__all__ = ["Answer", "Deferred", "Said", "Streamed"]


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
        head = _head(self, [f"Content-Length: {len(self.body)}"], keep_alive=keep_alive)
        return head if is_head else head + self.body


@attrs.frozen
class Streamed:
    """A response that goes on until BODY ends, or the client has gone.

    Args:
        status: HTTP's.
        content_type: Of the body.
        headers: Further ones.
        body: Called once; returns the pieces. It is not asked for the next one while the client takes nothing, and is
            closed (``aclose``) when the client goes.
    """

    status: int
    content_type: str
    headers: Mapping[str, str]
    body: Callable[[], AsyncIterator[bytes]]

    def encode(self, *, keep_alive: bool, is_chunked: bool) -> bytes:
        """Return the bytes of its head."""
        return _head(self, ["Transfer-Encoding: chunked"] if is_chunked else [], keep_alive=keep_alive)


Deferred: TypeAlias = Callable[[], Awaitable[Answer | Streamed]]
"""What is to be said is found out first; nothing else waits for it."""

Said: TypeAlias = Answer | Streamed | Deferred


def _head(answer: Answer | Streamed, framing: list[str], *, keep_alive: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {answer.status} {http.HTTPStatus(answer.status).phrase}",
        f"Content-Type: {answer.content_type}",
        *framing,
        *(f"{name}: {value}" for name, value in answer.headers.items()),
        f"Connection: {'keep-alive' if keep_alive else 'close'}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
