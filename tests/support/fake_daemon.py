"""A BuildKit daemon for faults: real HTTP/2 and gRPC on a real socket, answers as a test says. It builds nothing."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from moat_plugins.buildkit.h2 import Server
from moat_plugins.buildkit.wire import control

CONTROL = "/moby.buildkit.v1.Control/"


class FakeDaemon:
    """Set ``on_solve`` and ``on_status``, coroutine functions of the stream and its request."""

    def __init__(self, path):
        self.address = f"unix://{path}"
        self.path = path
        self.connections = []
        self.solved = []
        self.cancelled = anyio.Event()
        self.sessions = anyio.Event()

    async def on_solve(self, stream, request):
        await stream.send_message(control.SolveResponse({"containerimage.config.digest": "sha256:1"}))

    async def on_status(self, stream, request):
        pass

    async def _solve(self, stream):
        request = await stream.recv_message()
        self.solved.append(request)
        try:
            await self.on_solve(stream, request)
        except anyio.get_cancelled_exc_class():
            self.cancelled.set()
            raise

    async def _status(self, stream):
        await self.on_status(stream, await stream.recv_message())

    async def _workers(self, stream):
        await stream.recv_message()
        await stream.send_message(control.ListWorkersResponse([control.WorkerRecord("w")]))

    async def _session(self, stream):
        self.sessions.set()
        while await stream.recv_message() is not None:
            pass

    def methods(self):
        return {
            CONTROL + "Solve": (self._solve, control.SolveRequest, control.SolveResponse),
            CONTROL + "Status": (self._status, control.StatusRequest, control.StatusResponse),
            CONTROL + "ListWorkers": (self._workers, control.ListWorkersRequest, control.ListWorkersResponse),
            CONTROL + "Session": (self._session, control.BytesMessage, control.BytesMessage),
        }

    def drop(self):
        """End every connection."""
        for server in self.connections:
            server._transport.abort()

    @asynccontextmanager
    async def serving(self):
        """Listen while the context lasts."""
        async with await anyio.create_unix_listener(self.path) as listener, anyio.create_task_group() as group:

            async def accept():
                while True:
                    stream = await listener.accept()
                    server = Server(self.methods())
                    server.start(stream)
                    self.connections.append(server)

            group.start_soon(accept)
            try:
                yield self
            finally:
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    for server in self.connections:
                        await server.aclose()


def refuse(status, message, details=None):
    """What ``on_solve`` may be: a refusal."""

    async def on_solve(stream, request):
        raise GRPCError(Status(status), message, details)

    return on_solve
