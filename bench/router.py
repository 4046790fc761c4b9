"""(h) The router against Caddy and nginx, one core each, in the same rounds: time and CPU per request, p99, memory.

The goals are of issue 4. A rate of 2.0 times another's is a ratio of 0.5 here: what is compared is time per request.

Times and p99 are the best of all rounds: what else a machine does only adds to them, and with one connection it adds more
than there is. CPU per request hardly minds, and is the median of the rounds' ratios. ``MOAT_BENCH_ROUTER`` chooses the
cases whose names have it in them.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import statistics
import subprocess
import sys
import time

from rivals import HOST, OTHER_CORE, SWITCH, check, path, rivals

from moat_core.errors import RuntimeUnavailable

RUN_S = 1
# what, size, connections, secure; the most of Caddy's and of nginx's time per request
CASES = [
    ("100 B, 1 connection", "100B", 1, False, 1 / 1.3, None),
    ("100 B, 32 connections", "100B", 32, False, 1 / 2, 1 / 0.75),
    ("100 B, 256 connections", "100B", 256, False, 1 / 2, 1 / 0.75),
    ("10 KB, 1 connection", "10KB", 1, False, 1 / 1.3, None),
    ("10 KB, 32 connections", "10KB", 32, False, 1 / 2, 1 / 0.75),
    ("10 KB, 256 connections", "10KB", 256, False, 1 / 2, 1 / 0.75),
    ("1 MB, 1 connection", "1MB", 1, False, 1 / 1.2, None),
    ("1 MB, 32 connections", "1MB", 32, False, 1 / 1.2, None),
    ("1 MB, 256 connections", "1MB", 256, False, 1.0, None),
    ("HTTPS 100 B, 32 connections", "100B", 32, True, 1 / 2, None),
    ("HTTPS 10 KB, 32 connections", "10KB", 32, True, 1 / 2, None),
    ("HTTPS 1 MB, 32 connections", "1MB", 32, True, 1.0, None),
]
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
HEAD = f"GET /100B HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
SWITCH_HEAD = (
    b"GET / HTTP/1.1\r\nHost: ws.app1.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def wrk(process, name, connections, secure):
    """Return the seconds per request, those of them on the CPU, and the 99th percentile."""
    url = f"https://localhost:{process.secure}" if secure else f"http://127.0.0.1:{process.plain}"
    before = process.cpu_s()
    wrk = await asyncio.create_subprocess_exec(
        "taskset", "-c", str(OTHER_CORE), "wrk", "-t1", f"-c{connections}", f"-d{RUN_S}s", "--latency", "--timeout", "10s",
        "-H", f"Host: {HOST}", f"{url}/{name}", stdout=subprocess.PIPE, env={**os.environ, "PATH": path()},
    )  # fmt: skip
    output = (await wrk.communicate())[0].decode()
    if "Non-2xx" in output or "Socket errors" in output:
        raise RuntimeUnavailable("What is measured does not answer as it should.", hint=output)
    count, seconds = re.search(r"(\d+) requests in ([\d.]+)s", output).groups()
    late, unit = re.search(r"99%\s+([\d.]+)(us|ms|s|m)", output).groups()
    spent = process.cpu_s() - before
    return float(seconds) / int(count), spent / int(count), float(late) * UNITS[unit]


class Talk(asyncio.Protocol):
    """Sends a message, waits for it to come back, and sends the next one."""

    def __init__(self, message, ready):
        self.message, self.ready, self.count, self.left = message, ready, 0, len(message)
        self.is_switched, self.got = False, b""

    def connection_made(self, transport):
        self.transport = transport
        transport.write(SWITCH_HEAD)

    def data_received(self, data):
        if not self.is_switched:
            self.got += data
            if self.got.endswith(b"\r\n\r\n"):
                assert self.got.startswith(SWITCH[:12])
                self.is_switched = True
                self.ready.set_result(None)
            return
        self.left -= len(data)
        if self.left <= 0:
            self.count += 1
            self.left = len(self.message)
            self.transport.write(self.message)


async def talk(process, size, connections=32):
    """Return the seconds per message and those of them on the CPU."""
    loop = asyncio.get_running_loop()
    talks = []
    for _number in range(connections):
        ready = loop.create_future()
        talks.append(
            (await loop.create_connection(lambda ready=ready: Talk(b"x" * size, ready), "127.0.0.1", process.plain))[1]
        )
        await ready
    before, started = process.cpu_s(), time.perf_counter()
    for each in talks:
        each.transport.write(each.message)
    await asyncio.sleep(RUN_S)
    count = sum(each.count for each in talks)
    spent, cpu = time.perf_counter() - started, process.cpu_s() - before
    for each in talks:
        each.transport.abort()
    return spent / count, cpu / count, 0.0


async def idle(process, count, secure):
    """Return the bytes that a connection takes which waits for its next request."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    port = process.secure if secure else process.plain
    options = {"ssl": context, "server_hostname": HOST, "ssl_handshake_timeout": 120} if secure else {}
    open_, gate = [], asyncio.Semaphore(20)

    async def one():
        async with gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
            writer.write(HEAD)
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(100)
            open_.append(writer)

    before = process.memory_bytes()
    await asyncio.gather(*(one() for _number in range(count)))
    await asyncio.sleep(1)
    taken = process.memory_bytes() - before
    for writer in open_:
        writer.transport.abort()
    await asyncio.sleep(0.5)
    return taken / count


def compare_best(what, figures, of, unit, scale, limits):
    """Rows of moat against each rival: the best of all rounds."""
    best = {name: [tuple(min(each[of] for each in rounds) for _ in rounds[0])] for name, rounds in figures.items()}
    rows = compare(what, best, of, unit, scale, limits)
    return [{**row, "rounds": len(figures["moat"])} for row in rows]


def compare(what, figures, of, unit, scale, limits):
    """Rows of moat against each rival: medians, and the median of the rounds' ratios."""
    rows = []
    for rival, limit in limits.items():
        pairs = [(mine[of], theirs[of]) for mine, theirs in zip(figures["moat"], figures[rival], strict=True)]
        rows.append({
            "what": what, "baseline": rival, "unit": unit, "limit": limit and round(limit, 3), "rounds": len(pairs),
            "moat": round(statistics.median(mine for mine, _ in pairs) * scale, 2),
            "base": round(statistics.median(theirs for _, theirs in pairs) * scale, 2),
            "ratio": round(statistics.median(mine / theirs if theirs else 0.0 for mine, theirs in pairs), 3),
        })  # fmt: skip
    return rows


async def repeat(rounds, processes, way):
    figures = {name: [] for name in processes}
    for _number in range(rounds):
        for name, process in processes.items():
            figures[name].append(await way(process))
    return figures


async def measure(rounds):
    try:
        check()
    except RuntimeUnavailable as error:
        print(f"{error} {error.hint}", file=sys.stderr)
        return []
    rounds = max(3, rounds // 2)
    wanted = os.environ.get("MOAT_BENCH_ROUTER", "")
    rows = []
    for what, count, secure in (("idle connection", 5000, False), ("idle connection, HTTPS", 3000, True)):
        if wanted not in what:
            continue
        with rivals() as processes:  # fresh ones: what a process has freed it would use again
            taken = {name: [(await idle(process, count, secure),)] for name, process in processes.items()}
        # 3 KB are the limit for a plain one, whatever the others take.
        limits = {"Caddy": 1.0, "nginx": None} if secure else {"Caddy": 3072 / taken["Caddy"][0][0], "nginx": None}
        rows += compare(what, taken, 0, "KB", 1 / 1024, limits)
    with rivals() as processes:
        for what, name, connections, secure, caddy, nginx in CASES:
            if wanted not in what:
                continue
            figures = await repeat(rounds, processes, lambda process: wrk(process, name, connections, secure))  # noqa: B023
            rows += compare_best(what, figures, 0, "us", 1e6, {"Caddy": caddy, "nginx": nginx})
            rows += compare("  CPU", figures, 1, "us", 1e6, {"Caddy": None, "nginx": None})
            rows += compare_best("  p99", figures, 2, "ms", 1e3, {"Caddy": None if secure else 1.0, "nginx": None})
        os.sched_setaffinity(0, {OTHER_CORE})
        for what, size in (("WebSocket 64 B", 64), ("WebSocket 8 KB", 8192)):
            if wanted not in what:
                continue
            figures = await repeat(rounds, processes, lambda process: talk(process, size))  # noqa: B023
            rows += compare_best(f"{what}, 32 connections", figures, 0, "us", 1e6, {"Caddy": 1 / 0.95, "nginx": None})
            rows += compare("  CPU", figures, 1, "us", 1e6, {"Caddy": 1.05, "nginx": None})
    return rows
