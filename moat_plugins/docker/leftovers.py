"""The sweep: what carries our labels, in every state, and has nobody any more.

Only what belongs to this MOAT_HOME is touched: one engine may serve several, and the locks of the others' runs are
not ours to see.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from moat_core.errors import RuntimeUnavailable
from moat_core.types import Leftover
from moat_plugins.docker import labels
from moat_plugins.docker.network import SHARED
from moat_plugins.docker.resources import DockerContainer, DockerImage, DockerNetwork, DockerVolume
from moat_plugins.docker.runtime import DockerRuntime

if TYPE_CHECKING:
    from moat_core.ledger import Upkeep
    from moat_plugins.docker.client import Engine

__all__ = ["find_leftovers"]

Found = tuple[str, Callable[[str, str], Any], Mapping[str, Any], str]
"""Kind, resource class, what the engine says of it, name."""


async def find_leftovers(upkeep: Upkeep) -> list[Leftover]:
    """Find what `moat_find_leftovers` asks for, on every engine that runs of ours were made at.

    Containers come before networks and volumes, which they hold.
    """
    leftovers: list[Leftover] = []
    for address in _addresses(upkeep):
        try:
            runtime = await upkeep.connection(DockerRuntime, address)
        except RuntimeUnavailable:
            if not upkeep.automatic and address:
                raise
            continue  # no engine, nothing left on it that could be removed
        leftovers += await _of_runs(runtime, upkeep)
        if not upkeep.automatic:
            leftovers += await _shared(runtime)
    return leftovers


def _addresses(upkeep: Upkeep) -> list[str]:
    known = [address for runtime, address in upkeep.addresses() if runtime == "docker"]
    return list(dict.fromkeys(known)) or [""]


async def _of_runs(runtime: DockerRuntime, upkeep: Upkeep) -> list[Leftover]:
    leftovers = []
    home = labels.make_home(upkeep.store.home.locks)
    async for kind, resource, item, name in _labelled(runtime.engine):
        marks = item.get("Labels") or {}
        run_id = str(marks.get(labels.RUN_ID, ""))
        if marks.get(labels.HOME) != home or upkeep.is_live(run_id) or upkeep.is_known(run_id):
            continue
        kept = marks.get(labels.KEEP) == "true"
        leftovers.append(
            Leftover(
                kind=kind,
                name=name,
                reason="It was kept on request." if kept else "Its run is over and nobody remembers it.",
                resource=resource(runtime.address, name),
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


async def _shared(runtime: DockerRuntime) -> list[Leftover]:
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
    return leftovers + [
        Leftover(
            kind="network",
            name=SHARED,
            reason="No container is on it; it is made again when it is needed.",
            resource=DockerNetwork(runtime.address, SHARED),
            created=_created(item),
        )
        for item in networks
        if item["Name"] == SHARED and not (await engine.networks.inspect(item["Id"])).get("Containers")
    ]


def _created(item: Mapping[str, Any]) -> datetime | None:
    made = item.get("Created") or item.get("CreatedAt")
    try:
        if isinstance(made, int):
            return datetime.fromtimestamp(made, UTC)
        return datetime.fromisoformat(str(made)[:19]).replace(tzinfo=UTC) if made else None
    except ValueError:
        return None
