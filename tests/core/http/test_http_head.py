"""Heads that are passed on, and heads that are not: every row of what llhttp accepts and a proxy must not."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moat_core.http.head import (
    CHUNKED,
    NO_BODY,
    UNTIL_EOF,
    BadHead,
    parse_request,
    parse_response,
)

HOST = b"Host: web.app.localhost:8080\r\n"


def request(*lines, start=b"GET / HTTP/1.1", host=HOST):
    return start + b"\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


REFUSED = {
    "CL and TE": (400, [b"Content-Length: 3", b"Transfer-Encoding: chunked"]),
    "TE and CL": (400, [b"Transfer-Encoding: chunked", b"Content-Length: 3"]),
    "two CL": (400, [b"Content-Length: 3", b"Content-Length: 3"]),
    "CL list": (400, [b"Content-Length: 3, 3"]),
    "CL plus": (400, [b"Content-Length: +3"]),
    "CL minus": (400, [b"Content-Length: -1"]),
    "CL hexadecimal": (400, [b"Content-Length: 0x3"]),
    "CL words": (400, [b"Content-Length: 1 2"]),
    "CL empty": (400, [b"Content-Length: "]),
    "CL 2^64": (400, [b"Content-Length: 18446744073709551616"]),
    "CL 2^64-1": (400, [b"Content-Length: 18446744073709551615"]),
    "TE gzip, chunked": (501, [b"Transfer-Encoding: gzip, chunked"]),
    "TE identity then chunked": (501, [b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"]),
    "TE identity": (400, [b"Transfer-Encoding: identity"]),
    "TE chunked, gzip": (400, [b"Transfer-Encoding: chunked, gzip"]),
    "TE xchunked": (400, [b"Transfer-Encoding: xchunked"]),
    "TE quoted": (400, [b'Transfer-Encoding: "chunked"']),
    "TE parameter": (400, [b"Transfer-Encoding: chunked;q=1"]),
    "TE vertical tab": (400, [b"Transfer-Encoding: \x0bchunked"]),
    "TE twice": (400, [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"]),
    "TE empty": (400, [b"Transfer-Encoding: "]),
    "blank before the colon": (400, [b"Transfer-Encoding : chunked"]),
    "blank in a name": (400, [b"A B: c"]),
    "no colon": (400, [b"AB"]),
    "empty name": (400, [b": c"]),
    "NUL in a name": (400, [b"A\0B: c"]),
    "NUL in a value": (400, [b"A: b\0c"]),
    "DEL in a value": (400, [b"A: b\x7fc"]),
    "bare CR": (400, [b"A: b\rContent-Length: 3"]),
    "bare LF": (400, [b"A: b\nContent-Length: 3"]),
    "folded": (400, [b"A: b", b" c"]),
    "folded TE": (400, [b"Transfer-Encoding:", b" chunked"]),
    "two hosts": (400, [b"Host: other.localhost"]),
    "expects coffee": (417, [b"Expect: coffee"]),
    "many lines": (431, [b"A: b"] * 200),
    "long": (431, [b"A: " + b"b" * 70_000]),
}
STARTS = {
    "CONNECT": (405, b"CONNECT a.localhost:80 HTTP/1.1"),
    "HTTP/2": (505, b"GET / HTTP/2.0"),
    "HTTP/0.9": (505, b"GET / HTTP/0.9"),
    "no version": (400, b"GET /"),
    "RTSP": (400, b"GET / RTSP/1.0"),
    "ICE": (400, b"SOURCE / ICE/1.0"),
    "HTTP/1.2": (505, b"GET / HTTP/1.2"),
    "lower case": (400, b"GET / http/1.1"),
    "unknown method": (400, b"BREW / HTTP/1.1"),
    "two blanks": (400, b"GET  / HTTP/1.1"),
    "blank after": (400, b"GET / HTTP/1.1 "),
    "tabs": (400, b"GET\t/\tHTTP/1.1"),
    "fragment": (400, b"GET /#a HTTP/1.1"),
    "ftp": (400, b"GET ftp://a.localhost/ HTTP/1.1"),
    "user": (400, b"GET http://u@a.localhost/ HTTP/1.1"),
    "star": (400, b"GET * HTTP/1.1"),
    "NUL": (400, b"GET /\0 HTTP/1.1"),
    "LF before": (400, b"\nGET / HTTP/1.1"),
    "CR before": (400, b"\rGET / HTTP/1.1"),
    "empty first line": (400, b"\r\nGET / HTTP/1.1"),
    "h2 preface": (505, b"PRI * HTTP/2.0"),
}
HOSTS = [b"", b"Host:\r\n", b"Host: a/b@c\r\n", b"Host: a b\r\n", b"Host: a:b\r\n", b"Host: [::1\r\n", b"Host: a,b\r\n"]


@pytest.mark.parametrize(("status", "lines"), REFUSED.values(), ids=REFUSED)
def test_what_could_be_read_in_two_ways_is_refused(status, lines):
    """Whatever the parser thinks of it."""
    with pytest.raises(BadHead) as caught:
        parse_request(request(*lines, start=b"POST / HTTP/1.1"))
    assert caught.value.status == status


@pytest.mark.parametrize(("status", "start"), STARTS.values(), ids=STARTS)
def test_odd_request_lines_are_refused(status, start):
    """Other protocols, other versions, other spellings."""
    with pytest.raises(BadHead) as caught:
        parse_request(request(start=start))
    assert caught.value.status == status


@pytest.mark.parametrize("host", HOSTS)
def test_a_request_names_one_host(host):
    """One that can be a host."""
    with pytest.raises(BadHead) as caught:
        parse_request(request(host=host))
    assert caught.value.status == 400


def test_an_absolute_target_does_not_stand_for_the_host():
    """HTTP/1.1 wants both (RFC 9112, 3.2), 1.0 neither."""
    with pytest.raises(BadHead):
        parse_request(request(start=b"GET http://a.localhost/ HTTP/1.1", host=b""))
    assert parse_request(request(start=b"GET http://a.localhost/ HTTP/1.0", host=b"")).host == b"a.localhost"


def test_chunked_with_http_1_0_is_refused():
    """There is no such thing."""
    with pytest.raises(BadHead):
        parse_request(request(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0"))


def test_what_is_kept_is_kept_byte_for_byte():
    """Order, case, blanks and bytes beyond ASCII; but not what concerns a connection, nor what only a proxy may say."""
    found = parse_request(
        request(
            b"X-One:  two ", b"ACCEPT: \xff", b"a_b: c", b"Connection: keep-alive, X-Gone", b"X-Gone: 1",
            b"Keep-Alive: 5", b"TE: trailers", b"Proxy-Connection: close", b"X-Forwarded-For: 1.2.3.4",
            b"X-FORWARDED-Whatever: x", b"Forwarded: for=1.2.3.4", b"X-Real-IP: 1.2.3.4", b"Via: 1.1 other, 1.1 Moat",
            b"Upgrade: websocket", b"Cookie: a=b", b"X_Forwarded_For: 6.6.6.6", b"X-Forwarded_Host: evil",
            b"Content_Length: 5", b"HOST_: x", b"_Forwarded: y", b"X_Real-IP: 6.6.6.6",
        )
    )  # fmt: skip
    assert found.head == (
        b"GET / HTTP/1.1\r\nHost: web.app.localhost:8080\r\nX-One:  two \r\nACCEPT: \xff\r\na_b: c\r\nCookie: a=b\r\n"
        b"HOST_: x\r\n_Forwarded: y\r\n"
    )
    assert (found.body, found.keep_alive, found.upgrade, found.via) == (
        NO_BODY, True, b"", (b"1.1", b"other", b"1.1", b"moat"),
    )  # fmt: skip


@pytest.mark.parametrize("name", [b"Host", b"Content-Length", b"transfer-encoding"])
def test_a_peer_cannot_take_out_what_frames(name):
    """By naming it in Connection."""
    lines = {b"transfer-encoding": b"Transfer-Encoding: chunked"}.get(name, b"Content-Length: 3")
    found = parse_request(request(b"Connection: " + name, lines, start=b"POST / HTTP/1.1"))
    assert b"Host: web.app" in found.head
    assert lines in found.head


@pytest.mark.parametrize(
    ("lines", "body", "sent"),
    [
        ([], NO_BODY, b""),
        ([b"Content-Length: 0"], NO_BODY, b"Content-Length: 0\r\n"),
        ([b"Content-Length: 003"], 3, b"Content-Length: 3\r\n"),
        ([b"content-length: 3 \t"], 3, b"Content-Length: 3\r\n"),
        ([b"transfer-encoding: Chunked"], CHUNKED, b"Transfer-Encoding: chunked\r\n"),
    ],
)
def test_one_framing_header_leaves(lines, body, sent):
    """And it is ours."""
    found = parse_request(request(*lines, start=b"POST /a?b HTTP/1.1"))
    assert found.body == body
    assert found.head == b"POST /a?b HTTP/1.1\r\nHost: web.app.localhost:8080\r\n" + sent


def test_an_absolute_target_goes_before_the_host():
    """As RFC 9112 has it, and what leaves says the same twice."""
    found = parse_request(request(start=b"GET HTTP://api.app.localhost?x HTTP/1.1"))
    assert (found.host, found.target) == (b"api.app.localhost", b"/?x")
    assert found.head == b"GET /?x HTTP/1.1\r\nHost: api.app.localhost\r\n"


@pytest.mark.parametrize(
    ("start", "lines", "keeps"),
    [
        (b"GET / HTTP/1.1", [], True),
        (b"GET / HTTP/1.1", [b"Connection: x, Close"], False),
        (b"GET / HTTP/1.0", [], False),
        (b"GET / HTTP/1.0", [b"Connection: Keep-Alive"], True),
    ],
)
def test_connections_are_kept_as_agreed(start, lines, keeps):
    """By version and option."""
    assert parse_request(request(*lines, start=start)).keep_alive is keeps


def test_an_upgrade_is_one_without_a_body_only():
    """With one it is an ordinary request; so it is in HTTP/1.0."""
    lines = [b"Connection: Upgrade", b"Upgrade: websocket"]
    found = parse_request(request(*lines))
    assert found.upgrade == b"websocket"
    assert found.head.endswith(b"Connection: upgrade\r\nUpgrade: websocket\r\n")
    for other in (
        request(*lines, b"Content-Length: 3", start=b"POST / HTTP/1.1"),
        request(*lines, b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.1"),
        request(*lines, start=b"GET / HTTP/1.0"),
        request(b"Upgrade: websocket"),
        request(b"Connection: Upgrade", b"Upgrade: websocket, x"),
        request(b"Connection: Upgrade", b"Upgrade: websocket", b"Upgrade: websocket"),
        request(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"),
    ):
        found = parse_request(other)
        assert found.upgrade == b""
        assert b"pgrade" not in found.head
        assert b"Settings" not in found.head


def test_continue_is_waited_for():
    """And the other side is told so."""
    lines = [b"Expect: 100-Continue", b"Content-Length: 3"]
    found = parse_request(request(*lines, start=b"POST / HTTP/1.1"))
    assert found.expects
    assert b"Expect: 100-Continue\r\n" in found.head
    assert not parse_request(request(*lines, start=b"POST / HTTP/1.0")).expects


def response(*lines, start=b"HTTP/1.1 200 OK"):
    return start + b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


@pytest.mark.parametrize(
    ("start", "method", "lines", "body", "sent"),
    [
        (b"HTTP/1.1 200 OK", b"GET", [b"Content-Length: 3"], 3, b"Content-Length: 3\r\n"),
        (b"HTTP/1.1 200 OK", b"GET", [b"Content-Length: 0"], NO_BODY, b"Content-Length: 0\r\n"),
        (b"HTTP/1.1 200", b"GET", [], UNTIL_EOF, b""),
        (b"HTTP/1.0 200 OK", b"GET", [], UNTIL_EOF, b""),
        (b"HTTP/1.1 200 OK", b"GET", [b"Transfer-Encoding: chunked"], CHUNKED, b"Transfer-Encoding: chunked\r\n"),
        (b"HTTP/1.1 200 OK", b"HEAD", [b"Content-Length: 3"], NO_BODY, b"Content-Length: 3\r\n"),
        (b"HTTP/1.1 200 OK", b"HEAD", [], NO_BODY, b""),
        (b"HTTP/1.1 200 OK", b"HEAD", [b"Transfer-Encoding: chunked"], NO_BODY, b""),
        (b"HTTP/1.1 304 Not", b"GET", [b"Content-Length: 3"], NO_BODY, b"Content-Length: 3\r\n"),
        (b"HTTP/1.1 204 No", b"GET", [b"Content-Length: 3"], NO_BODY, b""),
        (b"HTTP/1.1 103 Early", b"GET", [], NO_BODY, b""),
        (b"HTTP/1.1 200 \xff", b"GET", [b"Content-Length: 1"], 1, b"Content-Length: 1\r\n"),
    ],
)
def test_responses_are_framed(start, method, lines, body, sent):
    """By the method, the status, and then what they say."""
    found = parse_response(response(b"X: y", *lines, start=start), method)
    assert found.body == body
    assert found.head == b"HTTP/1.1" + start[8:] + b"\r\nX: y\r\n" + sent
    assert found.keep_alive is (body != UNTIL_EOF and b"1.1" in start)


def test_a_switch_of_protocols_is_passed_on():
    """With the protocol."""
    found = parse_response(
        response(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Accept: x", start=b"HTTP/1.1 101 S"),
        b"GET",
    )
    assert (found.status, found.upgrade, found.body, found.keep_alive) == (101, b"websocket", NO_BODY, False)
    assert found.head.endswith(b"Connection: upgrade\r\nUpgrade: websocket\r\n")


RESPONSES = {
    "CL and TE": [b"Content-Length: 3", b"Transfer-Encoding: chunked"],
    "two CL": [b"Content-Length: 3", b"Content-Length: 4"],
    "TE gzip": [b"Transfer-Encoding: gzip"],
    "folded": [b"A: b", b" c"],
    "bare LF": [b"A: b\nC: d"],
    "blank before the colon": [b"Content-Length : 3"],
}


@pytest.mark.parametrize("lines", RESPONSES.values(), ids=RESPONSES)
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_malformed_responses_are_bad_gateways(lines, method):
    """Never half understood."""
    with pytest.raises(BadHead) as caught:
        parse_response(response(*lines), method)
    assert caught.value.status == 502


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 99 A", b"HTTP/1.1 2000 A", b"HTTP/2 200 A", b"HTTP/1.1  200", b"ICY 200", b"HTTP/1.1 200 A\0"]
)
def test_odd_status_lines_are_bad_gateways(start):
    """No other protocols."""
    with pytest.raises(BadHead):
        parse_response(response(start=start), b"GET")


@given(st.binary(max_size=200), st.sampled_from([b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nHost: a\r\n", b""]))
def test_nothing_else_is_raised(junk, start):
    """Whatever comes in."""
    for parse in (parse_request, lambda data: parse_response(data, b"GET")):
        with contextlib.suppress(BadHead):
            parse(start + junk + b"\r\n\r\n")
