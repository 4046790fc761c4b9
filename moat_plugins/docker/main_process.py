"""A container's main process, attached to before it starts, so that not a byte of its output is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from moat_core import checks
from moat_core.errors import EngineError
from moat_core.types import Output
from moat_plugins.docker.gone import gone_if_missing
from moat_plugins.docker.hijack import HijackedStream, hijack
from moat_plugins.docker.process import SIGNALS, StreamProcess

if TYPE_CHECKING:
    from moat_core.runtime.base import SandboxInfo
    from moat_plugins.docker.client import Engine

__all__ = ["MainProcess", "attach"]


class MainProcess(StreamProcess):
    """See `Process`.

    Args:
        ended: Waits for the container's end; shared by everybody who waits for it.
    """

    def __init__(
        self, engine: Engine, container: str, stream: HijackedStream, ended: Callable[[], Awaitable[SandboxInfo]]
    ) -> None:
        super().__init__(stream)
        self._engine = engine
        self._container = container
        self._ended = ended

    async def resize(self, rows: int, columns: int) -> None:
        """See `Process`."""
        rows, columns = checks.size((rows, columns))
        with suppress(EngineError):  # it may have ended just now
            await self._engine.containers.resize(self._container, rows, columns)

    async def signal(self, number: int) -> None:
        """Send it to PID 1, the engine's init, which passes it on to the command; SIGKILL ends the container."""
        signal = checks.count(number, "number", 1, SIGNALS)
        with gone_if_missing():
            await self._engine.containers.kill(self._container, signal)

    async def wait(self) -> int:
        """See `Process`."""
        await self._drain()
        code = (await self._ended()).exit_code
        return -1 if code is None else code

    async def next_piece(self) -> Output | None:
        """Return the next piece of output, ``None`` at its end."""
        return await self._next()


async def attach(engine: Engine, container: str, *, tty: bool) -> HijackedStream:
    """Attach to a container's main process, from now on.

    Raises:
        SandboxGone: There is no such container.
    """
    path = f"/containers/{container}/attach?stream=1&stdout=1&stderr=1&stdin=1"
    with gone_if_missing():
        return await hijack(engine, "attach to the container", path, raw=tty)
