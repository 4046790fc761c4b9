"""Signals while there is nothing to undo: before a verb's own work and after it, we are gone at once, without a word.

Python's handler for SIGINT raises wherever the program happens to be: in an import, in a callback of the garbage
collector, while the interpreter ends. There it is a traceback. What a verb does in an event loop is interrupted in
order by asyncio, which wants Python's own handler in place.

Imports nothing that would take time in which a signal could come: the module ``signal`` makes classes for some
milliseconds of what ``_signal`` has.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os

__all__ = ["Interruptible", "leave_at_once"]

_OURS = (_signal.SIGINT, _signal.SIGTERM)


def leave_at_once() -> None:
    """From now on, end at such a signal with what a shell says of it; one that is ignored stays ignored."""
    try:
        for number in _OURS:
            if _signal.getsignal(number) in (_signal.SIG_DFL, _signal.default_int_handler):
                _signal.signal(number, _leave)
    except ValueError:
        pass  # not in the main thread, where no signal is handled


class Interruptible:
    """A context: let SIGINT interrupt the body as Python does, if it ended us at once before."""

    def __enter__(self) -> None:
        self._ours = _signal.getsignal(_signal.SIGINT) is _leave
        if self._ours:
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)

    def __exit__(self, *_: object) -> None:
        if self._ours:
            leave_at_once()


def _leave(number: int, _frame: object) -> None:
    os._exit(128 + number)
