"""The sweep: what is ours, in every state, and has nobody any more. Labels find it, and its proof says that it is ours.

Only what belongs to this MOAT_HOME is touched: one engine may serve several, and the locks of the others' runs are
not ours to see.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio

from moat_core.errors import HostError, RuntimeUnavailable
from moat_core.types import Leftover, Problem
from moat_plugins.docker import built, labels, network
from moat_plugins.docker.guests import REPOSITORY, DockerGuestBook, read_renamed
from moat_plugins.docker.resources import (
    DockerCache,
    DockerContainer,
    DockerGuests,
    DockerImage,
    DockerNetwork,
    DockerSharedNetwork,
    DockerVolume,
)
from moat_plugins.docker.runtime import DockerRuntime

if TYPE_CHECKING:
    from moat_core.ledger import Upkeep
    from moat_plugins.docker.client import Engine

__all__ = ["find_leftovers"]

_CONNECT_S = 3.0
_LOOK_S = 15.0

Found = tuple[str, Callable[..., Any], Mapping[str, Any], str]
"""Kind, resource class, what the engine says of it, name."""


async def find_leftovers(upkeep: Upkeep) -> list[Leftover]:
    """Find what `moat_find_leftovers` asks for: on the default engine, and where there may be something of ours.

    All are asked at once. One that does not answer is reported, and hides nothing of the others.
    """
    remembered = {address for runtime, address in upkeep.addresses() if runtime == "docker"}
    addresses = sorted(remembered | set(_default_address()))
    found: dict[str, list[Leftover]] = {}

    async def look(address: str) -> None:
        try:
            found[address] = await _look(upkeep, address)
        except (HostError, TimeoutError) as error:
            # The reaper stumbles over its rows there anyway; where nothing is remembered and nothing is, nothing is
            # missed. An engine that is only silent may have anything.
            is_silent = isinstance(error, TimeoutError)
            if not upkeep.automatic and (address in remembered or is_silent):
                upkeep.report(_problem(address, error))

    async with anyio.create_task_group() as group:
        for address in addresses:
            group.start_soon(look, address)
    return [leftover for address in addresses for leftover in found.get(address, ())]


def _default_address() -> list[str]:
    try:
        return [DockerRuntime.find_address()]
    except RuntimeUnavailable:
        return []


async def _look(upkeep: Upkeep, address: str) -> list[Leftover]:
    """Containers come before networks and volumes, which they hold."""
    with anyio.fail_after(_CONNECT_S):
        runtime = await upkeep.connection(DockerRuntime, address)
    with anyio.fail_after(_LOOK_S):
        leftovers = await _of_runs(runtime, upkeep)
        return leftovers if upkeep.automatic else leftovers + await _shared(runtime, upkeep.owner)


def _problem(address: str, error: Exception) -> Problem:
    if isinstance(error, HostError):
        return Problem(error.message, error.hint, address)
    return Problem(
        f"What is left at the Docker engine at {address} is unknown: it did not answer in {_LOOK_S:.0f} s.",
        "Is it well? `moat doctor`.",
        address,
    )


async def _of_runs(runtime: DockerRuntime, upkeep: Upkeep) -> list[Leftover]:
    leftovers = []
    async for kind, resource, item, name in _labelled(runtime.engine):
        marks = item.get("Labels") or {}
        run_id = str(marks.get(labels.RUN_ID, ""))
        if marks.get(labels.OWNER) != upkeep.owner:
            continue
        if not labels.is_ours(runtime.proof, kind, name, marks) and item.get("Id") not in read_renamed(
            runtime.home, run_id
        ):
            continue
        if upkeep.is_live(run_id) or upkeep.is_known(run_id):
            continue
        is_guest = marks.get(labels.ROLE) == labels.GUEST
        kept = marks.get(labels.KEEP) == "true"
        leftovers.append(
            Leftover(
                kind=kind,
                name=name,
                reason="It was kept on request." if kept else "Its run is over and nobody remembers it.",
                resource=DockerGuests(runtime.address, _guest_marks(run_id, upkeep.owner))
                if is_guest
                else resource(runtime.address, name, owner=upkeep.owner),
                run_id=run_id,
                automatic=not kept,
                created=_created(item),
            )
        )
    return leftovers + await _images_of_runs(runtime, upkeep)


def _guest_marks(run_id: str, owner: str) -> dict[str, str]:
    """Return by what all is found that a run made for itself."""
    return {labels.RUN_ID: run_id, labels.ROLE: labels.GUEST, labels.OWNER: owner}


async def _images_of_runs(runtime: DockerRuntime, upkeep: Upkeep) -> list[Leftover]:
    """Find the images that runs made for themselves: by the repository that each run has for them."""
    begin = f"{REPOSITORY}{upkeep.owner}-"
    images: dict[str, Mapping[str, Any]] = {}
    for item in await runtime.engine.images.list_named(f"{begin}*"):
        names = item.get("RepoTags") or ()
        for run_id in {name.removeprefix(begin).rpartition(":")[0] for name in names}:
            book = DockerGuestBook(runtime.proof, _guest_marks(run_id, upkeep.owner))
            if book.own_names(item["Id"], names) is not None:
                images[run_id] = item
    return [
        Leftover(
            kind="image",
            name=f"{begin}{run_id}",
            reason="Its run is over and nobody remembers it.",
            resource=DockerGuests(runtime.address, _guest_marks(run_id, upkeep.owner)),
            run_id=run_id,
            automatic=True,
            created=_created(item),
        )
        for run_id, item in images.items()
        if not upkeep.is_live(run_id) and not upkeep.is_known(run_id)
    ]


async def _labelled(engine: Engine) -> AsyncIterator[Found]:
    for item in await engine.containers.list_labelled(labels.RUN_ID):
        # Links give a container further names, with the name of the other before a second slash.
        names = [name.removeprefix("/") for name in item["Names"] or ()]
        own = [name for name in names if "/" not in name]
        yield "container", DockerContainer, item, own[0] if own else item["Id"]
    for item in await engine.networks.list_labelled(labels.RUN_ID):
        yield "network", DockerNetwork, item, item["Name"]
    for item in await engine.volumes.list_labelled(labels.RUN_ID):
        yield "volume", DockerVolume, item, item["Name"]


async def _shared(runtime: DockerRuntime, owner: str) -> list[Leftover]:
    """Find what several runs share and none uses now: only `moat clean` removes that, after asking."""
    engine = runtime.engine
    used = {item["ImageID"] for item in await engine.containers.list_labelled()}
    known = built.read_all(runtime.home, runtime.address)
    leftovers = [
        Leftover(
            kind="image",
            name=name,
            reason="No container uses it; it is built again when it is needed.",
            resource=DockerImage(runtime.address, name, item["Id"]),
            created=_created(item),
            size_bytes=int(item.get("Size", 0)),
        )
        for item in (await engine.images.list_labelled() if known else ())
        if item["Id"] in known and item["Id"] not in used
        for name in _names_of(item, known[item["Id"]])
    ]
    networks = await engine.networks.list_labelled(f"{labels.SHARED}=true")
    return (
        leftovers
        + await _caches(runtime, owner)
        + [
            Leftover(
                kind="network",
                name=network.SHARED,
                reason="No container is on it; it is made again when it is needed.",
                resource=DockerSharedNetwork(runtime.address, network.SHARED),
                created=_created(item),
            )
            for item in networks
            if item["Name"] == network.SHARED and not (await engine.networks.inspect(item["Id"])).get("Containers")
        ]
    )


def _names_of(item: Mapping[str, Any], ours: str) -> list[str]:
    """Return what of an image is ours to remove: the name that we gave, or all of it once it has none."""
    names = item.get("RepoTags") or []
    return [ours] if ours in names else [item["Id"]] if not names else []


async def _caches(runtime: DockerRuntime, owner: str) -> list[Leftover]:
    """Find the volumes that are kept for agents, and that no container has mounted."""
    containers = await runtime.engine.containers.list_labelled()
    used = {mount.get("Name") for item in containers for mount in item.get("Mounts") or ()}
    return [
        Leftover(
            kind="volume",
            name=item["Name"],
            reason=f"The cache of '{item['Labels'].get(labels.NAME)}' in {item['Labels'].get(labels.WORKSPACE)}, "
            "which no run uses now.",
            resource=DockerCache(runtime.address, item["Name"], owner),
            created=_created(item),
        )
        for item in await runtime.engine.volumes.list_labelled(labels.CACHE, f"{labels.OWNER}={owner}")
        if item["Name"] not in used and labels.is_ours(runtime.proof, "volume", item["Name"], item["Labels"])
    ]


def _created(item: Mapping[str, Any]) -> datetime | None:
    made = item.get("Created") or item.get("CreatedAt")
    try:
        if isinstance(made, int):
            return datetime.fromtimestamp(made, UTC)
        return datetime.fromisoformat(str(made)[:19]).replace(tzinfo=UTC) if made else None
    except ValueError:
        return None
