"""Plugins that misbehave, each in one way, to see what becomes of a run beside them.

Register one by hand: ``moat.register(SlowToClose(0.5))``. Each implements ``moat_open_services``, which is entered
after networks and before the container.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from moat_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import TaskStatus

    from moat_core.lifecycle import Run

__all__ = ["DiesLater", "FailsToClose", "FailsToOpen", "HangsOnClose", "HangsOnOpen", "NeverReady", "SlowToClose"]


class FailsToOpen:
    """Raises ERROR when its context is entered."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error: Exception | None = error or RuntimeError("The villain does not open.")

    @hookimpl
    @asynccontextmanager
    async def moat_open_services(self, run: Run) -> AsyncIterator[None]:  # noqa: ARG002
        """Raise."""
        await anyio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        yield


class HangsOnOpen:
    """Is never done with opening; ``hanging`` is set when it has begun."""

    def __init__(self) -> None:
        self.hanging = anyio.Event()

    @hookimpl
    @asynccontextmanager
    async def moat_open_services(self, run: Run) -> AsyncIterator[None]:  # noqa: ARG002
        """Hang, then yield."""
        self.hanging.set()
        await anyio.sleep_forever()
        yield


class NeverReady:
    """Starts a service that never says it is ready, and waits READY_S seconds for it."""

    def __init__(self, ready_s: float = 0.1) -> None:
        self.ready_s = ready_s

    @hookimpl
    @asynccontextmanager
    async def moat_open_services(self, run: Run) -> AsyncIterator[None]:
        """Start it."""

        async def serve(*, task_status: TaskStatus[None]) -> None:  # noqa: ARG001
            await anyio.sleep_forever()

        await run.start_service("never-ready", serve, ready_s=self.ready_s)
        yield


class DiesLater:
    """Starts a service that dies when ``kill`` is set; with ERROR, or without a word."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.kill = anyio.Event()

    @hookimpl
    @asynccontextmanager
    async def moat_open_services(self, run: Run) -> AsyncIterator[None]:
        """Start it."""

        async def serve(*, task_status: TaskStatus[None]) -> None:
            task_status.started()
            await self.kill.wait()
            if self.error is not None:
                raise self.error

        await run.start_service("dies-later", serve)
        yield


class FailsToClose:
    """Raises ERROR when its context is left."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error or RuntimeError("The villain does not close.")

    @hookimpl
    @asynccontextmanager
    async def moat_open_services(self, run: Run) -> AsyncIterator[None]:  # noqa: ARG002
        """Yield, then raise."""
        yield
        raise self.error


class HangsOnClose:
    """Is never done with closing; ``hanging`` is set when it has begun."""

    def __init__(self) -> None:
        self.hanging = anyio.Event()

    @hookimpl
    @asynccontextmanager
    async def moat_open_services(self, run: Run) -> AsyncIterator[None]:  # noqa: ARG002
        """Yield, then hang."""
        yield
        self.hanging.set()
        await anyio.sleep_forever()


class SlowToClose:
    """Takes SECONDS to close; ``closed`` says whether it could."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.closed = False

    @hookimpl
    @asynccontextmanager
    async def moat_open_services(self, run: Run) -> AsyncIterator[None]:  # noqa: ARG002
        """Yield, then take time."""
        yield
        await anyio.sleep(self.seconds)
        self.closed = True
