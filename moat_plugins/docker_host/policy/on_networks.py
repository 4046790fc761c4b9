"""What may be asked of networks and volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moat_plugins.docker_host.items import Listing
from moat_plugins.docker_host.policy.networks import check_connect, check_disconnect, check_network, check_volume
from moat_plugins.docker_host.policy.references import check_endpoint
from moat_plugins.docker_host.policy.verdict import Refused, missing
from moat_plugins.docker_host.scope import BIND_LABEL

if TYPE_CHECKING:
    from moat_plugins.docker_host.policy.call import Call
    from moat_plugins.docker_host.policy.verdict import Forward, Reply

_NOT_OURS = {"label!": [f"{BIND_LABEL}=true"]}


async def own_networks(call: Call) -> Forward:
    """List the run's own networks."""
    return call.forward(query=call.with_own())


async def create_network(call: Call) -> Forward:
    """Make a network."""
    return call.forward(json_body=check_network(await call.json(), call.scope))


async def prune_networks(call: Call) -> Forward:
    """Remove the run's own unused networks."""
    return call.forward(query=call.with_own())


async def inspect_network(call: Call) -> Forward:
    """Look at the run's own network, or at the one that it is on."""
    name = call.groups["name"]
    known = call.scope.network if name in {"bridge", "default"} else name
    return call.forward(f"/networks/{await call.engine.own_network(known, use=True)}")


async def delete_network(call: Call) -> Forward:
    """Remove the run's own network."""
    return call.forward(f"/networks/{await call.engine.own_network(call.groups['name'])}")


async def connect(call: Call) -> Forward:
    """Put the run's own container on the run's own network."""
    name, end = check_connect(await call.json())
    body = {
        "Container": await call.engine.own_container(name),
        "EndpointConfig": await check_endpoint(end, call.engine),
    }
    network = await call.engine.own_network(call.groups["name"], use=True)
    return call.forward(f"/networks/{network}/connect", json_body=body, on_success=call.engine.refresh_names)


async def disconnect(call: Call) -> Forward:
    """Take the run's own container off a network."""
    name, force = check_disconnect(await call.json())
    network = await call.engine.own_network(call.groups["name"], use=True)
    body = {"Container": await call.engine.own_container(name), "Force": force}
    return call.forward(f"/networks/{network}/disconnect", json_body=body)


async def own_volumes(call: Call) -> Forward:
    """List the run's own volumes; those by which folders are bound are the guard's."""

    def keep(item: Any) -> Any:
        return None if (item.get("Labels") or {}).get(BIND_LABEL) else item

    return call.forward(query=call.with_own(), listing=Listing({"Volumes": keep}, lambda: {"Warnings": None}))


async def create_volume(call: Call) -> Forward | Reply:
    """Make a volume; the engine would give one of that name, whoever's it is."""
    body = check_volume(await call.json(), call.scope)
    if body.get("Name"):
        own = await call.engine.find_volume(body["Name"])
        if own is False:
            raise Refused(f"moat: the volume name {body['Name']} is taken by something outside this run.", status=409)

    async def look(answer: Any) -> Any:
        if not call.scope.is_own(answer.get("Labels")):
            raise Refused("moat: the volume's name is taken by something outside this run.", status=409)
        return answer

    return call.forward(json_body=body, transform=look)


async def prune_volumes(call: Call) -> Forward:
    """Remove the run's own unused volumes."""
    return call.forward(query=call.with_own(extra=_NOT_OURS))


async def on_volume(call: Call) -> Forward:
    """Look at, or remove, the run's own volume."""
    name = call.groups["name"]
    if not await call.engine.find_volume(name) or name.startswith("moat-"):
        raise missing("volume", name)
    return call.forward()
