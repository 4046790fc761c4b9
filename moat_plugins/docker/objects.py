"""Making and removing the engine's objects so that neither half is ever lost.

Making is shielded: a request that its asker gives up may still be carried out by the engine, and what then appears
would belong to nobody. Removing is idempotent, in every state, and sits out what the engine itself is still doing.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.lowlevel

from moat_core.errors import EngineError, HostError, RuntimeUnavailable
from moat_plugins.docker.labels import NONCE, PROOF

if TYPE_CHECKING:
    from moat_plugins.docker.client import Engine

__all__ = [
    "IsOurs",
    "create_container",
    "create_network",
    "create_volume",
    "remove_container",
    "remove_image",
    "remove_network",
    "remove_shared_network",
    "remove_volume",
    "stop_container",
]

T = TypeVar("T")
_DIFFERS = frozenset({NONCE, PROOF})
"""The labels that each thing has of its own, whatever it is for."""

IsOurs = Callable[[str, Mapping[str, str] | None], bool]
"""From an object's own name and its labels to whether we may remove it."""

_MISSING = 404
_CONFLICT = 409
_BUSY = (403, 409, 500, 503)
_ATTEMPTS = 8
_PAUSE_S = 0.1
_RESTART_S = 4.0
_STOP_S = 5.0
_IN_USE = "active endpoints"
_SUBNET_ATTEMPTS = 16
_POOL = ipaddress.ip_network("10.200.0.0/13")
_POOL_PREFIX = 26


async def create_container(engine: Engine, name: str, config: Mapping[str, Any]) -> str:
    """Create a container and return its id."""
    made = await _uninterrupted(engine.containers.create(name, config))
    engine.made["container", name] = made
    return made


async def create_volume(engine: Engine, name: str, labels: Mapping[str, str], is_ours: IsOurs) -> str:
    """Create a volume, or take the one that is there if it IS_OURS and for the same; return its name.

    Raises:
        EngineError: Somebody else's has that name: the engine answers with it as if it had made it.
    """
    made = await _uninterrupted(engine.volumes.create(name, labels))
    found = made.get("Labels") or {}
    meant = {key: value for key, value in labels.items() if key not in _DIFFERS}
    if not is_ours(name, found) or not meant.items() <= found.items():
        raise EngineError(
            f"A volume '{name}' exists already, and is not ours.",
            status=_CONFLICT,
            hint=f"Look at it with `docker volume inspect {name}`; `docker volume rm {name}` removes it.",
        )
    return name


async def create_network(engine: Engine, name: str, config: Mapping[str, Any]) -> str:
    """Create a network and return its id.

    The engine has some thirty subnets by default, each far larger than a run needs. Once they are used up, a small
    one is chosen here, at random so that two runs do not race for the same; the engine refuses what overlaps.
    """
    try:
        made = await _uninterrupted(engine.networks.create(name, config))
    except EngineError as error:
        if not _is_about(error, "address pool"):
            raise
        made = await _create_small_network(engine, name, config, error)
    engine.made["network", name] = made
    return made


async def _create_small_network(engine: Engine, name: str, config: Mapping[str, Any], exhausted: EngineError) -> str:
    for _ in range(_SUBNET_ATTEMPTS):
        ipam = {"Driver": "default", "Config": [{"Subnet": _random_subnet()}]}
        try:
            return await _uninterrupted(engine.networks.create(name, {**config, "IPAM": ipam}))
        except EngineError as error:
            if not _is_about(error, "overlap"):
                raise
    raise exhausted


def _random_subnet() -> str:
    count = 2 ** (_POOL_PREFIX - _POOL.prefixlen)
    start = int(_POOL.network_address) + secrets.randbelow(count) * 2 ** (32 - _POOL_PREFIX)
    return f"{ipaddress.ip_address(start)}/{_POOL_PREFIX}"


async def stop_container(engine: Engine, name: str) -> bool:
    """Kill a container that still runs; return whether it stands still now."""
    with suppress(EngineError, RuntimeUnavailable), anyio.move_on_after(_STOP_S):
        if (await engine.containers.inspect(name))["State"]["Running"]:
            await engine.containers.stop(name, 0)
            return not (await engine.containers.inspect(name))["State"]["Running"]
        return True
    return False


async def remove_container(engine: Engine, name: str, is_ours: IsOurs) -> bool:
    """Kill and remove a container if it IS_OURS, by its id: a name may become another's. Return whether there was one.

    Args:
        name: Or its id.
    """

    async def remove() -> bool:
        target = engine.made.get(("container", name), "")
        try:
            if not target:
                found = await engine.containers.inspect(name)
                if not is_ours(str(found["Name"]).removeprefix("/"), found["Config"].get("Labels")):
                    return False
                target = str(found["Id"])
            await engine.containers.remove(target)
        except EngineError as error:
            if error.status == _MISSING:
                return False
            if error.status != _CONFLICT:
                raise
            # "removal of container … is already in progress": somebody else's, and it counts as ours.
            with suppress(EngineError):
                await engine.containers.wait_removed(target)
            raise
        return True

    removed = await _insist(remove)
    engine.made.pop(("container", name), None)
    return removed


async def remove_network(engine: Engine, name: str, is_ours: IsOurs) -> bool:
    """Remove a network with all its connections if it IS_OURS; return whether there was one.

    Args:
        name: Or its id.
    """

    async def remove() -> bool:
        target = engine.made.get(("network", name), "")
        try:
            if not target:
                found = await engine.networks.inspect(name)
                if not is_ours(str(found["Name"]), found.get("Labels")):
                    return False
                target = str(found["Id"])
            await engine.networks.remove(target)
        except EngineError as error:
            if error.status == _MISSING:
                return False
            if _is_about(error, _IN_USE):
                await _disconnect_all(engine, target)
            raise
        return True

    removed = await _insist(remove)
    engine.made.pop(("network", name), None)
    return removed


async def remove_shared_network(engine: Engine, name: str) -> bool:
    """Remove a network unless something is on it; return whether it was removed. Nothing is ever disconnected."""
    try:
        await engine.networks.remove(name)
    except EngineError as error:
        if error.status == _MISSING or _is_about(error, _IN_USE):
            return False
        raise
    return True


async def _disconnect_all(engine: Engine, name: str) -> None:
    with suppress(EngineError):
        for container in (await engine.networks.inspect(name)).get("Containers") or {}:
            with suppress(EngineError):
                await engine.networks.disconnect(name, container)


async def remove_volume(engine: Engine, name: str, is_ours: IsOurs) -> bool:
    """Remove a volume if it IS_OURS; return whether there was one.

    One that a container holds is tried again for a while.
    """

    async def remove() -> bool:
        try:
            found = await engine.volumes.inspect(name)  # a forced removal of a missing volume would answer 204, too
            if not is_ours(name, found.get("Labels")):
                return False
            await engine.volumes.remove(name)
        except EngineError as error:
            if error.status == _MISSING:
                return False
            raise
        return True

    return await _insist(remove)


async def remove_image(engine: Engine, reference: str, identity: str = "") -> bool:
    """Remove an image; return whether there was one.

    Args:
        identity: The name is taken away only if it is still that image's; ``""``: whosever it is.
    """
    try:
        if identity and (await engine.images.inspect(reference)).get("Id") != identity:
            return False
        await engine.images.remove(reference)
    except HostError as error:
        if error.details.get("status") == _MISSING:
            return False
        raise
    return True


async def _uninterrupted(work: Awaitable[T]) -> T:
    with anyio.CancelScope(shield=True):  # the call has its own deadline
        value = await work
    await anyio.lowlevel.checkpoint_if_cancelled()
    return value


async def _insist(remove: Callable[[], Awaitable[bool]]) -> bool:
    """Try again while the engine is busy with the thing (409, 403, 5xx), and for some seconds if it restarts."""
    found = False
    deadline = anyio.current_time() + _RESTART_S
    for attempt in range(_ATTEMPTS):
        try:
            return await remove() or found
        except RuntimeUnavailable:
            if anyio.current_time() > deadline:
                raise
        except EngineError as error:
            found = True
            if error.status not in _BUSY or attempt == _ATTEMPTS - 1:
                raise
        await anyio.sleep(_PAUSE_S * 2 ** min(attempt, 4))
    return found


def _is_about(error: EngineError, words: str) -> bool:
    return words in str(error.details.get("engine_message", "")).lower()
