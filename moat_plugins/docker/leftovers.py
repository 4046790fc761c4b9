"""The sweep: what carries our labels, in every state, and has nobody any more.

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
from moat_plugins.docker import labels, network
from moat_plugins.docker.resources import (
    DockerCache,
    DockerContainer,
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
        if marks.get(labels.OWNER) != upkeep.owner or upkeep.is_live(run_id) or upkeep.is_known(run_id):
            continue
        kept = marks.get(labels.KEEP) == "true"
        leftovers.append(
            Leftover(
                kind=kind,
                name=name,
                reason="It was kept on request." if kept else "Its run is over and nobody remembers it.",
                resource=resource(runtime.address, name, owner=upkeep.owner),
                run_id=run_id,
                automatic=not kept,
                created=_created(item),
            )
        )
    return leftovers


async def _labelled(engine: Engine) -> AsyncIterator[Found]:
    for item in await engine.containers.list_labelled(labels.RUN_ID):
        yield (
            "container",
            DockerContainer,
            item,
            str(item["Names"][0]).removeprefix("/") if item["Names"] else item["Id"],
        )
    for item in await engine.networks.list_labelled(labels.RUN_ID):
        yield "network", DockerNetwork, item, item["Name"]
    for item in await engine.volumes.list_labelled(labels.RUN_ID):
        yield "volume", DockerVolume, item, item["Name"]


async def _shared(runtime: DockerRuntime, owner: str) -> list[Leftover]:
    """Find what several runs share and none uses now: only `moat clean` removes that, after asking."""
    engine = runtime.engine
    used = {item["ImageID"] for item in await engine.containers.list_labelled()}
    leftovers = [
        Leftover(
            kind="image",
            name=tag,
            reason="No container uses it; it is built again when it is needed.",
            resource=DockerImage(runtime.address, tag),
            created=_created(item),
            size_bytes=int(item.get("Size", 0)),
        )
        for item in await engine.images.list_labelled(f"{labels.IMAGE}=true")
        if item["Id"] not in used
        for tag in item.get("RepoTags") or [item["Id"]]
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


async def _caches(runtime: DockerRuntime, owner: str) -> list[Leftover]:
    """Find the volumes that are kept for agents, and that no container has mounted."""
    containers = await runtime.engine.containers.list_labelled()
    used = {mount.get("Name") for item in containers for mount in item.get("Mounts") or ()}
    return [
        Leftover(
            kind="volume",
            name=item["Name"],
            reason=f"The cache of '{item['Labels'][labels.CACHE]}', which no run uses now.",
            resource=DockerCache(runtime.address, item["Name"], owner),
            created=_created(item),
        )
        for item in await runtime.engine.volumes.list_labelled(labels.CACHE, f"{labels.OWNER}={owner}")
        if item["Name"] not in used
    ]


def _created(item: Mapping[str, Any]) -> datetime | None:
    made = item.get("Created") or item.get("CreatedAt")
    try:
        if isinstance(made, int):
            return datetime.fromtimestamp(made, UTC)
        return datetime.fromisoformat(str(made)[:19]).replace(tzinfo=UTC) if made else None
    except ValueError:
        return None
