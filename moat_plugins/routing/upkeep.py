"""What ``moat doctor`` and ``moat status`` say of the proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from moat_core.types import Check, StatusLine
from moat_plugins.routing.process import ask, find

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check_proxy", "describe_proxy"]


async def check_proxy(home: Path) -> list[Check]:
    """Ask the proxy, if it runs, for its page. That none runs is no fault: the next run with ports starts it."""
    running = find(home)
    if running is None:
        return []
    told = await anyio.to_thread.run_sync(ask, running)
    if "error" in told:
        return [
            Check(
                "proxy",
                "warning" if told.get("unknown") else "error",
                f"The proxy (pid {running.pid}) {told['error']}.",
                "moat proxy restart",
            ),
        ]
    return [Check("proxy", "ok", f"The proxy answers at {running.base}.")]


def describe_proxy(home: Path) -> list[StatusLine]:
    """Say where it is."""
    running = find(home)
    if running is None:
        return []
    return [StatusLine("routing", "proxy", f"{running.base} (pid {running.pid})", running.to_json())]
