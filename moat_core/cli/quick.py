"""Answers that must be instant: no click, no plugins, no event loop.

``moat version`` reads a constant. ``moat list [-a] [--json]`` reads the store and asks each engine of a live run by
the probe that its runtime registered (stdlib only, a few ms). Whatever is out of the ordinary (other options, a
dead owner, a rebuilt store, an engine that does not answer) is left to the full command, which says the same.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["answer"]


def answer(arguments: list[str]) -> int | None:
    """Return the exit status if ARGUMENTS could be answered here, ``None`` to go the long way."""
    if os.environ.get("MOAT_TRACE_HOOKS"):
        return None
    if arguments in (["version"], ["--version"]):
        from moat_core import __version__

        print("moat", __version__)
        return 0
    if arguments[:1] == ["list"] and set(arguments[1:]) <= {"-a", "--all", "--json"}:
        return _list(over="-a" in arguments or "--all" in arguments, as_json="--json" in arguments)
    return None


def _list(*, over: bool, as_json: bool) -> int | None:
    raise NotImplementedError
