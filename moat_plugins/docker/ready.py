"""When a container without a command of its own is ready: its init steps say so on the main process's output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from moat_core.errors import SandboxNotReady
from moat_core.plan import READY
from moat_plugins.docker.text import last_lines

if TYPE_CHECKING:
    from moat_core.runtime.base import Sandbox
    from moat_plugins.docker.main_process import MainProcess

__all__ = ["READY_S", "wait_until_ready"]

READY_S = 60.0
"""How long the init steps of a run without a command may take, in seconds."""
_TAIL_LINES = 20
_TAIL_BYTES = 8192


async def wait_until_ready(main: MainProcess, sandbox: Sandbox) -> None:
    """Read the main process's output until the init steps are done, keeping the end of it for a message.

    Raises:
        SandboxNotReady: They failed, or took too long.
    """
    tail = stdout = b""
    ready = READY.rstrip()  # a terminal ends the line in its own way
    with anyio.move_on_after(READY_S):
        while (piece := await main.next_piece()) is not None:
            tail = (tail + piece.data)[-_TAIL_BYTES:]
            if piece.stream == "stdout":
                stdout += piece.data
                if ready in stdout:
                    return
                stdout = stdout[-len(ready) :]
        ended = await sandbox.wait()
        raise SandboxNotReady(
            f"The container ended before it was ready, with exit code {ended.exit_code}.",
            hint=last_lines(tail, _TAIL_LINES),
        )
    raise SandboxNotReady(
        f"The init steps did not finish within {READY_S:.0f} s.",
        hint=last_lines(tail, _TAIL_LINES) or "They printed nothing.",
    )
