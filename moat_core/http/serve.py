"""Listening: on sockets that are bound already, as fast as this machine can."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from moat_core.fds import raise_file_limit
from moat_core.listen import open_servers

if TYPE_CHECKING:
    from moat_core.http.proxy import Proxy

__all__ = ["run", "serve"]

_T = TypeVar("_T")
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
    proxy.limit_clients(max(1, (raise_file_limit() - _RESERVED_FILES) * 3 // 4))
    async with open_servers(sockets, proxy.accept):
        _keep_heap()
        # What is there by now stays: to look through it again and again would cost every request its share.
        gc.collect()
        gc.freeze()
        try:
            yield
        finally:
            gc.unfreeze()
    await proxy.drain(drain_s)
