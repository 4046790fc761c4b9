"""A scripted engine: a Unix socket that answers as a test says."""

from __future__ import annotations

import anyio

PING = b"HTTP/1.1 200 OK\r\nApi-Version: 1.45\r\nContent-Length: 2\r\n\r\nOK"


class ScriptedEngine:
    """Every connection is answered by ``script(stream, request)``, once for each request on it.

    Requests are read by their Content-Length; ``requests`` keeps ``(method, path, body)``.
    """

    def __init__(self, path, script):
        self.address = f"unix://{path}"
        self.requests = []
        self._script = script

    async def serve(self, stream):
        async with stream:
            try:
                while request := await self._read(stream):
                    self.requests.append(request)
                    if request[1] == "/_ping":
                        await stream.send(PING)
                    else:
                        await self._script(stream, request)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass

    async def _read(self, stream):
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive()
        head, _, body = data.partition(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n")[0].decode().split(" ")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        while lengths and len(body) < int(lengths[0].split(b":")[1]):
            body += await stream.receive()
        return method, path, body


def answer(body, status="200 OK", kind="application/json"):
    """A whole HTTP answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
