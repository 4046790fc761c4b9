"""Seeing a run through to its end, signals included: what the command and a supervisor have in common."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio
import attrs

from moat_core.errors import EXIT_OURS, MoatError
from moat_core.fds import raise_file_limit
from moat_core.signals import heeded

if TYPE_CHECKING:
    from moat_core.api.handle import RunHandle
    from moat_core.lifecycle import RunResult
    from moat_core.types import ExecResult

__all__ = ["Lived", "live"]

_BEYOND_S = 2.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@attrs.define
class Lived:
    """How it went.

    Args:
        result: Of the run's own command; ``None`` if it had none or did not get that far.
        run: The run as a whole; ``None`` if it never began.
        signal: The first signal that asked for the end.

    All are unset when the caller itself cancelled the run (``handle.run.cancel()``).
    """

    result: ExecResult | None = None
    run: RunResult | None = None
    signal: int | None = None

    @property
    def exit_code(self) -> int:
        """What a shell would say: 128 + n for a signal to us, else the command's own; something left is no success."""
        if self.signal is not None:
            return 128 + self.signal
        code = self.result.exit_code if self.result is not None else 0
        return EXIT_OURS if code == 0 and self.run is not None and self.run.left else code


async def live(
    handle: RunHandle,
    *,
    on_ready: Callable[[], Awaitable[None]],
    grace_s: float = 10.0,
    on_signal: Callable[[int, int], None] = lambda number, count: None,
) -> Lived:
    """Open the run of HANDLE, wait for its command (or for a signal) and undo everything.

    The first signal asks the container to end and gives it GRACE_S seconds; while the run is still being opened it
    calls that off. The second takes all patience: what cannot be undone at once is the watchdog's.

    Raises:
        MoatError: The run could not be opened, or came to an end of its own. A signal is not an error.
    """
    raise_file_limit()  # what is inside may have many connections opened here
    lived = Lived()
    opening = anyio.CancelScope()
    failed: MoatError | None = None

    async def on_signals(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*heeded(*_SIGNALS)) as signals:
            task_status.started()
            count = 0
            async for number in signals:
                count += 1
                lived.signal = lived.signal or int(number)
                on_signal(int(number), count)
                if count > 1:
                    handle.run.cancel()
                    handle.run.cancel()
                elif opening.cancel_called or not started.is_set():
                    opening.cancel()
                else:
                    group.start_soon(_stop, handle, grace_s)

    started = anyio.Event()
    async with anyio.create_task_group() as group:
        await group.start(on_signals)
        try:
            with opening:
                await handle.__aenter__()
                started.set()
            if started.is_set():
                await on_ready()
                if handle.run.plan.command is not None:
                    lived.result = await handle.wait()
                else:
                    await handle.wait_until_over()
        except MoatError as error:
            if lived.signal is None and not handle.was_cancelled:
                failed = error  # raised below: the task group would make a group of it, which no caller expects
        finally:
            with anyio.CancelScope(shield=True):
                lived.run = await handle.aclose() if handle.is_begun else None
            group.cancel_scope.cancel()
    if failed is not None:
        raise failed
    return lived


async def _stop(handle: RunHandle, grace_s: float) -> None:
    try:
        with anyio.fail_after(grace_s + _BEYOND_S):
            await handle.stop(grace_s=grace_s)
            await handle.run.main_done.wait()
    except (MoatError, TimeoutError):
        handle.run.cancel()  # an engine that does not answer, or output that nobody reads: undo it all the same
