"""What decides in one run: made once when the guard opens, read by every rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from moat_core.host_path import nobody

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moat_core.host_path import HeldPath, IsShared
    from moat_core.plan import Plan
    from moat_core.runtime.facets import Guests

__all__ = ["BIND_LABEL", "NAMES_LABEL", "RESERVED", "Scope"]

RESERVED = "moat"
"""Names of objects, repositories of images and labels that begin with this word are moat's own."""
BIND_LABEL = "moat.docker-host.bind"
"""Marks the volumes by which the guard binds folders; the run does not see them."""
NAMES_LABEL = "moat.docker-host.names"
"""Which hosts file a guest in gVisor has."""


@attrs.frozen(kw_only=True)
class Scope:
    """Whose requests these are and what they may come to.

    Args:
        plan: Of the run.
        held: Target of a mount -> what of this machine is there, as it was when the run opened.
        given: Tells which folders of this machine runs can write to.
        guests: What tells the run's own objects.
        network: Name of the run's network on the engine.
        gateway: Address that published ports are bound to.
        version: The engine's API version that both sides speak, ``1.45``.
        allow: Words of ``docker_host.allow``.
        build: Whether images may be built.
        hidden: Folders inside whose mounts are the guard's own.
    """

    plan: Plan
    guests: Guests
    network: str
    gateway: str
    version: str
    held: Mapping[str, HeldPath] = attrs.field(factory=dict)
    given: IsShared = nobody
    allow: frozenset[str] = frozenset()
    build: bool = True
    hidden: tuple[str, ...] = ()

    @property
    def marks(self) -> Mapping[str, str]:
        """Labels by which the run's own objects are found; others may have them, too."""
        return self.guests.marks

    @property
    def run_id(self) -> str:
        """Of the run."""
        return self.plan.run_id

    def allows(self, word: str) -> bool:
        """Tell whether the run's owner widened the guard by WORD."""
        return word in self.allow

    def speaks(self, minor: int) -> bool:
        """Tell whether the engine has API 1.MINOR."""
        return tuple(int(part) for part in self.version.split(".")) >= (1, minor)
