"""What may be asked of the engine as a whole."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from moat_plugins.docker_host.images import hide_names, own_images
from moat_plugins.docker_host.items import Listing
from moat_plugins.docker_host.policy.fields import hide_labels
from moat_plugins.docker_host.policy.verdict import Reply, refuse
from moat_plugins.docker_host.scope import BIND_LABEL

if TYPE_CHECKING:
    from moat_plugins.docker_host.policy.call import Call
    from moat_plugins.docker_host.policy.verdict import Forward

_INFO = frozenset(
    [
        "ID",
        "Driver",
        "MemoryLimit",
        "SwapLimit",
        "CpuCfsPeriod",
        "CpuCfsQuota",
        "CPUShares",
        "CPUSet",
        "PidsLimit",
        "OomKillDisable",
        "IPv4Forwarding",
        "SystemTime",
        "LoggingDriver",
        "CgroupDriver",
        "CgroupVersion",
        "KernelVersion",
        "OperatingSystem",
        "OSVersion",
        "OSType",
        "Architecture",
        "IndexServerAddress",
        "NCPU",
        "MemTotal",
        "ServerVersion",
        "ExperimentalBuild",
        "Isolation",
    ]
)
"""What a client needs to know of the machine; not its name, folders, proxies (with passwords), labels and counts."""

_SESSION = ("x-docker-expose-session-uuid", "x-docker-expose-session-name")
_GRPC_METHODS = "x-docker-expose-session-grpc-method"
SHARED_KEY = "x-docker-expose-session-sharedkey"


async def plain(call: Call) -> Forward:
    """Pass it on."""
    return call.forward()


async def plain_with_login(call: Call) -> Forward:
    """Pass it on, with the run's own credentials for a registry."""
    login = call.headers.get("x-registry-auth", "")
    return call.forward(headers=(("x-registry-auth", login),) if login else ())


async def version(call: Call) -> Forward:
    """Tell the engine's version."""
    return call.forward()


async def info(call: Call) -> Forward:
    """Tell of the engine what a client needs."""

    async def scrub(answer: Any) -> Any:
        runtime = call.scope.plan.oci_runtime or answer.get("DefaultRuntime", "")
        return {
            **{key: item for key, item in answer.items() if key in _INFO},
            "Name": call.scope.plan.name,
            "DefaultRuntime": runtime,
            "Runtimes": {runtime: {"path": runtime}},
            "Swarm": {"LocalNodeState": "inactive", "NodeID": "", "NodeAddr": "", "ControlAvailable": False},
            "Plugins": {"Volume": ["local"], "Network": ["bridge", "null"], "Authorization": None, "Log": ["local"]},
            "SecurityOptions": answer.get("SecurityOptions"),
            "RegistryConfig": {"InsecureRegistryCIDRs": None, "IndexConfigs": {}, "Mirrors": None},
            "Warnings": None,
        }

    return call.forward(transform=scrub)


async def no_plugins(call: Call) -> Reply:  # noqa: ARG001 - an endpoint
    """List none: `docker info` and `docker inspect` ask."""
    return Reply(200, [])


async def no_plugin(call: Call) -> Reply:
    """Know of none."""
    return Reply(404, {"message": f'plugin "{call.groups["name"]}" not found'})


async def no_swarm(call: Call) -> Reply:  # noqa: ARG001 - an endpoint
    """Say what an engine without a swarm says: `docker inspect` asks for everything that has the name."""
    return Reply(503, {"message": "This node is not a swarm manager."})


async def own_events(call: Call) -> Forward:
    """Tell what happens to the run's own containers; no event of another kind tells whose it is."""

    def line(data: bytes) -> bytes:
        event = json.loads(data) if data.strip() else {}
        actor = event.get("Actor") or {}
        found = actor.get("Attributes") or {}
        if event.get("Type") != "container":
            return b""
        if not call.engine.is_own_container(str(actor.get("ID", "")), [str(found.get("name", ""))], found):
            return b""
        event["Actor"] = {**actor, "Attributes": hide_labels(found)}
        return json.dumps(event).encode() + b"\n"

    return call.forward(query=call.with_own(), line=line)


async def usage(call: Call) -> Forward:
    """Tell how much space the run's own objects take."""
    engine = call.engine
    images = await own_images(engine)
    size = 0

    def container(item: Any) -> Any:
        is_own = engine.is_own_container(item["Id"], item.get("Names") or (), item.get("Labels"))
        return _without_ours(item) if is_own else None

    def image(item: Any) -> Any:
        nonlocal size
        if item.get("Id") not in images:
            return None
        size += item.get("Size", 0)
        return hide_names(engine, item)

    def volume(item: Any) -> Any:
        labels = item.get("Labels") or {}
        is_own = not labels.get(BIND_LABEL) and engine.guests.is_own("volume", item["Name"], labels)
        return _without_ours(item) if is_own else None

    lists = {"Images": image, "Containers": container, "Volumes": volume}
    return call.forward(listing=Listing(lists, lambda: {"LayersSize": size, "BuildCache": []}))


def _without_ours(item: Any) -> Any:
    return {**item, "Labels": hide_labels(item.get("Labels"))}


async def session(call: Call) -> Forward:
    """Offer files and secrets to a build.

    BuildKit keeps what it was sent under the shared key and asks only for what changed: under somebody else's key a
    client that says "unchanged" would be shown their files.
    """
    if not call.scope.build:
        raise refuse("building", "its owner set docker_host.build: false")
    headers = [(name, call.headers[name]) for name in _SESSION if name in call.headers]
    headers += [(_GRPC_METHODS, method) for method in call.headers.get(_GRPC_METHODS, "").split(", ") if method]
    headers.append((SHARED_KEY, f"{call.scope.run_id}:{call.headers.get(SHARED_KEY, '')}"))
    return call.forward(headers=tuple(headers), upgrade="h2c")


async def grpc(call: Call) -> Forward:
    """Speak to BuildKit itself, through the filter of `moat_plugins.docker_host.grpc`."""
    if not call.scope.build:
        raise refuse("building", "its owner set docker_host.build: false")
    return call.forward(upgrade="h2c", grpc=True)
