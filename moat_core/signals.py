"""Which signals we may take: what whoever started us has ignored for us stays ignored.

``nohup`` ignores SIGHUP, a shell without job control SIGINT and SIGQUIT for what it starts with ``&`` (POSIX, Shell
Command Language 2.11). A handler of ours would end what was meant to go on. Stdlib only.
"""

from __future__ import annotations

import signal

__all__ = ["heeded"]


def heeded(*numbers: signal.Signals) -> tuple[signal.Signals, ...]:
    """Return those of NUMBERS that are not ignored."""
    return tuple(number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN)
