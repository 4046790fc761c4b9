"""The guard as a speaker of HTTP: requests split, joined, smuggled and oddly spelt; streams in both directions."""

from __future__ import annotations

import json

import anyio
import pytest
from guarded import OWN, ask, make_scope, open_guard, read_answer

PING = b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n"
BAD = json.dumps({"Image": "x", "HostConfig": {"Privileged": True}}).encode()


def post(headers, body=b"", target="/v1.45/containers/create"):
    return f"POST {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n".encode() + body


SMUGGLED = {
    "two lengths": post("Content-Length: 2\r\nContent-Length: 30", b"{}" + PING),
    "chunks in disguise": post("Transfer-Encoding: xchunked", b"0\r\n\r\n" + PING),
    "chunks twice": post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
    "chunks after gzip": post("Transfer-Encoding: gzip, chunked", b"0\r\n\r\n"),
    "a negative length": post("Content-Length: -1"),
    "a length with a sign": post("Content-Length: +2", b"{}"),
    "a space before the colon": post("Content-Length : 2", b"{}"),
    "two hosts": b"GET /_ping HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "no host": b"GET /_ping HTTP/1.1\r\n\r\n",
    "absolute form": b"GET http://docker/_ping HTTP/1.1\r\nHost: x\r\n\r\n",
    "asterisk form": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tunnel": b"CONNECT docker:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/1.0": b"GET /_ping HTTP/1.0\r\nHost: x\r\n\r\n",
    "HTTP/2 by prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}

PATHS = [
    "//v1.45/./containers/json",
    "/v1.45/../swarm",
    "/v1.45/containers/mine/../../swarm",
    "/v1.45//containers/json",
    "/v1.45/containers/%2e%2e/swarm",
    "/v1.45/containers%2fjson",
    "/v1.45/containers%2Fjson",
    "/v1.45/containers/mine%2f..%2f..%2fswarm",
    "/v1.45/containers/mine%00/json",
    "/v1.45/containers/mine%0d%0aX:%20y/json",
    "/v1.45/containers/mine%3fall=1/json",
    "/V1.45/containers/json",
    "/v1.45/Containers/json",
    "/v1.45/containers/JSON",
    "/v1.45/containers/json/",
    "/v1.45/containers/json;x=y",
    "/v1.45/containers/json?filters={}&filters={}",
    "/v1.45/containers/json?all=1;filters={}",
    "/v1.45/v1.45/containers/json",
    "/v1/containers/json",
    "/v1.45x/containers/json",
    "/v1.45/containers/%c3%28/json",
    "/v1.45/containers/json#x",
    "/v1.45/images/..%2f..%2fswarm/json",
    "/v1.45/images/a/../b/json",
    "/",
    "",
]


@pytest.mark.parametrize("data", SMUGGLED.values(), ids=SMUGGLED.keys())
async def test_what_two_readers_could_read_differently_is_refused(data):
    """Nothing of it reaches the engine; and nothing that follows it is taken for a request."""
    async with open_guard(make_scope()) as (connect, engine, _):
        stream = connect()
        await stream.send(data)
        status, answer = await read_answer(stream)
        assert status in {400, 403, 404, 405, 501, 505}
        assert "message" in answer
        assert engine.asked == []


CHUNKED_BAD = f"{len(BAD):x}\r\n".encode() + BAD + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "transfer-encoding: chunked\r\nCONTENT-LENGTH: 0",
        "X: a\r\n Content-Length: 0\r\nTransfer-Encoding: chunked",
    ],
)
async def test_two_framings_hide_nothing(head):
    """A body with two lengths, or with one hidden in a folded line, is no request, and what follows it is none."""
    async with open_guard(make_scope()) as (connect, engine, _):
        stream = connect()
        await stream.send(post(head, CHUNKED_BAD) + PING)
        assert (await read_answer(stream))[0] == 400
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
        assert engine.asked == []


@pytest.mark.parametrize("path", PATHS)
async def test_odd_paths_are_refused(path):
    """Only the plainest spelling of a known path is taken."""
    async with open_guard(make_scope()) as (connect, engine, _):
        status, _answer = await ask(connect(), "GET", path or "x")
        assert status in {400, 403}
        assert engine.asked == []


@pytest.mark.parametrize("step", [1, 2, 7, 100])
async def test_a_request_in_pieces_is_one(step):
    """It does not matter how TCP cuts it."""
    async with open_guard(make_scope()) as (connect, engine, _):
        stream = connect()
        data = post(f"Content-Length: {len(BAD)}", BAD)
        for start in range(0, len(data), step):
            await stream.send(data[start : start + step])
        assert (await read_answer(stream))[0] == 403
        assert engine.asked == []


async def test_pipelined_requests_are_judged_one_by_one():
    """A harmless one in front carries no other with it."""
    async with open_guard(make_scope()) as (connect, engine, _):
        stream = connect()
        await stream.send(PING + post(f"Content-Length: {len(BAD)}", BAD) + PING)
        assert [(await read_answer(stream))[0] for _ in range(3)] == [404, 403, 404]
        assert [each[1] for each in engine.asked] == ["/_ping", "/_ping"]


async def test_chunks_are_one_body():
    """A body in chunks is looked at as a whole, and sent on with a length."""
    body = json.dumps({"Image": "x", "Cmd": ["id"]}).encode()
    chunks = b"".join(
        f"{len(body[i : i + 5]):x}\r\n".encode() + body[i : i + 5] + b"\r\n" for i in range(0, len(body), 5)
    )
    async with open_guard(make_scope()) as (connect, engine, _):
        stream = connect()
        await stream.send(post("Transfer-Encoding: chunked", chunks + b"0\r\n\r\n"))
        assert (await read_answer(stream))[0] == 201
        _, _, headers, sent = engine.asked[-1]
        assert headers[b"content-length"] == str(len(sent)).encode()
        assert json.loads(sent)["Cmd"] == ["id"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"Image":"x","HostConfig":{"Privileged":false,"Privileged":true}}',
        b'{"Image":"x","HostConfig":{},"HostConfig":{"Privileged":true}}',
        b'{"Image":"x","HostConfig":{"Memory":NaN}}',
        b'{"Image":"x"}{"HostConfig":{"Privileged":true}}',
        b'\xff\xfe{"Image":"x"}',
        b"[" * 100_000,
        b'["Image"]',
        b'{"Image":{"a":1}}',
        b'{"Image":"x","HostConfig":[{"Privileged":true}]}',
        b'{"Image":"x","Env":"PATH=x"}',
        b'{"Image":"x","Labels":["a"]}',
    ],
)
async def test_bodies_that_two_readers_could_read_differently(body):
    """Duplicate keys, other encodings, two values and wrong types are no request."""
    async with open_guard(make_scope()) as (connect, engine, _):
        assert (await ask(connect(), "POST", "/v1.45/containers/create", body))[0] in {400, 403, 413}
        assert engine.asked == []


async def test_a_long_body_is_refused_and_answered():
    """The client is told, though it has not sent all."""
    async with open_guard(make_scope()) as (connect, engine, _):
        stream = connect()
        await stream.send(post("Content-Length: 100000000", b""))
        async with anyio.create_task_group() as group:

            async def pour():
                try:
                    for _ in range(200):
                        await stream.send(b" " * 65536)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass

            group.start_soon(pour)
            assert (await read_answer(stream))[0] == 413
            group.cancel_scope.cancel()
        assert engine.asked == []


async def test_expect_is_answered_before_the_body():
    """`Expect: 100-continue` is for the guard to say; it is not sent on."""
    async with open_guard(make_scope()) as (connect, engine, _):
        stream = connect()
        body = b'{"Cmd":["id"]}'
        await stream.send(post(f"Expect: 100-continue\r\nContent-Length: {len(body)}", target="/containers/mine/exec"))
        assert (await stream.receive()).startswith(b"HTTP/1.1 100")
        await stream.send(body)
        assert (await read_answer(stream))[0] == 201
        assert b"expect" not in engine.asked[-1][2]


@pytest.mark.parametrize("headers", [(), ("Connection: Upgrade", "Upgrade: tcp")])
async def test_an_attached_stream_goes_both_ways(headers):
    """Bytes sent with the request, later ones, and those of the engine arrive; the client's end is passed on."""
    async with open_guard(make_scope()) as (connect, engine, _):
        stream = connect()
        lines = "\r\n".join(["POST /v1.45/containers/mine/attach?stream=1&stdin=1 HTTP/1.1", "Host: x", *headers])
        await stream.send(lines.encode() + b"\r\n\r\nearly ")
        got = b""
        while not got.endswith(b"EARLY "):
            got += await stream.receive()
        head, _, rest = got.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101" if headers else b"HTTP/1.1 200")
        assert rest == b"hello EARLY "
        await stream.send(PING)
        assert await stream.receive() == PING.upper()
        await stream.send_eof()
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
        assert engine.raw == [b"early ", PING]
        assert [each[1] for each in engine.asked if each[0] == "POST"] == [
            f"/v1.45/containers/{OWN}/attach?stream=1&stdin=1"
        ]


async def test_an_exec_is_the_runs_once_it_was_made_here():
    """Its id is unknown before, and its stream open after."""
    async with open_guard(make_scope()) as (connect, engine, _):
        stream = connect()
        target = f"/v1.45/exec/{'e' * 64}"
        assert (await ask(stream, "GET", f"{target}/json"))[0] == 404
        assert engine.asked == []
        assert (await ask(stream, "POST", "/v1.45/containers/mine/exec", {"Cmd": ["id"]}))[0] == 201
        await ask(stream, "GET", f"{target}/json")
        assert engine.asked[-1][1] == f"{target}/json"


async def test_the_engines_failure_is_an_answer():
    """An engine that cannot be reached is told of, and the guard lives on."""
    async with open_guard(make_scope()) as (connect, engine, _):

        async def fail():
            from moat_core.errors import RuntimeUnavailable

            raise RuntimeUnavailable("The engine does not answer.")

        answering, engine.connect = engine.connect, fail
        status, answer = await ask(connect(), "GET", "/_ping")
        assert (status, answer) == (502, {"message": "moat: The engine does not answer."})
        engine.connect = answering
        assert (await ask(connect(), "GET", "/_ping"))[0] == 404


async def test_a_refusal_is_told():
    """Whoever listens learns what was refused; what is merely missing is no refusal."""
    async with open_guard(make_scope()) as (connect, _, refusals):
        await ask(connect(), "POST", "/v1.45/swarm/init?x=1", {})
        await ask(connect(), "GET", "/v1.45/containers/theirs/json")
        assert refusals == [("POST", "/v1.45/swarm/init", 403), ("GET", "/v1.45/containers/theirs/json", 404)]
