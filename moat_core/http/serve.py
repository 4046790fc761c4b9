"""Listening: on sockets that are bound already, as fast as this machine can."""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from moat_core.http.proxy import Proxy

__all__ = ["raise_file_limit", "run", "serve"]

_T = TypeVar("_T")
_BACKLOG = 1024
_HEAP = 4 * 1024 * 1024
_RESERVED_FILES = 128
"""For the store, logs, standard streams, and connections to services that wait."""


def run(main: Coroutine[None, None, _T]) -> _T:
    """Run MAIN as `asyncio.run` does, on uvloop if it is there: a request takes a third longer without it."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


def raise_file_limit() -> int:
    """Let this process open as many files as it may; return how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS has a lower limit than it tells
        return soft
    return hard


def _keep_heap() -> None:
    """Have glibc keep some MB of what is freed: else it gives them back after each burst, and takes them again.

    It learns that from the largest block that was freed (mallopt(3), M_MMAP_THRESHOLD). 1 MB over TLS costs 0.35 ms
    less.
    """
    block = bytearray(_HEAP)
    del block


@asynccontextmanager
async def serve(proxy: Proxy, sockets: Iterable[socket.socket], *, drain_s: float = 10.0) -> AsyncIterator[None]:
    """Have PROXY answer at SOCKETS while the context lasts; then what is under way may go on for DRAIN_S.

    As many connections are let in as this process may have files, if that is less than PROXY would.
    """
    proxy.most_clients = min(proxy.most_clients, max(1, (raise_file_limit() - _RESERVED_FILES) * 3 // 4))
    loop = asyncio.get_running_loop()
    servers: list[asyncio.Server] = []
    try:
        for each in sockets:
            servers.append(await loop.create_server(proxy.accept, sock=each, backlog=_BACKLOG))  # noqa: PERF401
        _keep_heap()
        # What is there by now stays: to look through it again and again would cost every request its share.
        gc.collect()
        gc.freeze()
        yield
    finally:
        gc.unfreeze()
        for server in servers:
            server.close()
        await proxy.drain(drain_s)
