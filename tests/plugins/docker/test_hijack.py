"""Streams that begin as HTTP, against a scripted engine: split, lying, refusing, breaking off, silent."""

from __future__ import annotations

import json

import anyio
import pytest
from scripted_engine import answer

from moat_core.errors import EngineError, EngineTimeout, RuntimeUnavailable, SandboxUnavailable
from moat_core.types import Output
from moat_plugins.docker.hijack import hijack

UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"


def frame(data, stream=1):
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


async def collect(stream):
    pieces = []
    while (piece := await stream.receive()) is not None:
        pieces.append(piece)
    return pieces


@pytest.mark.parametrize(
    "head", [UPGRADED, b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"]
)
@pytest.mark.parametrize("size", [1, 3, 7, 100_000])
async def test_head_and_frames_may_be_split_anywhere(scripted, head, size):
    """The answer's head, frame headers and data arrive in pieces of any size, old engines answer 200."""
    data = head + frame(b"out") + frame(b"err", 2) + frame(b"") + frame(b"more")

    async def script(stream, request):
        for start in range(0, len(data), size):
            await stream.send(data[start : start + size])
            await anyio.lowlevel.checkpoint()
        await stream.aclose()

    async with scripted(script) as (theirs, engine):
        stream = await hijack(engine, "test", "/exec/x/start", body={"Tty": False}, raw=False)
        pieces = await collect(stream)
        assert b"".join(piece.data for piece in pieces if piece.stream == "stdout") == b"outmore"
        assert b"".join(piece.data for piece in pieces if piece.stream == "stderr") == b"err"
        assert theirs.requests[-1][:2] == ("POST", "/v1.45/exec/x/start")
        assert json.loads(theirs.requests[-1][2]) == {"Tty": False}
        assert await stream.receive() is None
        await stream.aclose()


async def test_lying_length_is_passed_on_in_pieces(scripted):
    """A frame that claims 4 GB is passed on as it comes; its end, too early, is an error."""

    async def script(stream, request):
        await stream.send(UPGRADED + b"\1\0\0\0\xff\xff\xff\xff" + b"x" * 200_000)
        await stream.aclose()

    async with scripted(script) as (_, engine):
        stream = await hijack(engine, "test", "/x", raw=False)
        total = 0
        with pytest.raises(EngineError, match="broke off"):
            while (piece := await stream.receive()) is not None:
                assert len(piece.data) <= 64 * 1024
                total += len(piece.data)
        assert total == 200_000
        await stream.aclose()


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (answer(b'{"message":"No such exec instance: x"}', "404 Not Found"), EngineError, "No such exec instance"),
        (answer(b'{"message":"unknown or invalid runtime name: z"}', "400 Bad Request"), SandboxUnavailable, "'z'"),
        (
            b'HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n15\r\n{"message":"chunked!"}\r\n0\r\n\r\n',
            EngineError,
            "chunked!",
        ),
        (answer(b"plain words", "409 Conflict", "text/plain"), EngineError, "plain words"),
        (b"HTTP/1.1 502 Bad\r\n\r\n", EngineError, "status 502"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", EngineError, "does not speak HTTP"),
        (b"HTTP/1.1 \r\n\r\n", EngineError, "does not speak HTTP"),
        (b"HTTP/1.1 101 U", RuntimeUnavailable, "does not answer"),
        (b"", RuntimeUnavailable, "does not answer"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 200_000, EngineError, "headers"),
    ],
    ids=range(10),
)
async def test_refusals_are_errors_of_ours(scripted, reply, error, words):
    """Whatever comes instead of a stream is an error that says it, and the connection is closed."""

    async def script(stream, request):
        await stream.send(reply)
        await stream.aclose()

    async with scripted(script) as (_, engine):
        with pytest.raises(error, match=words):
            await hijack(engine, "test", "/x", raw=False)


async def test_silence_has_a_deadline(scripted):
    """An engine that does not answer the request is given up."""

    async def script(stream, request):
        await anyio.sleep_forever()

    async with scripted(script, timeout_s=0.1) as (_, engine):
        with pytest.raises(EngineTimeout, match="asked to test"):
            await hijack(engine, "test", "/x", raw=False)


async def test_nobody_reading_stops_the_writer(scripted):
    """What is not asked for stays in the engine: no more than the kernel's buffers is taken."""
    sent = 0

    async def script(stream, request):
        nonlocal sent
        await stream.send(UPGRADED)
        while True:
            await stream.send(b"x" * 65536)
            sent += 65536

    async with scripted(script) as (_, engine):
        stream = await hijack(engine, "test", "/x", raw=True)
        await anyio.wait_all_tasks_blocked()
        before = sent
        assert before < 2_000_000
        for _ in range(100):
            assert (await stream.receive()) is not None
        await anyio.wait_all_tasks_blocked()
        assert before < sent < before + 8_000_000
        await stream.aclose()


async def test_input_goes_through_and_is_half_closed(scripted):
    """Input arrives whole, its end is seen, and what comes after it is still received."""

    async def script(stream, request):
        await stream.send(UPGRADED)
        got = b""
        try:
            while True:
                got += await stream.receive()
        except anyio.EndOfStream:
            await stream.send(got[:3] + str(len(got)).encode())
            await stream.aclose()

    async with scripted(script) as (_, engine):
        stream = await hijack(engine, "test", "/x", raw=True)
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(stream.write, b"abc" * 100_000)
        await stream.close_input()
        await stream.close_input()
        with pytest.raises(BrokenPipeError):
            await stream.write(b"x")
        assert await collect(stream) == [Output("stdout", b"abc900000")]
        await stream.aclose()


async def test_writer_does_not_outlive_the_stream(scripted):
    """A writer that waits for an engine which has ended the stream is told, instead of waiting for ever."""

    async def script(stream, request):
        await stream.send(UPGRADED)
        await stream.send_eof()
        await anyio.sleep_forever()

    async with scripted(script) as (_, engine):
        stream = await hijack(engine, "test", "/x", raw=True)
        failures = []

        async def write():
            try:
                await stream.write(b"x" * 50_000_000)
            except BrokenPipeError as error:
                failures.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            await anyio.wait_all_tasks_blocked()
            assert await stream.receive() is None
        assert len(failures) == 1
        with pytest.raises(BrokenPipeError):
            await stream.write(b"x")
        await stream.aclose()


async def test_closing_ends_a_reader(scripted):
    """A stream that is closed while somebody reads is at its end for them."""

    async def script(stream, request):
        await stream.send(UPGRADED)
        await anyio.sleep_forever()

    async with scripted(script) as (_, engine):
        stream = await hijack(engine, "test", "/x", raw=True)
        ends = []

        async def read():
            ends.append(await stream.receive())

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            await stream.aclose()
            await stream.aclose()
        assert ends == [None]
