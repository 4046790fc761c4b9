"""What may be asked of networks and volumes."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

from moat_plugins.docker_host.items import Listing
from moat_plugins.docker_host.policy.fields import hide_labels
from moat_plugins.docker_host.policy.networks import check_connect, check_disconnect, check_network, check_volume
from moat_plugins.docker_host.policy.references import check_endpoint
from moat_plugins.docker_host.policy.verdict import Refused, Reply, missing
from moat_plugins.docker_host.scope import BIND_LABEL

if TYPE_CHECKING:
    from moat_plugins.docker_host.policy.call import Call
    from moat_plugins.docker_host.policy.verdict import Forward

_GONE = 204


async def own_networks(call: Call) -> Forward:
    """List the run's own networks."""
    is_own = call.engine.guests.is_own

    def keep(item: Any) -> Any:
        return _without_ours(item) if is_own("network", item["Name"], item.get("Labels")) else None

    return call.forward(query=call.with_own(), listing=Listing({"": keep}))


async def create_network(call: Call) -> Forward:
    """Make a network."""
    body = check_network(await call.json(), call.scope)
    body["Labels"] = call.engine.guests.sign("network", body["Name"], body["Labels"])
    return call.forward(json_body=body)


async def prune_networks(call: Call) -> Reply:
    """Remove the run's own unused networks, one by one: labels alone do not tell them."""

    def own(item: Any) -> Any:
        is_own = call.engine.guests.is_own("network", item["Name"], item.get("Labels"))
        return (item["Id"], item["Name"]) if is_own else None

    removed = []
    query = call.with_own(extra={"dangling": ["true"]})
    for identity, name in await call.engine.list_items("/networks", query, own):
        status, _ = await call.engine.ask("DELETE", f"/networks/{identity}")
        removed += [name] if status == _GONE else []
    return Reply(200, {"NetworksDeleted": removed})


def _without_ours(item: Any) -> Any:
    return {**item, "Labels": hide_labels(item.get("Labels"))}


async def inspect_network(call: Call) -> Forward:
    """Look at the run's own network, or at the one that it is on."""
    name = call.groups["name"]
    known = call.scope.network if name in {"bridge", "default"} else name
    path = f"/networks/{await call.engine.own_network(known, use=True)}"

    async def without_ours(answer: Any) -> Any:
        return _without_ours(answer)

    return call.forward(path, transform=without_ours)


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
        return _without_ours(item) if _is_shown(item, call) else None

    return call.forward(query=call.with_own(), listing=Listing({"Volumes": keep}, lambda: {"Warnings": None}))


async def create_volume(call: Call) -> Forward | Reply:
    """Make a volume; the engine would give one of that name, whoever's it is."""
    body = check_volume(await call.json(), call.scope)
    if not body.get("Name"):
        body["Name"] = secrets.token_hex(32)  # as the engine would, but its proof is over it
    else:
        own = await call.engine.find_volume(body["Name"])
        if own is False:
            raise Refused(f"moat: the volume name {body['Name']} is taken by something outside this run.", status=409)

    body["Labels"] = call.engine.guests.sign("volume", body["Name"], body["Labels"])

    async def look(answer: Any) -> Any:
        if not call.engine.guests.is_own("volume", answer["Name"], answer.get("Labels")):
            raise Refused("moat: the volume's name is taken by something outside this run.", status=409)
        return _without_ours(answer)

    return call.forward(json_body=body, transform=look)


def _is_shown(item: Any, call: Call) -> bool:
    labels = item.get("Labels") or {}
    return not labels.get(BIND_LABEL) and call.engine.guests.is_own("volume", item["Name"], labels)


async def prune_volumes(call: Call) -> Reply:
    """Remove the run's own unused volumes, one by one: labels alone do not tell them."""
    call.pairs = tuple((key, value) for key, value in call.pairs if key == "filters")
    filters = {key: values for key, values in call.filters().items() if key != "all"}
    call.pairs = (("filters", json.dumps({**filters, "dangling": ["true"]})),)

    def own(item: Any) -> Any:
        return item["Name"] if _is_shown(item, call) else None

    removed = []
    for name in await call.engine.list_items("/volumes", call.with_own(), own, name="Volumes"):
        status, _ = await call.engine.ask("DELETE", f"/volumes/{name}")
        removed += [name] if status == _GONE else []
    return Reply(200, {"VolumesDeleted": removed, "SpaceReclaimed": 0})


async def on_volume(call: Call) -> Forward:
    """Look at, or remove, the run's own volume."""
    name = call.groups["name"]
    if not await call.engine.find_volume(name) or name.startswith("moat-"):
        raise missing("volume", name)
    if call.method == "DELETE":
        return call.forward()

    async def without_ours(answer: Any) -> Any:
        return _without_ours(answer)

    return call.forward(transform=without_ours)
