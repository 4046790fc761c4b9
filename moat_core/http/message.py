"""Heads for those who read a message themselves, where a proxy passes it on: all of its headers, and where it ends.

What is a head, and what its body's framing, is decided in `head`, by the same rules for both.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import httptools

from moat_core.http.head import (
    MAX_HEAD,
    NO_BODY,
    BadHead,
    Fields,
    expects_continue,
    find_tokens,
    keeps_alive,
    read_request_line,
    read_status_line,
    request_body,
    response_body,
    split,
    validate,
)

__all__ = ["Asked", "Told", "read_request", "read_response", "write_head"]

_FRAMING = (b"host", b"connection", b"content-length", b"transfer-encoding", b"expect")
_ENDS = ("\r", "\n", "\0")

Headers = tuple[tuple[bytes, bytes], ...]


@attrs.frozen
class Asked:
    """A request's head.

    Args:
        method: As it came.
        target: As it came, in whichever form.
        minor: The version's last digit: 1 or 0.
        headers: All of them, in order, names in lower case.
        body: A length in bytes, or `NO_BODY` or `CHUNKED`.
        keep_alive: The connection may be used again.
        expects: The client waits for ``100 Continue`` before it sends its body.
    """

    method: bytes
    target: bytes
    minor: int
    headers: Headers
    body: int
    keep_alive: bool
    expects: bool


@attrs.frozen
class Told:
    """A response's head; see `Asked`. ``body`` may be `UNTIL_EOF`."""

    status: int
    headers: Headers
    body: int


def read_request(data: bytes, *, most: int = MAX_HEAD) -> Asked:
    """Read a request's head, which ends with the empty line and is of MOST bytes at most.

    Raises:
        BadHead: Two readers could read it in two ways, or it is none.
    """
    start, lines = split(data, most)
    method, target, minor = read_request_line(start)
    validate(httptools.HttpRequestParser, data, 400)
    headers, fields = _sort(lines)
    if len(fields.get(b"host", ())) != 1 and (minor or b"host" in fields):
        raise BadHead(400, "The request has no Host header, or two.")
    body = request_body(fields, minor)
    return Asked(
        method, target, minor, headers, body,
        keep_alive=keeps_alive(find_tokens(fields), minor),
        expects=expects_continue(fields, minor) and body != NO_BODY,
    )  # fmt: skip


def read_response(data: bytes, method: bytes, *, most: int = MAX_HEAD) -> Told:
    """Read the head of a response to a request of METHOD; see `read_request`.

    Raises:
        BadHead: As there.
    """
    start, lines = split(data, most)
    _, status, minor = read_status_line(start)
    validate(httptools.HttpResponseParser, data, 502)
    headers, fields = _sort(lines)
    return Told(status, headers, response_body(fields, method, status, minor))


def _sort(lines: list[bytes]) -> tuple[Headers, Fields]:
    headers, fields = [], Fields()
    for line in lines:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        headers.append((name, value))
        if name in _FRAMING:
            fields.setdefault(name, []).append(value)
    return tuple(headers), fields


def write_head(start: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return a head's bytes.

    Raises:
        ValueError: One of its parts has a line's end in it, and would be two.
    """
    lines = [start, *(f"{name}: {value}" for name, value in headers)]
    if any(end in line for line in lines for end in _ENDS):
        raise ValueError("a header must not have a line's end in it")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
