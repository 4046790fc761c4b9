"""What connects a run's containers: a shared bridge on which runs cannot see each other, or a segment of its own.

The shared one saves each run the 20 ms and the subnet that a network costs. On it the engine drops whatever goes from
one container to another (``enable_icc=false``: an iptables rule for traffic that stays on the bridge); only ARP answers
pass. A run that may forge packets does not get on it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from moat_core.errors import EngineError
from moat_core.runtime.facets import RunNetwork
from moat_plugins.docker import labels
from moat_plugins.docker.filelock import hold_lock
from moat_plugins.docker.resources import DockerNetwork
from moat_plugins.docker.runtime import connect_run

if TYPE_CHECKING:
    from pathlib import Path

    from moat_core.lifecycle import Run
    from moat_core.plan import Plan
    from moat_plugins.docker.client import Engine

__all__ = ["SHARED", "ensure_shared", "make_shared", "open_network"]

SHARED = "moat"
"""Name of the shared bridge network."""

_ICC = "com.docker.network.bridge.enable_icc"
_SHARED_CONFIG: dict[str, Any] = {
    "Driver": "bridge",
    "EnableIPv6": False,  # its filter would be another one, and hosts without ip6tables are common
    "Options": {_ICC: "false"},
    "Labels": {labels.SHARED: "true"},
}
_FORGERS = frozenset({"ALL", "NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_MODULE", "SYS_PTRACE"})
_LOCK_S = 60.0


@asynccontextmanager
async def open_network(run: Run) -> AsyncIterator[None]:
    """Provide the run's `RunNetwork`; one of its own is undone by the ledger."""
    if run.plan.network == "none":
        run.provide(RunNetwork("none"))
    elif needs_own_network(run.plan):
        runtime = await connect_run(run)
        name = f"moat-{run.id}"
        config = {"Driver": "bridge", "EnableIPv6": False, "Labels": {**run.labels, labels.ROLE: "network"}}
        await run.acquire(DockerNetwork(runtime.address, name, config, timeout_s=runtime.engine.timeout_s))
        run.provide(_describe(name, await runtime.engine.networks.inspect(name)))
    else:
        runtime = await connect_run(run)
        await ensure_shared(runtime.engine, run.locks)
        run.provide(RunNetwork(SHARED, shared=True))
    yield


def _describe(name: str, found: Mapping[str, Any]) -> RunNetwork:
    pools = (found.get("IPAM") or {}).get("Config") or [{}]
    return RunNetwork(name, gateway=str(pools[0].get("Gateway", "")), subnet=str(pools[0].get("Subnet", "")))


def needs_own_network(plan: Plan) -> bool:
    """Tell whether a run must not share a segment: several containers of it meet there, or it could forge packets."""
    return plan.own_network or bool(plan.privileged) or not _FORGERS.isdisjoint(plan.capabilities)


async def ensure_shared(engine: Engine, locks: Path, *, again: bool = False) -> None:
    """Make sure that the shared network is there and does isolate; asked once a process.

    Args:
        again: It was there and has gone: look again.

    Raises:
        EngineError: A network of that name exists that does not isolate.
    """
    if again:
        engine.ready_networks.discard(SHARED)
    if SHARED in engine.ready_networks:
        return
    if not await _is_there(engine):
        async with hold_lock(locks, f"network {SHARED}", _LOCK_S):
            if not await _is_there(engine):
                await make_shared(engine)
    engine.ready_networks.add(SHARED)


async def make_shared(engine: Engine) -> None:
    """Make the shared network; that it is there already is fine."""
    try:
        await engine.networks.create(SHARED, _SHARED_CONFIG)
    except EngineError as error:
        # Somebody with another MOAT_HOME, and so with another lock, was quicker.
        if error.status != 409 or not await _is_there(engine):  # noqa: PLR2004 - HTTP
            raise


async def _is_there(engine: Engine) -> bool:
    try:
        found = await engine.networks.inspect(SHARED)
    except EngineError as error:
        if error.status == 404:  # noqa: PLR2004 - HTTP
            return False
        raise
    if (found.get("Options") or {}).get(_ICC) != "false" or found.get("EnableIPv6"):
        raise EngineError(
            f"The engine's network '{SHARED}' lets containers see each other; it is not one that moat made.",
            hint=f"Rename or remove it: `docker network rm {SHARED}`.",
        )
    return True
