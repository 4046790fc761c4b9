"""One build: its session, Solve and Status together; whatever fails first decides, and nothing of it stays behind."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio
import attrs
from grpclib.const import Cardinality
from grpclib.exceptions import GRPCError, StreamTerminatedError

from moat_plugins.buildkit.errors import BuildError, SessionLost, read_error
from moat_plugins.buildkit.h2 import isolated
from moat_plugins.buildkit.progress import BuildEvent, Progress
from moat_plugins.buildkit.wire.control import SolveRequest, SolveResponse, StatusRequest, StatusResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moat_plugins.buildkit.h2 import BuildKitChannel
    from moat_plugins.buildkit.session.core import Session

__all__ = ["OnEvent", "solve"]

OnEvent = Callable[[BuildEvent], Awaitable[None] | None]
"""Told each event; what it raises ends the build."""

_SOLVE = "/moby.buildkit.v1.Control/Solve"
_STATUS = "/moby.buildkit.v1.Control/Status"
_DRAIN_S = 3.0
_UNAVAILABLE = 14


async def solve(
    channel: BuildKitChannel, session: Session, request: SolveRequest, on_event: OnEvent | None = None
) -> Mapping[str, str]:
    """Build, and return what the exporters answered. A cancelled task cancels the build on the server.

    Raises:
        BuildError: It failed; the subclass says how.
        BuildKitUnavailable: There is no BuildKit there.
    """
    request = attrs.evolve(request, ref=secrets.token_hex(12), session=session.id)
    work = _Work(channel, session, request, Progress(), on_event)
    # The session is known to the daemon before it is named: with an unknown one a build waits ten seconds and fails.
    async with session.opened(channel):
        return await work.run()


class _ListenerError(Exception):
    """What a listener raised, told from what the connection did."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        super().__init__(error)


@attrs.define
class _Work:
    channel: BuildKitChannel
    session: Session
    request: SolveRequest
    progress: Progress
    on_event: OnEvent | None
    error: Exception | None = None
    answer: SolveResponse | None = None
    heard: int = 0
    telling: bool = False

    async def run(self) -> Mapping[str, str]:
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch, group.cancel_scope)
            status_done = anyio.Event()
            group.start_soon(self._status, status_done, group.cancel_scope)
            try:
                self.answer = await self.channel.unary(_SOLVE, self.request, SolveResponse)
            except (GRPCError, StreamTerminatedError, OSError) as error:
                self.error = self.error or error
            # The last news come after the answer. A build that failed before it began has none: Status would wait
            # six seconds for it.
            if self.error is None or self.progress.has_begun:
                await self._drain(status_done)
            group.cancel_scope.cancel()
        if self.error is not None:
            raise self._explain(self.error) from None
        assert self.answer is not None
        return self.answer.exporter_response

    async def _drain(self, done: anyio.Event) -> None:
        """Wait for the last news, until there is silence; the time that a listener takes is none."""
        heard = -1
        while not done.is_set() and (self.telling or heard != self.heard):
            heard = self.heard
            with anyio.move_on_after(_DRAIN_S):
                await done.wait()

    async def _watch(self, scope: anyio.CancelScope) -> None:
        await self.session.lost.wait()
        self.error = self.error or SessionLost("The build failed: its connection to the daemon ended.")
        scope.cancel()

    async def _status(self, done: anyio.Event, scope: anyio.CancelScope) -> None:
        try:
            await isolated(self._follow())
            await self._tell(self.progress.finish())
        except _ListenerError as found:  # it shall end the build as itself
            self.error = found.error
            scope.cancel()
        except (GRPCError, StreamTerminatedError, OSError):
            pass  # whatever it is, Solve says it better
        finally:
            done.set()

    async def _follow(self) -> None:
        call = self.channel.request(_STATUS, Cardinality.UNARY_STREAM, StatusRequest, StatusResponse)
        async with call as stream:
            await stream.send_message(StatusRequest(self.request.ref), end=True)
            while (news := await stream.recv_message()) is not None:
                await self._tell(self.progress.feed(news))

    async def _tell(self, events: Any) -> None:
        self.heard += 1
        self.telling = True
        for event in events:
            if self.on_event is None:
                continue
            try:
                waiting = self.on_event(event)
                if waiting is not None:
                    await waiting
            except Exception as error:
                raise _ListenerError(error) from error
        self.telling = False

    def _explain(self, error: Exception) -> Exception:
        ours = self.session.failure
        if ours is not None and not isinstance(ours, BuildError):
            return ours
        known = _Known(self.progress)
        if isinstance(error, GRPCError):
            message = error.message or "no reason given"
            return read_error(error.status.value, message, error.details, vertices=known, ours=ours)
        if isinstance(error, StreamTerminatedError | OSError):
            if ours is not None:
                return read_error(_UNAVAILABLE, "", (), vertices=known, ours=ours)
            return SessionLost(f"The build failed: the connection to the daemon ended ({error}).")
        return error


@attrs.define
class _Known:
    """Where the error names no step, the one that failed is meant."""

    progress: Progress

    def name_of(self, digest: str) -> str:
        return self.progress.name_of(digest or self.progress.find_failed())

    def tail_of(self, digest: str) -> tuple[str, ...]:
        return self.progress.tail_of(digest or self.progress.find_failed())
