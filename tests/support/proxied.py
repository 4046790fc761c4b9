"""A proxy between real sockets, in front of one service that records what it sees."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from contextlib import asynccontextmanager

from moat_core.http.answer import Answer
from moat_core.http.proxy import Proxy

GET = b"GET /a?b HTTP/1.1\r\nHost: web.app.localhost:8080\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class OneService(Proxy):
    """Sends everything to one place."""

    def __init__(self, port, **limits):
        super().__init__(**limits)
        self.place = ("127.0.0.1", port)
        self.asked = []

    def route(self, request, client, *, fresh):
        self.asked.append(fresh)
        return Answer(404, b"nobody") if request.host.startswith(b"nobody") else self.place

    def refuse(self, error):
        return Answer(error.status, error.reason.encode())

    def unreachable(self, request, client, error):
        return Answer(502, b"unreachable")

    def bad_response(self, request, client, why):
        return Answer(502, why.encode())


class Service:
    """Records what comes, and answers each request that is complete with what `answer` says."""

    def __init__(self, answer=OK):
        self.answers = answer if isinstance(answer, list) else None
        self.answer = answer
        self.seen = b""
        self.connections = 0
        self.writers = []

    async def serve(self, reader, writer):
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.seen += head
                if found := re.search(rb"Content-Length: (\d+)", head):
                    self.seen += await reader.readexactly(int(found[1]))
                elif b"Transfer-Encoding: chunked" in head:
                    self.seen += await reader.readuntil(b"0\r\n\r\n")
                answer = self.answers.pop(0) if self.answers else self.answer
                if callable(answer):
                    await answer(reader, writer)
                    continue
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def proxied(service, **limits):
    """A client's connection to a proxy in front of SERVICE."""
    loop = asyncio.get_running_loop()
    tasks = set()

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        try:
            await service.serve(reader, writer)
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            writer.close()

    upstream = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy = OneService(upstream.sockets[0].getsockname()[1], **limits)
    server = await loop.create_server(proxy.accept, "127.0.0.1", 0)
    proxy.listening = server.sockets[0].getsockname()
    try:
        reader, writer = await asyncio.open_connection(*proxy.listening)
        async with asyncio.timeout(10):
            yield proxy, reader, writer
        writer.close()
    finally:
        proxy.close()
        server.close()
        upstream.close()
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def say(data, service, *, end=True):
    """Send DATA and return all that comes back until the connection is closed."""
    async with proxied(service) as (_, reader, writer):
        writer.write(data)
        if end:
            writer.write_eof()
        return await reader.read()


async def settle(turns=20):
    """Let what is under way go on; it is no wait for anything."""
    for _number in range(turns):
        await asyncio.sleep(0)


def reset(writer):
    """Go without a word."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
