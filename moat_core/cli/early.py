"""Signals while there is nothing to undo: before a verb's own work and after it, we are gone at once, without a word.

Python's handler for SIGINT raises wherever the program happens to be: in an import, in a callback of the garbage
collector, while the interpreter ends. There it is a traceback. What a verb does in an event loop is interrupted in
order by asyncio, which wants Python's own handler in place. Stdlib only, and little of it.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["interruptible", "leave_at_once"]

_OURS = (signal.SIGINT, signal.SIGTERM)


def leave_at_once() -> None:
    """From now on, end at such a signal with what a shell says of it; one that is ignored stays ignored."""
    try:
        for number in _OURS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, _leave)
    except ValueError:
        pass  # not in the main thread, where no signal is handled


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGINT interrupt the body as Python does."""
    ours = signal.getsignal(signal.SIGINT) is _leave
    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ours:
            leave_at_once()


def _leave(number: int, _frame: object) -> None:
    os._exit(128 + number)
