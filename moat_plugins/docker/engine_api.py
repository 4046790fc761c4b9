"""`EngineApi` of a Docker engine: raw connections to it, and what is made on them for a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core.runtime.facets import EngineApi
from moat_plugins.docker.guests import DockerGuestBook, make_marks
from moat_plugins.docker.hijack import connect
from moat_plugins.docker.resources import DockerGuests

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from moat_core.lifecycle import Run
    from moat_core.runtime.facets import Guests
    from moat_plugins.docker.runtime import DockerRuntime

__all__ = ["DockerApi"]


class DockerApi(EngineApi):
    """See `EngineApi`."""

    def __init__(self, runtime: DockerRuntime) -> None:
        self._runtime = runtime
        self._engine = runtime.engine
        self.version = self._engine.version.removeprefix("v")
        self.address = self._engine.endpoint.address

    async def connect(self) -> ByteStream:
        """See `EngineApi`."""
        with self._engine.calling("connect"):
            return await connect(self._engine.endpoint)

    async def hold_guests(self, run: Run) -> Guests:
        """See `EngineApi`."""
        marks = make_marks(run.labels, run.id)
        book = DockerGuestBook(self._runtime.proof, marks)
        await run.acquire(DockerGuests(self.address, marks))
        return book
