"""An owner that is attacked: ``python victim.py KIND FOLDER DEFENDED`` listens with few descriptors and says where.

KIND is ``tls`` or ``unix`` (a run's guard) or ``proxy``. Without its defence a guard's listener is anyio's own, and the
proxy counts nobody.
"""

from __future__ import annotations

import json
import resource
import socket
import sys
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).parent))

FILES = {"tls": 128, "unix": 128, "proxy": 256}


class Bare:
    """A stream of anyio's as the guard wants it."""

    is_idle = False

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def close(self):
        pass


async def plain(listener, handler, *, limits=None, tls=None):
    """Serve as a guard did once."""
    from anyio.abc import SocketListener
    from anyio.streams.tls import TLSListener

    async def handle(stream):
        async with stream:
            await handler(Bare(stream))

    inner = await SocketListener.from_socket(listener)
    async with TLSListener(inner, tls) if tls else inner as outer:
        await outer.serve(handle)


async def guard(kind, folder, defended):
    """The guard of a run, in front of an engine that answers all but /events."""
    from guarded import Engine, make_scope

    from moat_plugins.docker_host import listen
    from moat_plugins.docker_host.guard import Guard

    class Slow(Engine):
        async def _answer(self, stream, http, request, body):
            if b"/events" in request.target:
                await anyio.sleep_forever()
            await super()._answer(stream, http, request, body)

    if not defended:
        listen.serve = plain
    scope = make_scope(sandboxed=kind == "tls")
    address = f"127.{folder.stat().st_ino % 250 + 1}.{folder.stat().st_ino // 250 % 250}.9"
    object.__setattr__(scope, "gateway", address)
    async with anyio.create_task_group() as group:
        engine = Slow(group)
        await group.start(_serve, listen.serve_guard, Guard(engine, scope), str(folder))
        tell([address, 2376] if kind == "tls" else str(folder / "docker.sock"))
        await anyio.to_thread.run_sync(sys.stdin.readline)
        group.cancel_scope.cancel()


async def _serve(serve_guard, served, folder, *, task_status):
    await serve_guard(served, folder, task_status=task_status)


async def proxy(defended):
    """The proxy, in front of a service that answers at once, or, at /events, never."""
    import asyncio

    from proxied import OneService

    from moat_core.http.proxy import Proxy
    from moat_core.http.serve import serve

    if not defended:
        Proxy.limit_clients = lambda self, most: None
    if defended != "yes":
        Proxy.is_greedy = lambda self, newcomer: False

    async def answer(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/events" in head:
            await asyncio.sleep(3600)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def silent(_loop, _context):
        pass

    asyncio.get_running_loop().set_exception_handler(silent)
    service = await asyncio.start_server(answer, "127.0.0.1", 0)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    proxied = OneService(service.sockets[0].getsockname()[1])
    async with serve(proxied, [listener], drain_s=0):
        tell(listener.getsockname())
        await asyncio.to_thread(sys.stdin.readline)


def tell(address):
    print(json.dumps(address), flush=True)


def main():
    kind, folder, defended = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES[kind],) * 2)
    if kind == "proxy":
        from moat_core.http.serve import run

        run(proxy({"no": "", "uncounted": "uncounted"}.get(defended, "yes")))
    else:
        anyio.run(guard, kind, folder, defended == "yes")


if __name__ == "__main__":
    main()
