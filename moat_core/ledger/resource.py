"""What a durable thing must offer so that it can never be left behind.

A `Resource` is anything outside our memory that must be undone: a container, a network, a volume, a process, a
file. Declaring it is enough: ``await run.acquire(resource)`` writes it down before it is made, and the same
`release` serves an orderly end, a failed start, a cancellation and the crash of the owner.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moat_core.runtime.base import Connection

__all__ = ["VOLATILE", "Resource", "ResourceContext", "from_row", "to_row"]

VOLATILE = "moat_volatile"
"""Metadata key of a field that only `Resource.create` needs. It is not stored: secrets may be in it."""

C = TypeVar("C", bound="Connection")


class ResourceContext(Protocol):
    """What `create` and `release` are given. In the reaper there is no run any more, only this."""

    @property
    def run_id(self) -> str:
        """Whose resource it is."""

    async def connection(self, kind: type[C], address: str) -> C:
        """Return the open connection of KIND to ADDRESS, shared by everybody in this process."""


@attrs.frozen
class Resource(ABC):
    """Base of every resource kind; subclasses are ``@attrs.frozen``, their fields JSON-able.

    What identifies the thing must be known *before* it is made (a name, not an id that an engine hands out),
    or a crash between the two would lose it.
    """

    kind: ClassVar[str]
    """Stable name of the kind in the ledger: ``docker.container``."""
    may_grow: ClassVar[bool] = False
    """Others go on making what it names, as long as the owner lives: of a dead one some of it may still appear."""

    @abstractmethod
    async def create(self, ctx: ResourceContext) -> Any:
        """Make it and return whatever the caller of ``acquire`` wants of it."""

    @abstractmethod
    async def release(self, ctx: ResourceContext) -> bool:
        """Undo it, in whatever half-made state it is. Idempotent.

        Returns:
            Whether there was anything to undo: the reaper looks again for what an engine may still be making.
        """

    def moved(self, ports: Mapping[int, int]) -> Resource:  # noqa: ARG002 - for those whom it concerns
        """Return what it is now that the engine has started the container anew; itself, if that is the same.

        A pure function: whoever owns the run then may have nothing but the ledger's row.

        Args:
            ports: Port in the container -> port on this machine.
        """
        return self

    async def keep(self, ctx: ResourceContext) -> bool:  # noqa: ARG002 - for those who have to look
        """Tell whether it may be left behind on request (``keep=True``), as it is now; most things may not."""
        return False


def to_row(resource: Resource) -> dict[str, Any]:
    """Return the fields that the ledger stores."""
    return attrs.asdict(resource, filter=lambda field, _: not field.metadata.get(VOLATILE))


def from_row(kind: type[Resource], data: dict[str, Any]) -> Resource:
    """Make the resource again from what was stored; fields unknown to this version are dropped."""
    known = {field.name for field in attrs.fields(kind) if field.init}
    return kind(**{name: value for name, value in data.items() if name in known})
