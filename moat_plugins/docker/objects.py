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

if TYPE_CHECKING:
    from moat_plugins.docker.client import Engine

__all__ = [
    "create_container",
    "create_network",
    "create_volume",
    "remove_container",
    "remove_image",
    "remove_network",
    "remove_volume",
]

T = TypeVar("T")

_MISSING = 404
_CONFLICT = 409
_BUSY = (403, 409, 500, 503)
_ATTEMPTS = 8
_PAUSE_S = 0.1
_RESTART_S = 4.0
_SUBNET_ATTEMPTS = 16
_POOL = ipaddress.ip_network("10.200.0.0/13")
_POOL_PREFIX = 26


async def create_container(engine: Engine, name: str, config: Mapping[str, Any]) -> str:
    """Create a container and return its id."""
    return await _uninterrupted(engine.containers.create(name, config))


async def create_volume(engine: Engine, name: str, labels: Mapping[str, str]) -> str:
    """Create a volume and return its name."""
    await _uninterrupted(engine.volumes.create(name, labels))
    return name


async def create_network(engine: Engine, name: str, config: Mapping[str, Any]) -> str:
    """Create a network and return its id.

    The engine has some thirty subnets by default, each far larger than a run needs. Once they are used up, a small
    one is chosen here, at random so that two runs do not race for the same; the engine refuses what overlaps.
    """
    try:
        return await _uninterrupted(engine.networks.create(name, config))
    except EngineError as error:
        if not _is_about(error, "address pool"):
            raise
        exhausted = error
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


async def remove_container(engine: Engine, name: str) -> bool:
    """Kill and remove a container; return whether there was one."""

    async def remove() -> bool:
        try:
            await engine.containers.remove(name)
        except EngineError as error:
            if error.status == _MISSING:
                return False
            if error.status != _CONFLICT:
                raise
            # "removal of container … is already in progress": somebody else's, and it counts as ours.
            with suppress(EngineError):
                await engine.containers.wait_removed(name)
            raise
        return True

    return await _insist(remove)


async def remove_network(engine: Engine, name: str) -> bool:
    """Disconnect everything from a network and remove it; return whether there was one."""

    async def remove() -> bool:
        try:
            await engine.networks.remove(name)
        except EngineError as error:
            if error.status == _MISSING:
                return False
            if _is_about(error, "active endpoints"):
                await _disconnect_all(engine, name)
            raise
        return True

    return await _insist(remove)


async def _disconnect_all(engine: Engine, name: str) -> None:
    with suppress(EngineError):
        for container in (await engine.networks.inspect(name)).get("Containers") or {}:
            with suppress(EngineError):
                await engine.networks.disconnect(name, container)


async def remove_volume(engine: Engine, name: str) -> bool:
    """Remove a volume; return whether there was one. One that a container holds is tried again for a while."""

    async def remove() -> bool:
        try:
            await engine.volumes.inspect(name)  # a forced removal of a missing volume would answer 204
            await engine.volumes.remove(name)
        except EngineError as error:
            if error.status == _MISSING:
                return False
            raise
        return True

    return await _insist(remove)


async def remove_image(engine: Engine, reference: str) -> bool:
    """Remove an image; return whether there was one."""
    try:
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
