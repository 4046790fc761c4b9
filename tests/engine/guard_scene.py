"""A guard before the real engine, and a user beside it."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager, suppress

import anyio
import attrs
from docker_support import get_engine, open_run

from moat_core.errors import HostError
from moat_core.listen import Visitor
from moat_plugins.docker.runtime import DockerRuntime
from moat_plugins.docker_host.guard import Guard
from moat_plugins.docker_host.scope import Scope

__all__ = ["IMAGE", "Scene", "open_scene"]

IMAGE = "debian:bookworm-slim"


@attrs.define
class Scene:
    """A guard before the real engine, and a user beside it."""

    run: object
    api: object
    connect: object
    name: str

    async def take(self):
        """The user gives the name to an image of his."""
        repo, _, word = self.name.rpartition(":")
        await self.api.call("tag", "POST", f"/images/{IMAGE}/tag", params={"repo": repo, "tag": word})

    async def is_theirs(self):
        found, base = await self.api.images.find(self.name), await self.api.images.inspect(IMAGE)
        return found is not None and found["Id"] == base["Id"]


@asynccontextmanager
async def open_scene(engine, tmp_path, name="", **options):
    """The guard of a run without a container: it needs none."""
    async with open_run(engine, tmp_path) as run:
        runtime = DockerRuntime((await get_engine(run)), str(tmp_path))
        guests = await runtime.api.hold_guests(run)
        scope = Scope(
            plan=run.plan, guests=guests, network="none", gateway="127.0.0.1", version=runtime.api.version, **options
        )
        guard, streams = Guard(runtime.api, scope), []
        async with anyio.create_task_group() as group:

            async def connect():
                ours, theirs = socket.socketpair()
                for each in (ours, theirs):
                    each.setblocking(False)
                group.start_soon(guard.serve, Visitor(theirs))
                streams.append(Visitor(ours))
                return streams[-1]

            scene = Scene(run, runtime.engine, connect, name or f"theirs-{run.id}:1")
            try:
                yield scene
            finally:
                with anyio.CancelScope(shield=True):
                    for stream in streams:
                        await stream.aclose()
                    await run.release_all()
                    with suppress(HostError):
                        await runtime.engine.images.remove(scene.name)
                group.cancel_scope.cancel()
