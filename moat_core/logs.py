"""Logging of the processes that nobody watches: the supervisor and the reaper.

Not a place for values of the environment, arguments of commands or anything an agent printed. structlog is imported
when the first line is written; the command and the library log nothing by themselves, they tell events.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

__all__ = ["make_logger"]


def make_logger(stream: TextIO | None = None, **bound: Any) -> FilteringBoundLogger:
    """Return a logger that writes one line a message: time (UTC), level, the message, ``key=value`` pairs.

    Args:
        stream: stderr if not given.
        bound: Pairs for every line: ``run_id``, ``plugin`` …
    """
    import structlog

    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(stream or sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        **bound,
    )
    return logger
