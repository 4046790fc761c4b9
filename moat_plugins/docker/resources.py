"""What this plugin puts in the ledger. Light to import: the engine's client comes with the first use.

Every name is known before the thing is made, and every thing is signed when it is made (`labels.sign`), so that it is
found again either way. What is released must prove that it is the run's: a name may be somebody else's, and then
creating failed for that reason; and labels are copied.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from moat_core.ledger.resource import VOLATILE, Resource
from moat_plugins.docker import labels

if TYPE_CHECKING:
    from moat_core.ledger import ResourceContext
    from moat_plugins.docker.client import Engine
    from moat_plugins.docker.objects import IsOurs
    from moat_plugins.docker.runtime import DockerRuntime

__all__ = [
    "RESOURCES",
    "DockerCache",
    "DockerContainer",
    "DockerGuests",
    "DockerImage",
    "DockerNetwork",
    "DockerSharedNetwork",
    "DockerVolume",
]


def _owner_in_config(resource: DockerContainer | DockerNetwork) -> str:
    return str((resource.config.get("Labels") or {}).get(labels.OWNER, ""))


def _owner_in_labels(resource: DockerVolume) -> str:
    return resource.labels.get(labels.OWNER, "")


@attrs.frozen
class DockerContainer(Resource):
    """A container. `create` returns its id.

    Args:
        address: The engine's; see `endpoint`.
        name: ``moat-`` and the run's id, with ``-role`` for a sidecar.
        config: Body of POST /containers/create, labels included; it holds the run's environment, so it is not stored.
        owner: What its label `labels.OWNER` says; ``""`` for none.
        timeout_s: What one call to make it may take; the connection's by default.
    """

    kind: ClassVar[str] = "docker.container"
    address: str
    name: str
    config: Mapping[str, Any] = attrs.field(factory=dict, repr=False, metadata={VOLATILE: True})
    owner: str = attrs.field(default=attrs.Factory(_owner_in_config, takes_self=True), kw_only=True)
    timeout_s: float | None = attrs.field(default=None, kw_only=True, metadata={VOLATILE: True})

    async def create(self, ctx: ResourceContext) -> str:
        """Create it; it is not started."""
        from moat_plugins.docker import objects

        runtime = await _runtime(ctx, self.address)
        config = _signed(runtime, "container", self.name, self.config)
        return await objects.create_container(runtime.engine.with_timeout(self.timeout_s), self.name, config)

    async def release(self, ctx: ResourceContext) -> bool:
        """Kill and remove it, with its anonymous volumes."""
        from moat_plugins.docker import objects

        runtime = await _runtime(ctx, self.address)
        is_ours = _make_is_ours(ctx, runtime, "container", self.owner)
        return await objects.remove_container(runtime.engine, self.name, is_ours)

    async def keep(self, ctx: ResourceContext) -> bool:
        """Agree if it stands still, or can be stopped: nothing that runs is left behind."""
        from moat_plugins.docker import objects

        return await objects.stop_container(await _engine(ctx, self.address), self.name)


@attrs.frozen
class DockerNetwork(Resource):
    """A network of one run's own. `create` returns its id.

    Args:
        config: Body of POST /networks/create without the name.
        owner: See `DockerContainer`, as for ``timeout_s``.
    """

    kind: ClassVar[str] = "docker.network"
    address: str
    name: str
    config: Mapping[str, Any] = attrs.field(factory=dict, repr=False, metadata={VOLATILE: True})
    owner: str = attrs.field(default=attrs.Factory(_owner_in_config, takes_self=True), kw_only=True)
    timeout_s: float | None = attrs.field(default=None, kw_only=True, metadata={VOLATILE: True})

    async def create(self, ctx: ResourceContext) -> str:
        """Create it, in a small subnet if the engine's pools are used up."""
        from moat_plugins.docker import objects

        runtime = await _runtime(ctx, self.address)
        config = _signed(runtime, "network", self.name, self.config)
        return await objects.create_network(runtime.engine.with_timeout(self.timeout_s), self.name, config)

    async def release(self, ctx: ResourceContext) -> bool:
        """Disconnect what is still on it, and remove it."""
        from moat_plugins.docker import objects

        runtime = await _runtime(ctx, self.address)
        is_ours = _make_is_ours(ctx, runtime, "network", self.owner)
        return await objects.remove_network(runtime.engine, self.name, is_ours)


@attrs.frozen
class DockerSharedNetwork(Resource):
    """The network that runs share. They do not acquire it; this is how ``moat clean`` removes it."""

    kind: ClassVar[str] = "docker.shared-network"
    address: str
    name: str

    async def create(self, ctx: ResourceContext) -> None:
        """Make it as runs would."""
        from moat_plugins.docker import network

        await network.make_shared(await _engine(ctx, self.address))

    async def release(self, ctx: ResourceContext) -> bool:
        """Remove it, unless a run is on it by now: no live run may lose its network."""
        from moat_plugins.docker import objects

        return await objects.remove_shared_network(await _engine(ctx, self.address), self.name)


@attrs.frozen
class DockerVolume(Resource):
    """A named volume of one run's own. `create` returns its name.

    Args:
        owner: See `DockerContainer`.
    """

    kind: ClassVar[str] = "docker.volume"
    address: str
    name: str
    labels: Mapping[str, str] = attrs.field(factory=dict, metadata={VOLATILE: True})
    owner: str = attrs.field(default=attrs.Factory(_owner_in_labels, takes_self=True), kw_only=True)

    async def create(self, ctx: ResourceContext) -> str:
        """Create it, empty."""
        from moat_plugins.docker import objects

        runtime = await _runtime(ctx, self.address)
        signed = labels.sign(runtime.proof, "volume", self.name, self.labels)
        is_ours = functools.partial(labels.is_ours, runtime.proof, "volume")
        return await objects.create_volume(runtime.engine, self.name, signed, is_ours)

    async def release(self, ctx: ResourceContext) -> bool:
        """Remove it and what is in it."""
        from moat_plugins.docker import objects

        runtime = await _runtime(ctx, self.address)
        is_ours = _make_is_ours(ctx, runtime, "volume", self.owner)
        return await objects.remove_volume(runtime.engine, self.name, is_ours)


@attrs.frozen
class DockerImage(Resource):
    """An image. Runs share images and do not acquire them; this is how ``moat clean`` removes one.

    Args:
        identity: Its id: a name that has become another image's meanwhile is left alone.
    """

    kind: ClassVar[str] = "docker.image"
    address: str
    name: str
    identity: str = ""

    async def create(self, ctx: ResourceContext) -> str:
        """Pull it."""
        from moat_plugins.docker import images

        engine = await _engine(ctx, self.address)
        await images.pull_image(engine, self.name, lambda _text, _done, _total: None)
        return self.name

    async def release(self, ctx: ResourceContext) -> bool:
        """Remove it, unless a container uses it."""
        from moat_plugins.docker import objects

        return await objects.remove_image(await _engine(ctx, self.address), self.name, self.identity)


@attrs.frozen
class DockerGuests(Resource):
    """Whatever carries MARKS and is proven: what a run made for itself on the engine. `create` makes nothing."""

    kind: ClassVar[str] = "docker.guests"
    may_grow: ClassVar[bool] = True
    address: str
    marks: Mapping[str, str]

    async def create(self, ctx: ResourceContext) -> None:
        """Do nothing: others make them."""

    async def release(self, ctx: ResourceContext) -> bool:
        """Remove them all."""
        from moat_plugins.docker import guests

        if self.marks.get(labels.RUN_ID) != ctx.run_id or self.marks.get(labels.ROLE) != labels.GUEST:
            return False  # a row that was tampered with may not make us remove anything else
        return await guests.remove_guests(await _runtime(ctx, self.address), self.marks)


@attrs.frozen
class DockerCache(Resource):
    """A volume that is kept for an agent. Runs do not acquire it; this is how ``moat clean`` removes one."""

    kind: ClassVar[str] = "docker.cache"
    address: str
    name: str
    owner: str

    async def create(self, ctx: ResourceContext) -> None:
        """Do nothing: the next run that wants it makes it."""

    async def release(self, ctx: ResourceContext) -> bool:
        """Remove it and what is in it, unless a run has mounted it by now."""
        from moat_plugins.docker import objects

        runtime = await _runtime(ctx, self.address)

        def is_ours(name: str, found: Mapping[str, str] | None) -> bool:
            is_cache = bool((found or {}).get(labels.CACHE)) and (found or {}).get(labels.OWNER) == self.owner
            return is_cache and labels.is_ours(runtime.proof, "volume", name, found)

        return await objects.remove_volume(runtime.engine, self.name, is_ours)


RESOURCES: tuple[type[Resource], ...] = (
    DockerContainer,
    DockerNetwork,
    DockerSharedNetwork,
    DockerVolume,
    DockerImage,
    DockerGuests,
    DockerCache,
)


def _signed(runtime: DockerRuntime, kind: str, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "Labels": labels.sign(runtime.proof, kind, name, config.get("Labels") or {})}


def _make_is_ours(ctx: ResourceContext, runtime: DockerRuntime, kind: str, owner: str) -> IsOurs:
    """Return what tells whether an object is this home's and the run's."""
    marks = {labels.RUN_ID: ctx.run_id} | ({labels.OWNER: owner} if owner else {})

    def is_ours(name: str, found: Mapping[str, str] | None) -> bool:
        return marks.items() <= (found or {}).items() and labels.is_ours(runtime.proof, kind, name, found)

    return is_ours


async def _runtime(ctx: ResourceContext, address: str) -> DockerRuntime:
    from moat_plugins.docker.runtime import DockerRuntime  # aiohttp behind it costs 200 ms

    return await ctx.connection(DockerRuntime, address)


async def _engine(ctx: ResourceContext, address: str) -> Engine:
    return (await _runtime(ctx, address)).engine
