"""What a runtime may offer beyond one container a run. Each facet is ``None`` where it is unsupported; callers check.

``runtime.sidecars`` makes helper containers, ``runtime.api`` is the engine's own API for those who speak it. The
network that a run's containers meet on is provided as `RunNetwork`: ``run.get(RunNetwork)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from anyio.abc import ByteStream

    from moat_core.lifecycle import Run
    from moat_core.runtime.base import Sandbox
    from moat_core.types import Limits, Tmpfs, Volume

__all__ = ["EngineApi", "Guests", "PrivateFile", "RunNetwork", "Sidecar", "SidecarSpec", "Sidecars"]


@attrs.frozen
class RunNetwork:
    """The network that the containers of a run are put on; ``run.get(RunNetwork)`` from ``moat_open_services`` on.

    Args:
        name: As the engine knows it; ``none`` for no network at all.
        shared: Other runs are on it, too, unable to see each other.
        gateway: The engine's machine's own address on it, as containers see it; ``""`` where it is not known.
        subnet: ``172.20.0.0/16``.
    """

    name: str
    shared: bool = False
    gateway: str = ""
    subnet: str = ""


@attrs.frozen(kw_only=True)
class PrivateFile:
    """A file that a container is given before it starts: a key, say, which is in no argv, label, environment or store.

    It is in the container's own layer and goes with it; folders that are missing are made, root's.

    Args:
        path: Absolute, inside.
        data: What is in it; never shown.
        uid: Whose it is, inside.
        gid: Likewise.
        mode: Its permissions.
    """

    path: str
    data: bytes = attrs.field(repr=False)
    uid: int = 0
    gid: int = 0
    mode: int = 0o400


@attrs.frozen(kw_only=True)
class SidecarSpec:
    """A helper container of a run.

    Args:
        role: What it is for, a DNS label: part of its name and its label, and the name it is known by in the run.
        image: Reference; pulled if the engine has not got it.
        command: Its whole argv; empty leaves the image's own.
        env: Beside the image's own. Not stored, not shown.
        oci_runtime: See `moat_core.plan.Plan`; ``None`` is the engine's default.
        privileged: Why it must be; ``""``: it is not.
        capabilities: Those kept, without ``CAP_`` -> why; ``ALL`` is all.
        volumes: See `Volume`.
        hosts: Name -> address, for its ``/etc/hosts``.
        dns: Name servers; empty leaves the engine's.
        files: What is put into it before it starts.
    """

    role: str
    image: str
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    oci_runtime: str | None = None
    privileged: str = ""
    capabilities: Mapping[str, str] = attrs.field(factory=dict)
    volumes: tuple[Volume, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    hosts: Mapping[str, str] = attrs.field(factory=dict)
    dns: tuple[str, ...] = ()
    limits: Limits | None = None
    files: tuple[PrivateFile, ...] = attrs.field(default=(), repr=False)


@attrs.frozen
class Sidecar:
    """A started helper container, and its address on the run's network."""

    sandbox: Sandbox
    address: str


class Sidecars(ABC):
    """``runtime.sidecars``. A run with sidecars asks for ``plan.own_network``, so that they may see each other."""

    @abstractmethod
    async def start(self, run: Run, spec: SidecarSpec) -> Sidecar:
        """Make and start a helper container on RUN's network; it is released with the run. It may not be ready yet.

        Raises:
            ImageError: Its image cannot be had.
            EngineError: It could not be created or started.
        """


class EngineApi(ABC):
    """``runtime.api``: the engine's own HTTP API, of the kind that Docker has.

    Args:
        version: The newest that both sides speak, ``1.45``.
        address: ``unix:///var/run/docker.sock``; for messages, and to tell a local engine from a remote one.
    """

    version: str
    address: str

    @abstractmethod
    async def connect(self) -> ByteStream:
        """Open a connection of its own, on which nothing has been said yet.

        Raises:
            RuntimeUnavailable: Nothing answers.
        """

    @abstractmethod
    async def hold_guests(self, run: Run) -> Guests:
        """From now on, release with RUN whatever is signed, or named, as what is returned says.

        Whoever lets a run make objects on the engine signs each container (which goes in every state, with its
        anonymous volumes), network and volume, and names each image. It is written down first, so that the reaper
        finds them, too.
        """


class Guests(ABC):
    """What tells the objects that a run made for itself on the engine from all others, copies of them included.

    Args:
        marks: Labels by which they are found. Others may have them: an engine copies an image's labels.
        claims: Labels that say something of whose an object is; no image may bring one.
        repository: Of images; see `name_image`.
    """

    marks: Mapping[str, str]
    claims: frozenset[str]
    repository: str

    @abstractmethod
    def sign(self, kind: str, name: str, more: Mapping[str, str]) -> dict[str, str]:
        """Return the labels for a new ``container``, ``network`` or ``volume`` that will be called NAME, MORE included.

        They are not for the run's eyes: who knows them can have others' things taken for its own.
        """

    @abstractmethod
    def is_own(self, kind: str, name: str, found: Mapping[str, str] | None) -> bool:
        """Tell whether what is called NAME and has the labels FOUND was signed, under that name."""

    @abstractmethod
    def name_new_image(self) -> str:
        """Return the name under which to make an image whose id is not known yet; it is given once."""

    @abstractmethod
    def name_image(self, identity: str, name: str = "") -> str:
        """Return what an image of the run's, whose id is IDENTITY, is called beside its names.

        Args:
            name: A name that the run gives it; it is told apart from those that others gave. ``""``: for the image
                itself, whatever names it has.
        """

    @abstractmethod
    def own_names(self, identity: str, names: Iterable[str]) -> list[str] | None:
        """Return which of the NAMES of the image IDENTITY the run gave; ``None``: the image is not the run's."""

    @abstractmethod
    def is_reserved(self, name: str) -> bool:
        """Tell whether NAME is one of those that only tell whose an image is."""

    @abstractmethod
    def knows(self, identity: str) -> bool:
        """Tell whether that id was written down, with `add_renamed` or `expose`, and not forgotten."""

    @abstractmethod
    def add_renamed(self, identity: str) -> None:
        """Write down, before it is done, that a container of the run will be called otherwise than it was signed as."""

    @abstractmethod
    def expose(self, identity: str, found: Mapping[str, str]) -> None:
        """Write down, before it is done, that the run can read the labels FOUND of its container from now on.

        They prove nothing any more; the container is known by its id.
        """

    @abstractmethod
    def drop_renamed(self, identity: str) -> None:
        """Forget it: it has gone."""
