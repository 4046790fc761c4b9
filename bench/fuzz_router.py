"""Look for requests and responses that our framing and another parser, h11, read differently: ten minutes by default.

``python bench/fuzz_router.py [--seconds N] [--seed N]``. Two things are tried in turn. The parts: what we take from a
head and a body, h11 takes too, to the byte; that we refuse more is as it should be. And the whole: a connection to the
proxy with a service behind it, over transports that are made up, cut and paused anywhere; nothing may be raised, and
what reaches the service must be what h11 reads there, request by request. A find is printed with its seed.
"""

from __future__ import annotations

# ruff: noqa: ARG002, PLR0912, TRY301
import argparse
import asyncio
import itertools
import random
import sys
import time

import h11

from moat_core.http.answer import Answer
from moat_core.http.body import BadBody, Chunked, Length
from moat_core.http.head import CHUNKED, NO_BODY, UNTIL_EOF, BadHead, parse_request, parse_response
from moat_core.http.proxy import Proxy
from moat_core.http.upstream import Pool, Upstream

METHODS = [b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS", b"DELETE", b"PATCH", b"CONNECT", b"QUERY", b"get", b"PRI"]
TARGETS = [
    b"/",
    b"/a?b",
    b"*",
    b"http://a/b",
    b"//a",
    b"/%00",
    b"/a#b",
    b"a",
    b"/\xe9",
    b"/a b",
    b"HTTP://A",
    b"/" * 99,
]
VERSIONS = [b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"http/1.1", b"HTTP/01.1", b""]
LINES = [
    b"Content-Length: 5", b"Content-Length: 0", b"Content-Length: 005", b"content-length:5 ", b"Content-Length: 5, 5",
    b"Content-Length: +5", b"Content-Length : 5", b"Content-Length: 50", b"Content_Length: 7", b"Content-Length:",
    b"Transfer-Encoding: chunked", b"transfer-encoding:chunked", b"Transfer-Encoding: Chunked ",
    b"Transfer-Encoding: gzip", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding : chunked", b"Transfer-Encoding:\r\n chunked",
    b"Host: b", b"Connection: close", b"Connection: keep-alive", b"Connection: upgrade", b"Connection: content-length",
    b"Connection: host, te, x", b"Upgrade: websocket", b"Upgrade: h2c", b"Expect: 100-continue", b"TE: trailers",
    b"X: y", b"X-Forwarded-For: z", b"Via: 1.1 a", b" folded", b"\tfolded", b"bad", b"A: \xff", b"A: b\nC: d", b"A:\0",
    b"A: b\rC: d", b": x", b"Trailer: X", b"Cookie: a=b; c=d",
]  # fmt: skip
SIZES = [
    b"5",
    b"05",
    b"5;a=b",
    b'5;a="b"',
    b"5 ",
    b"0x5",
    b"+5",
    b"5\n",
    b"-5",
    b"",
    b"A",
    b"ffffffffffffffff",
    b"6",
    b"4",
]
SPECIAL = [
    b"\r",
    b"\n",
    b"\r\n",
    b" ",
    b"\t",
    b"\0",
    b":",
    b",",
    b";",
    b"\x0b",
    b"\xff",
    b"0",
    b"5",
    b"chunked",
    b"\r\n\r\n",
]
STATUSES = [
    b"200 OK",
    b"204 No",
    b"304 Not",
    b"404",
    b"100 Continue",
    b"103 Early",
    b"101 Switch",
    b"99 x",
    b"2000 x",
    b"500 \xff",
]


class Disagreement(Exception):
    """They read it differently."""


_MOST_S = 1.0
"""The most that passing on a response may take, in seconds of the processor's; it takes a hundredth of that, or a tenth."""


class Source:
    """Makes things up, the same for the same seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def chance(self, probability):
        return self.random.random() < probability

    def pick(self, choices):
        return self.random.choice(choices)

    def lines(self):
        return b"".join(self.pick(LINES) + b"\r\n" for _number in range(self.random.choice([0, 0, 1, 1, 2, 3, 5])))

    def body(self):
        kind = self.random.random()
        if kind < 0.3:
            return b""
        if kind < 0.6:
            return b"12345" * self.random.choice([1, 1, 1, 10])
        chunks = b"".join(
            (self.pick(SIZES) if self.chance(0.2) else b"5")
            + b"\r\n12345"
            + (b"\r\n" if self.chance(0.95) else self.pick(SPECIAL))
            for _number in range(self.random.randint(0, 3))
        )
        return chunks + b"0\r\n" + (self.pick(LINES) + b"\r\n" if self.chance(0.2) else b"") + b"\r\n"

    def mutate(self, data):
        for _number in range(self.random.choice([0, 0, 0, 1, 1, 2, 4])):
            at = self.random.randint(0, len(data))
            width = self.random.choice([0, 0, 1, 1, 2, 8])
            data = (
                data[:at] + (self.pick(SPECIAL) if self.chance(0.8) else data[at : at + width] * 2) + data[at + width :]
            )
        return data

    def request(self):
        start = b"%b %b %b" % (
            self.pick(METHODS[:4] * 3 + METHODS),
            self.pick(TARGETS[:2] * 9 + TARGETS),
            self.pick(VERSIONS),
        )
        return self.mutate(start + b"\r\nHost: a.localhost\r\n" + self.lines() + b"\r\n" + self.body())

    def response(self):
        start = b"%b %b" % (self.pick(VERSIONS), self.pick(STATUSES[:1] * 8 + STATUSES))
        return self.mutate(start + b"\r\n" + self.lines() + b"\r\n" + self.body())

    def pieces(self, data):
        cut = self.random.choice([1, 3, 20, 1000, 100_000])
        while data:
            size = self.random.randint(1, cut)
            yield data[:size]
            data = data[size:]


def read_body(source, size, data):
    """Return our reading of a body: its content, what comes after it, and whether it ended."""
    if size == NO_BODY:
        return b"", data, True
    if size == UNTIL_EOF:
        return data, b"", False
    body, got = (Chunked(bare=True) if size == CHUNKED else Length(size)), b""
    pieces = source.pieces(data)
    for piece in pieces:
        part, rest = body.feed(piece)
        got += part
        if body.done:
            return got, rest + b"".join(pieces), True
    return got, b"", False


def read_theirs(http):
    """Return h11's reading of the next message: its start, its content, what comes after it, and whether it ended."""
    start, got = http.next_event(), b""
    while isinstance(start, h11.InformationalResponse):
        start = http.next_event()
    while True:
        event = http.next_event()
        if isinstance(event, h11.Data):
            got += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return start, got, http.trailing_data[0], True
        else:
            return start, got, b"", False


def compare(what, ours, theirs):
    if ours != theirs:
        raise Disagreement(f"{what}: {ours!r} here, {theirs!r} with h11")


def try_request(source):
    data = source.request()
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return False
    try:
        request = parse_request(data[:end])
        body, rest, ended = read_body(source, request.body, data[end:])
    except (BadHead, BadBody):
        return False
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=1_000_000)
    try:
        http.receive_data(data)
        start, *theirs = read_theirs(http)
    except h11.RemoteProtocolError as error:
        if not ended:
            return False  # what is wrong with it we would have found with what comes next
        raise Disagreement(f"only h11 refuses it: {error}") from error
    compare("the method", request.method, start.method)
    compare("the body", [body, rest, ended], theirs)
    return True


def try_response(source):
    method, data = source.pick([b"GET", b"GET", b"HEAD"]), source.response()
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return False
    try:
        response = parse_response(data[:end], method)
        if response.status < 200:
            return False
        body, rest, ended = read_body(source, response.body, data[end:])
    except (BadHead, BadBody):
        return False
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=1_000_000)
    http.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    http.send(h11.EndOfMessage())
    try:
        http.receive_data(data)
        start, *theirs = read_theirs(http)
    except h11.RemoteProtocolError as error:
        if not ended:
            return False
        raise Disagreement(f"only h11 refuses it: {error}") from error
    compare("the status", response.status, start.status_code)
    compare("the body", [body, rest, ended], theirs)
    return True


class Wire:
    """A transport that is made up: keeps what is written, and pauses who writes too much."""

    def __init__(self, source):
        self.source, self.sent, self.closed, self.ended, self.full = source, [], False, False, False

    def write(self, data):
        if self.closed or self.ended:
            return
        self.sent.append(bytes(data))
        if not self.full and self.source.chance(0.1):
            self.full = True
            self.protocol.pause_writing()

    def flow(self):
        if self.full and not self.closed:
            self.full = False
            self.protocol.resume_writing()

    def set_protocol(self, protocol):
        self.protocol = protocol

    def get_extra_info(self, name, default=None):
        return ("127.0.0.1", 1) if name == "peername" else default

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True

    abort = close

    def write_eof(self):
        self.ended = True

    def can_write_eof(self):
        return True

    def pause_reading(self):
        pass

    resume_reading = pause_reading

    def get_write_buffer_size(self):
        return 1000 if self.full else 0


class Wires(Pool):
    """A pool that makes its connections up."""

    def __init__(self, source):
        super().__init__()
        self.source, self.made = source, []

    def take(self, address, owner, now, *, is_repeatable):
        upstream = super().take(address, owner, now, is_repeatable=is_repeatable)
        if upstream is None:
            upstream = Upstream(address, self)
            wire = Wire(self.source)
            wire.protocol = upstream
            upstream.connection_made(wire)
            upstream.owner = owner
            self.made.append(wire)
        return upstream


class Made(Proxy):
    """Everything goes to one service."""

    def route(self, request, client, *, fresh):
        return ("127.0.0.1", 1)

    def refuse(self, error):
        return Answer(error.status)

    def unreachable(self, request, client, error):
        return Answer(502)

    def bad_response(self, request, client, why):
        return Answer(502)


def give(wire, data):
    """Let DATA arrive at WIRE, as its protocol wants it."""
    while data and not wire.closed:
        protocol = wire.protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            buffer = protocol.get_buffer(-1)
            piece, data = data[: len(buffer)], data[len(buffer) :]
            buffer[: len(piece)] = piece
            protocol.buffer_updated(len(piece))
        else:
            protocol.data_received(data)
            return


def lose(wire, error):
    wire.closed = True
    wire.protocol.connection_lost(error)


async def try_whole(source, proxy):
    """One connection with all its requests, and what its services say."""
    proxy.pool = pool = Wires(source)
    wire = Wire(source)
    wire.protocol = client = proxy.accept()
    client.connection_made(wire)
    incoming = source.pieces(b"".join(source.request() for _number in range(source.random.randint(1, 4))))
    answers = source.pieces(b"".join(source.response() for _number in range(source.random.randint(1, 4))))
    lost = set()
    for _number in range(200):
        alive = [each for each in pool.made if not each.closed]
        if wire.closed or source.chance(0.01):
            break
        if source.chance(0.5):
            piece = next(incoming, None)
            if piece is not None:
                give(wire, piece)
            elif source.chance(0.1) and not wire.protocol.eof_received():
                break
        elif alive and source.chance(0.9):
            piece = next(answers, None)
            if piece is not None:
                give(alive[-1], piece)
            elif source.chance(0.2) and not alive[-1].protocol.eof_received():
                lost.add(alive[-1])
                lose(alive[-1], None)
        elif alive and source.chance(0.05):
            lost.add(alive[-1])
            lose(alive[-1], ConnectionResetError())
        for each in [wire, *pool.made]:
            if source.chance(0.7):
                each.flow()
        if source.chance(0.02):
            proxy.sweep(proxy.now + source.random.choice([1, 30, 200]))
        await asyncio.sleep(0)
        for each in pool.made:
            if each.closed and each not in lost:
                lost.add(each)
                each.protocol.connection_lost(None)
    lose(wire, None)
    for each in pool.made:
        if each not in lost:
            lose(each, None)
    if client in proxy.clients:
        raise Disagreement("the client is still there")
    for each in pool.made:
        check_seen(b"".join(each.sent))


def make_large(source):
    """A response that is as it should be, and its content: with long early heads, many chunks or much in one."""
    draw = source.random
    early = [
        b"HTTP/1.1 103 E\r\nLink: %b\r\n\r\n" % (b"h" * draw.randint(0, 20_000)) for _ in range(draw.randint(0, 2))
    ]
    content = draw.randbytes(draw.choice([0, 10, 5000, 65_000, 300_000]))
    head = b"HTTP/1.1 200 OK\r\nX-Pad: %b\r\n" % (b"p" * draw.choice([1, 5000, 9000, 30_000]))
    if source.chance(0.5):
        return b"".join(early) + head + b"Content-Length: %d\r\n\r\n" % len(content) + content, content
    size = draw.choice([1, 10, 3000, 70_000]) if len(content) < 10_000 else draw.choice([7, 100, 3000, 70_000])
    chunks = [content[at : at + size] for at in range(0, len(content), size)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    return b"".join(early) + head + b"Transfer-Encoding: chunked\r\n\r\n" + framed, content


async def try_large(source, proxy):
    """However it is cut and held up, it arrives whole, and in a time that its length explains."""
    proxy.pool = pool = Wires(source)
    wire = Wire(source)
    wire.protocol = client = proxy.accept()
    client.connection_made(wire)
    give(wire, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    data, content = make_large(source)
    cut = source.random.choice([1000, 70_000, 262_144])
    begun = time.process_time()
    while data:
        size = source.random.randint(1, cut)
        give(pool.made[0], data[:size])
        data = data[size:]
        if source.chance(0.5):
            wire.flow()
    spent = time.process_time() - begun
    await asyncio.sleep(0)
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=1_000_000)
    http.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    http.send(h11.EndOfMessage())
    http.receive_data(b"".join(wire.sent))
    start, *rest = read_theirs(http)
    compare("the status", 200, start.status_code)
    compare("the body", [content, b"", True], rest)
    if spent > _MOST_S:
        raise Disagreement(f"a response of {len(content)} bytes took {spent:.1f} s")
    lose(wire, None)
    for each in pool.made:
        lose(each, None)


def check_seen(data):
    """Whatever reached a service is requests that another parser reads."""
    if b"\r\nUpgrade: " in data:
        return  # another protocol may follow
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=1_000_000)
    http.receive_data(data)
    try:
        while isinstance(http.next_event(), h11.Request):
            while isinstance(event := http.next_event(), h11.Data):
                pass
            if not isinstance(event, h11.EndOfMessage):
                return
            http.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            http.send(h11.EndOfMessage())
            if http.our_state is not h11.DONE:
                if http.trailing_data[0]:
                    raise Disagreement(f"more than one request on a connection that ends: {data!r}")
                return
            http.start_next_cycle()
    except h11.RemoteProtocolError as error:
        raise Disagreement(f"the service does not understand {data!r}: {error}") from error


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, help="try this one alone")
    options = parser.parse_args()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
    failed, counts, agreed = [], [0, 0, 0], [0, 0]
    proxy = Made()
    proxy.close()  # no clock: it is moved by hand
    first = random.SystemRandom().randrange(2**40)
    end = time.monotonic() + options.seconds
    for seed in [options.seed] if options.seed is not None else itertools.count(first):
        try:
            agreed[0] += try_request(Source(seed))
            agreed[1] += try_response(Source(seed))
            await try_whole(Source(seed), proxy)
            if not seed % 50:
                await try_large(Source(seed), proxy)
            if failed:
                raise Disagreement(str(failed))
        except Exception as error:
            if options.seed is not None:
                raise
            sys.exit(f"fuzz: seed {seed}: {type(error).__name__}: {error}")
        counts = [count + 1 for count in counts]
        if time.monotonic() > end:
            break
    print(f"{counts[0]} seeds from {first}; {agreed[0]} requests and {agreed[1]} responses that both took; no find.")


if __name__ == "__main__":
    asyncio.run(main())
