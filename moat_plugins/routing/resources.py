"""What the ledger knows of routing. The rows are the thing itself: the proxy, another process, serves what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import attrs

from moat_core.ledger import Resource, ResourceContext

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["AgentName", "Route"]


@attrs.frozen
class AgentName(Resource):
    """A run's claim to its agent's name, from before anything else of it is made until everything is undone.

    Args:
        agent: The name.
        endpoints: Those that there will be -> port in the container, so that they can be told from mistyped ones.
    """

    kind: ClassVar[str] = "routing.name"
    agent: str
    endpoints: dict[str, int]

    async def create(self, ctx: ResourceContext) -> None:
        """Nothing: it is written down."""

    async def release(self, ctx: ResourceContext) -> bool:  # noqa: ARG002 - the row is all there is
        """Nothing: the row goes."""
        return True


@attrs.frozen
class Route(Resource):
    """Where an endpoint of a live run is reached.

    Args:
        agent: The agent's name.
        endpoint: Of that agent.
        number: Its port in the container.
        host: Address on this machine.
        port: Port there, of the engine's choosing; 0 while it is nowhere.
    """

    kind: ClassVar[str] = "routing.route"
    agent: str
    endpoint: str
    number: int
    host: str
    port: int

    def moved(self, ports: Mapping[int, int]) -> Route:
        """See `Resource`."""
        return attrs.evolve(self, port=ports.get(self.number, 0))

    async def create(self, ctx: ResourceContext) -> None:
        """Nothing: it is written down."""

    async def release(self, ctx: ResourceContext) -> bool:  # noqa: ARG002 - the row is all there is
        """Nothing: the row goes."""
        return True
