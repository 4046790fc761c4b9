"""Heads of messages: what came in, and what is passed on. Pure functions of one head's bytes.

llhttp validates and rejects, nothing else: what a head means is decided here, by RFC 9112's rules and more strictly
where llhttp accepts what two parties could read in two ways (docs/adr has the table). Lines that are kept are kept byte
for byte; exactly one framing header leaves, and it is ours.
"""

from __future__ import annotations

import re

import attrs
import httptools

__all__ = [
    "CHUNKED", "MAX_HEAD", "NO_BODY", "UNTIL_EOF", "BadHead", "Fields", "Request", "Response", "expects_continue",
    "find_tokens", "keeps_alive", "parse_request", "parse_response", "read_request_line", "read_status_line",
    "request_body", "response_body", "split", "validate",
]  # fmt: skip

MAX_HEAD = 64 * 1024
"""How long a head may be, in bytes."""
_MAX_LINES = 128

NO_BODY = 0
CHUNKED = -1
UNTIL_EOF = -2
"""Framings beside a length in bytes. The last one is a response's only."""

_VERSIONS = {b"HTTP/1.1": 1, b"HTTP/1.0": 0}
_METHOD = re.compile(rb"[A-Z-]+")
_HOST = re.compile(rb"[A-Za-z0-9._-]+(?::[0-9]{0,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{0,5})?")
_PROTOCOL = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z/-]+")
_STATUS = re.compile(rb"[1-9][0-9][0-9](?: [\t -~\x80-\xff]*)?")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_TARGET = re.compile(rb"/[!-~\x80-\xff]*")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]*)(.*)")

# RFC 9110, 7.6.1. `Proxy-Connection` is nobody's standard and everybody's.
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"content-length"}
)
# Of a request: what is ours to set, and what is read.
_OF_REQUESTS = _HOP_BY_HOP | {b"host", b"forwarded", b"via", b"x-real-ip", b"expect"}
_FORWARDED = b"x-forwarded-"
_USUAL = frozenset({b"close", b"keep-alive", b"upgrade"})
_FRAMING = frozenset({b"host", b"content-length", b"transfer-encoding"})
_NO_CONTENT, _NOT_MODIFIED, _SWITCHING, _OK = 204, 304, 101, 200


class BadHead(Exception):
    """A head that is not passed on.

    Args:
        status: What a client is told; of a response it is 502.
        reason: One sentence.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@attrs.define(eq=False)
class Request:
    """A request's head. Not to be changed: it is not frozen because that takes a microsecond of each request.

    Args:
        method: As it came.
        target: In origin form, ``/path?query``; ``*`` for OPTIONS.
        host: As it came, with its port: an absolute target's authority goes before the header (RFC 9112, 3.2.2).
        head: What is sent on, but for what the connection adds to it and the empty line.
        body: A length in bytes, `NO_BODY` or `CHUNKED`.
        minor: The version that the client speaks: 1 or 0.
        keep_alive: The client's connection may be used again.
        upgrade: The protocol to change to, or ``b""``.
        expects: The client waits for ``100 Continue`` before it sends its body.
        via: The names of the proxies that it came through, lower case.
    """

    method: bytes
    target: bytes
    host: bytes
    head: bytes
    body: int
    minor: int
    keep_alive: bool
    upgrade: bytes = b""
    expects: bool = False
    via: tuple[bytes, ...] = ()

    def header(self, name: bytes) -> bytes:
        """Return the first value of NAME among what is sent on, or ``b""``."""
        wanted = name.lower() + b":"
        for line in self.head.split(b"\r\n")[1:]:
            if line[: len(wanted)].lower() == wanted:
                return line[len(wanted) :].strip(b" \t")
        return b""


@attrs.frozen
class Response:
    """A response's head; see `Request`. ``body`` may be `UNTIL_EOF`."""

    status: int
    head: bytes
    body: int
    minor: int
    keep_alive: bool
    upgrade: bytes = b""


class _Heard:
    """What llhttp calls. It must find that the message's head ends where the bytes end."""

    __slots__ = ("begun", "body", "complete")

    def __init__(self) -> None:
        self.begun = self.complete = 0
        self.body = False

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_headers_complete(self) -> None:
        self.complete += 1

    def on_body(self, _: bytes) -> None:
        self.body = True


def parse_request(data: bytes) -> Request:
    """Read a request's head, which ends with the empty line.

    Raises:
        BadHead: It is not passed on.
    """
    start, lines = split(data)
    method, target, minor = read_request_line(start)
    validate(httptools.HttpRequestParser, data, 400)
    kept, fields = _sort(lines, _OF_REQUESTS, is_request=True)
    if minor and b"host" not in fields:
        raise BadHead(400, "The request has no Host header.")
    target, host = _find_host(method, target, fields)
    tokens = find_tokens(fields)
    body = request_body(fields, minor)
    upgrade = _find_upgrade(fields) if b"upgrade" in tokens and body == NO_BODY and minor else b""
    expects = expects_continue(fields, minor)
    out = [b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (method, target, host)]
    out += _without(kept, tokens)
    # A POST without a body says so; of a GET nothing is expected.
    out.append(b"Content-Length: 0\r\n" if body == NO_BODY and b"content-length" in fields else _frame(body))
    if upgrade:
        out.append(b"Connection: upgrade\r\nUpgrade: %b\r\n" % upgrade)
    return Request(
        method=method,
        target=target,
        host=host,
        head=b"".join(out),
        body=body,
        minor=minor,
        keep_alive=keeps_alive(tokens, minor),
        upgrade=upgrade,
        expects=expects,
        via=tuple(word for line in fields[b"via"] for word in line.lower().replace(b",", b" ").split())
        if b"via" in fields
        else (),
    )


def parse_response(data: bytes, method: bytes) -> Response:
    """Read the head of a response to a request of METHOD.

    Raises:
        BadHead: It is not passed on.
    """
    start, lines = split(data)
    rest, status, minor = read_status_line(start)
    kept, fields = _sort(lines, _HOP_BY_HOP, is_request=False)
    tokens = find_tokens(fields)
    # llhttp wants to know that a 101 was asked for, which it was.
    validate(httptools.HttpResponseParser, data, 502)
    body = response_body(fields, method, status, minor)
    upgrade = _one(fields, b"upgrade") if status == _SWITCHING else b""
    out = [b"HTTP/1.1 %b\r\n" % rest]
    out += _without(kept, tokens)
    if body != UNTIL_EOF:
        out.append(_frame_response(body, status, method, fields))
    if upgrade:
        out.append(b"Connection: upgrade\r\nUpgrade: %b\r\n" % upgrade)
    return Response(
        status=status,
        head=b"".join(out),
        body=body,
        minor=minor,
        keep_alive=keeps_alive(tokens, minor) and body != UNTIL_EOF and status != _SWITCHING,
        upgrade=upgrade,
    )


Fields = dict[bytes, list[bytes]]


def split(data: bytes, most: int = MAX_HEAD) -> tuple[bytes, list[bytes]]:
    """Return the start line, and the lines of the fields; llhttp has yet to say that they are well-formed."""
    if len(data) > most:
        raise BadHead(431, f"The head is longer than {most} bytes.")
    start, *lines = data[:-4].split(b"\r\n")
    if len(lines) > _MAX_LINES:
        raise BadHead(431, f"The head has more than {_MAX_LINES} lines.")
    return start, lines


def read_request_line(start: bytes) -> tuple[bytes, bytes, int]:
    """Return method, target, and the version's last digit."""
    words = start.split(b" ")
    if len(words) != 3 or words[2] not in _VERSIONS:  # noqa: PLR2004 - method, target, version
        raise BadHead(400 if len(words) != 3 or words[2][:5] != b"HTTP/" else 505, "The request line is malformed.")  # noqa: PLR2004
    if not _METHOD.fullmatch(words[0]):  # llhttp skips line ends before it
        raise BadHead(400, "The request line is malformed.")
    if words[0] == b"CONNECT":
        raise BadHead(405, "This is no forward proxy: CONNECT is refused.")
    return words[0], words[1], _VERSIONS[words[2]]


def read_status_line(start: bytes) -> tuple[bytes, int, int]:
    """Return status and phrase as they came, the status, and the version's last digit."""
    version, _, rest = start.partition(b" ")
    if version not in _VERSIONS or not _STATUS.fullmatch(rest):
        raise BadHead(502, "The status line is malformed.")
    return rest, int(rest[:3]), _VERSIONS[version]


def validate(parser: type, data: bytes, status: int) -> None:
    """Have llhttp, strict, agree that DATA is one head and nothing else. A parser is used once: some heads spoil it."""
    heard = _Heard()
    try:
        parser(heard).feed_data(data)
    except httptools.HttpParserUpgrade as upgrade:
        if upgrade.args[0] != len(data):
            raise BadHead(status, "The head is malformed.") from None
    except httptools.HttpParserError as error:
        raise BadHead(status, f"The head is malformed: {error}.") from None
    if heard.begun != 1 or heard.complete != 1 or heard.body:
        raise BadHead(status, "The head is malformed.")


def _sort(lines: list[bytes], special: frozenset[bytes], *, is_request: bool) -> tuple[list[bytes], Fields]:
    """Return the lines that may be passed on, and by name, in lower case, all values of the SPECIAL ones."""
    kept: list[bytes] = []
    fields: Fields = {}
    for line in lines:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name in special:
            fields.setdefault(name, []).append(value.strip(b" \t"))
            if name != b"expect":
                continue
        elif is_request and _is_spoofed(name, special):
            continue
        kept.append(line + b"\r\n")
    return kept, fields


def _is_spoofed(name: bytes, special: frozenset[bytes]) -> bool:
    """Tell whether a client says what is ours to say; CGI and WSGI take ``_`` for ``-``."""
    plain = name.replace(b"_", b"-")
    return plain.startswith(_FORWARDED) or plain in special


def _without(lines: list[bytes], tokens: frozenset[bytes]) -> list[bytes]:
    """Return LINES but for those that a peer wants to be known between the two of us alone."""
    if tokens <= _USUAL:
        return lines
    return [line for line in lines if line.partition(b":")[0].lower() not in tokens]


def find_tokens(fields: Fields) -> frozenset[bytes]:
    """Return the connection's options. What frames a message, or says whose it is, is not for a peer to take out."""
    values = fields.get(b"connection")
    if not values:
        return frozenset()
    found = {word.strip(b" \t").lower() for value in values for word in value.split(b",")}
    return frozenset(found - _FRAMING)


def _one(fields: Fields, name: bytes) -> bytes:
    values = fields.get(name, [])
    return values[0] if len(values) == 1 else b""


def _find_upgrade(fields: Fields) -> bytes:
    """Return the one protocol to change to. HTTP/2 is none: its requests would be read by nobody but the service."""
    protocol = _one(fields, b"upgrade")
    return protocol if _PROTOCOL.fullmatch(protocol) and not protocol.lower().startswith(b"h2") else b""


def _find_host(method: bytes, target: bytes, fields: Fields) -> tuple[bytes, bytes]:
    """Return the target in origin form, and whose it is."""
    hosts = fields.get(b"host", [])
    if len(hosts) > 1:
        raise BadHead(400, "The request has two Host headers.")
    host = hosts[0] if hosts else b""
    if absolute := _ABSOLUTE.fullmatch(target):
        host, rest = absolute.groups()
        target = rest if rest.startswith(b"/") else b"/" + rest
    if not _HOST.fullmatch(host):
        raise BadHead(400, "The request has no Host header that names a host.")
    if target == b"*" and method == b"OPTIONS":
        return target, host
    if not _TARGET.fullmatch(target) or b"#" in target:
        raise BadHead(400, "The request's target is malformed.")
    return target, host


def request_body(fields: Fields, minor: int) -> int:
    """Return the framing of a request's body."""
    if codings := fields.get(b"transfer-encoding"):
        if b"content-length" in fields or minor == 0:
            raise BadHead(400, "The request's body has two lengths.")
        if len(codings) != 1 or codings[0].lower() != b"chunked":
            raise BadHead(501, "The request's Transfer-Encoding is not 'chunked'.")
        return CHUNKED
    return _length(fields, 400)


def response_body(fields: Fields, method: bytes, status: int, minor: int) -> int:
    """RFC 9112, 6.3."""
    codings, is_bodiless = fields.get(b"transfer-encoding"), status < _OK or status in {_NO_CONTENT, _NOT_MODIFIED}
    if codings and (b"content-length" in fields or minor == 0 or [each.lower() for each in codings] != [b"chunked"]):
        raise BadHead(502, "The response's Transfer-Encoding is not 'chunked' alone.")
    length = _length(fields, 502)
    if is_bodiless or method == b"HEAD":
        return NO_BODY
    if codings:
        return CHUNKED
    return length if b"content-length" in fields else UNTIL_EOF


def _length(fields: Fields, status: int) -> int:
    values = fields.get(b"content-length", [])
    if not values:
        return NO_BODY
    if len(values) != 1 or not _LENGTH.fullmatch(values[0]):
        raise BadHead(status, "The Content-Length is no number.")
    return int(values[0])


def expects_continue(fields: Fields, minor: int) -> bool:
    """Tell whether the client waits for ``100 Continue``."""
    values = fields.get(b"expect", [])
    if values and [value.lower() for value in values] != [b"100-continue"]:
        raise BadHead(417, "Only '100-continue' may be expected.")
    return bool(values) and minor == 1


def keeps_alive(tokens: frozenset[bytes], minor: int) -> bool:
    """Tell whether the connection may be used again."""
    return b"close" not in tokens and (minor == 1 or b"keep-alive" in tokens)


def _frame(body: int) -> bytes:
    if body == CHUNKED:
        return b"Transfer-Encoding: chunked\r\n"
    return b"Content-Length: %d\r\n" % body if body > 0 else b""


def _frame_response(body: int, status: int, method: bytes, fields: Fields) -> bytes:
    if body != NO_BODY:
        return _frame(body)
    if status < _OK or status == _NO_CONTENT:
        return b""  # RFC 9110, 8.6: none there
    if method == b"HEAD" or status == _NOT_MODIFIED:
        return b"Content-Length: %d\r\n" % _length(fields, 502) if b"content-length" in fields else b""
    return b"Content-Length: 0\r\n"
