"""What this plugin puts in the ledger. Light to import: the engine's client comes with the first use.

Every name is known before the thing is made, and every thing is labelled, so that it is found again either way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from moat_core.ledger.resource import VOLATILE, Resource

if TYPE_CHECKING:
    from moat_core.ledger import ResourceContext
    from moat_plugins.docker.client import Engine

__all__ = ["RESOURCES", "DockerContainer", "DockerImage", "DockerNetwork", "DockerVolume"]


@attrs.frozen
class DockerContainer(Resource):
    """A container. `create` returns its id.

    Args:
        address: The engine's; see `endpoint`.
        name: ``moat-`` and the run's id, with ``-role`` for a sidecar.
        config: Body of POST /containers/create, labels included; it holds the run's environment, so it is not stored.
    """

    kind: ClassVar[str] = "docker.container"
    keepable: ClassVar[bool] = True
    address: str
    name: str
    config: Mapping[str, Any] = attrs.field(factory=dict, repr=False, metadata={VOLATILE: True})

    async def create(self, ctx: ResourceContext) -> str:
        """Create it; it is not started."""
        from moat_plugins.docker import objects

        return await objects.create_container(await _engine(ctx, self.address), self.name, self.config)

    async def release(self, ctx: ResourceContext) -> bool:
        """Kill and remove it, with its anonymous volumes."""
        from moat_plugins.docker import objects

        return await objects.remove_container(await _engine(ctx, self.address), self.name)


@attrs.frozen
class DockerNetwork(Resource):
    """A network of one run's own. `create` returns its id.

    Args:
        config: Body of POST /networks/create without the name.
    """

    kind: ClassVar[str] = "docker.network"
    address: str
    name: str
    config: Mapping[str, Any] = attrs.field(factory=dict, repr=False, metadata={VOLATILE: True})

    async def create(self, ctx: ResourceContext) -> str:
        """Create it, in a small subnet if the engine's pools are used up."""
        from moat_plugins.docker import objects

        return await objects.create_network(await _engine(ctx, self.address), self.name, self.config)

    async def release(self, ctx: ResourceContext) -> bool:
        """Disconnect what is still on it, and remove it."""
        from moat_plugins.docker import objects

        return await objects.remove_network(await _engine(ctx, self.address), self.name)


@attrs.frozen
class DockerVolume(Resource):
    """A named volume of one run's own. `create` returns its name."""

    kind: ClassVar[str] = "docker.volume"
    address: str
    name: str
    labels: Mapping[str, str] = attrs.field(factory=dict, metadata={VOLATILE: True})

    async def create(self, ctx: ResourceContext) -> str:
        """Create it, empty."""
        from moat_plugins.docker import objects

        return await objects.create_volume(await _engine(ctx, self.address), self.name, self.labels)

    async def release(self, ctx: ResourceContext) -> bool:
        """Remove it and what is in it."""
        from moat_plugins.docker import objects

        return await objects.remove_volume(await _engine(ctx, self.address), self.name)


@attrs.frozen
class DockerImage(Resource):
    """An image. Runs share images and do not acquire them; this is how ``moat clean`` removes one."""

    kind: ClassVar[str] = "docker.image"
    address: str
    name: str

    async def create(self, ctx: ResourceContext) -> str:
        """Pull it."""
        from moat_plugins.docker import images

        engine = await _engine(ctx, self.address)
        await images.pull_image(engine, self.name, lambda _text, _done, _total: None)
        return self.name

    async def release(self, ctx: ResourceContext) -> bool:
        """Remove it, unless a container uses it."""
        from moat_plugins.docker import objects

        return await objects.remove_image(await _engine(ctx, self.address), self.name)


RESOURCES: tuple[type[Resource], ...] = (DockerContainer, DockerNetwork, DockerVolume, DockerImage)


async def _engine(ctx: ResourceContext, address: str) -> Engine:
    from moat_plugins.docker.runtime import DockerRuntime  # aiohttp behind it costs 200 ms

    return (await ctx.connection(DockerRuntime, address)).engine
