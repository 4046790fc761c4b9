"""What may be asked of containers and execs."""

from __future__ import annotations

import json
import re
import secrets
from typing import TYPE_CHECKING, Any

from moat_core.plan import random_name
from moat_plugins.docker_host.items import Listing
from moat_plugins.docker_host.policy.containers import check_create
from moat_plugins.docker_host.policy.execs import check_exec, check_exec_start
from moat_plugins.docker_host.policy.fields import check_name, hide_labels
from moat_plugins.docker_host.policy.limits import check_update
from moat_plugins.docker_host.policy.references import resolve_create
from moat_plugins.docker_host.policy.verdict import Refused, Reply, missing, refuse

if TYPE_CHECKING:
    from moat_plugins.docker_host.policy.call import Call
    from moat_plugins.docker_host.policy.verdict import Forward

_DELETED, _MISSING = 204, 404
_PS_WORDS = re.compile(r"[A-Za-z0-9 ,=_+:-]{0,200}")
_HOSTS_PROCESSES = frozenset({None, "", "runc", "crun"})
"""OCI runtimes whose processes are the engine machine's own, with its numbers."""


async def own_list(call: Call) -> Forward:
    """List the run's own."""

    def keep(item: Any) -> Any:
        is_own = call.engine.is_own_container(item["Id"], item.get("Names") or (), item.get("Labels"))
        return {**item, "Labels": hide_labels(item.get("Labels"))} if is_own else None

    await call.resolve_ends(call.engine.own_container)
    return call.forward(query=call.with_own(), listing=Listing({"": keep}))


async def inspect(call: Call) -> Forward:
    """Look at the run's own container."""

    async def without_ours(answer: Any) -> Any:
        config = answer.get("Config") or {}
        return {**answer, "Config": {**config, "Labels": hide_labels(config.get("Labels"))}}

    return call.forward(await _own_path(call), transform=without_ours)


async def on_own(call: Call) -> Forward:
    """Do it to the run's own container, by its id: a name could become another's in between."""
    return call.forward(await _own_path(call))


async def on_names(call: Call) -> Forward:
    """Do it, and let the guests know who is where: itself when it begins, the others once it has an address."""
    await call.engine.refresh_names()
    return call.forward(await _own_path(call), on_success=call.engine.refresh_names)


async def _own_path(call: Call) -> str:
    identity = await call.engine.own_container(call.groups["name"])
    rest = call.path.removeprefix(f"/containers/{call.groups['name']}")
    return f"/containers/{identity}{rest}"


async def create(call: Call) -> Reply:
    """Make a container, with what the run forces on it.

    It always has a name, which its proof is over. The engine's answer is waited for whether or not the client stays:
    what is made is known by its id.
    """
    config = await _resolve(check_create(await call.json(), call.scope), call)
    if call.engine.names is not None:
        call.engine.names.add_to(config)
    asked = call.query.get("name", "")
    name = check_name(asked, "a container") if asked else _make_name()
    config["Labels"] = call.engine.guests.sign("container", name, config["Labels"])
    query = (("name", name), *(pair for pair in call.pairs if pair[0] != "name" and pair[1]))
    # What the guard makes of a request is of the newest API, whichever the client asked for.
    status, answer = await call.engine.ask("POST", "/containers/create", query, config)
    if isinstance(answer, dict):
        call.engine.made_container(str(answer.get("Id", "")))
    return Reply(status, answer)


def _make_name() -> str:
    token = secrets.token_hex(4)
    return f"{random_name(token)}-{token}"


async def _resolve(config: dict[str, Any], call: Call) -> dict[str, Any]:
    try:
        return await resolve_create(config, call.engine)
    except Refused as refused:
        if refused.status == _MISSING:  # which clients take for a missing image, and pull it
            raise Refused(refused.message, status=400) from refused
        raise


async def update(call: Call) -> Forward:
    """Change limits."""
    body = check_update(await call.json(), call.scope)
    path = await _own_path(call)
    call.version = f"/v{call.scope.version}"  # an older API ignores some of what the table holds
    return call.forward(path, json_body=body)


async def rename(call: Call) -> Forward:
    """Give another name."""
    name = check_name(call.query.get("name", ""), "a container")
    call.engine.guests.add_renamed(await call.engine.own_container(call.groups["name"]))
    return call.forward(await _own_path(call), query=(("name", name),), on_success=call.engine.refresh_names)


async def attach(call: Call) -> Forward:
    """Attach to its streams."""
    return call.forward(await _own_path(call), upgrade="tcp")


async def put_archive(call: Call) -> Forward:
    """Unpack an archive in it."""
    return call.forward(await _own_path(call), streams=True)


async def delete(call: Call) -> Forward:
    """Remove it, with its anonymous volumes: nobody else would."""
    query = {**call.query, "v": "1"}
    identity = await call.engine.own_container(call.groups["name"])

    async def forget() -> None:
        call.engine.guests.drop_renamed(identity)

    return call.forward(await _own_path(call), query=tuple(query.items()), on_success=forget)


async def top(call: Call) -> Forward:
    """Look at its processes. The engine runs `ps` on its own machine, and shows whose numbers the runtime told it."""
    if call.scope.plan.oci_runtime not in _HOSTS_PROCESSES:
        raise refuse("docker top", "the engine would show its machine's processes; use `docker exec … ps`")
    if _PS_WORDS.fullmatch(call.query.get("ps_args", "")) is None:
        raise refuse("these words for ps", "the guard does not know them")
    return call.forward(await _own_path(call))


async def prune(call: Call) -> Reply:
    """Remove the run's own stopped containers one by one, with their anonymous volumes, which Docker's prune leaves."""
    filters = {**call.filters(), "status": ["created", "exited", "dead"]}
    if "until" in filters:
        raise refuse("pruning by time", "the guard cannot do it; remove the containers by name")
    call.pairs = (("filters", json.dumps(filters)), ("all", "1"))

    def own(item: Any) -> Any:
        is_own = call.engine.is_own_container(item["Id"], item.get("Names") or (), item.get("Labels"))
        return item["Id"] if is_own else None

    removed = []
    for identity in await call.engine.list_items("/containers/json", call.with_own(), own):
        status, _ = await call.engine.ask("DELETE", f"/containers/{identity}", (("v", "1"),))
        if status == _DELETED:
            call.engine.guests.drop_renamed(identity)
            removed.append(identity)
    return Reply(200, {"ContainersDeleted": removed, "SpaceReclaimed": 0})


async def create_exec(call: Call) -> Forward:
    """Prepare a command in the run's own container."""
    body = check_exec(await call.json(), call.scope)

    async def remember(answer: Any) -> Any:
        call.engine.execs.add(str(answer["Id"]))
        return answer

    return call.forward(await _own_path(call), json_body=body, transform=remember)


async def start_exec(call: Call) -> Forward:
    """Start it; its streams are this connection's unless it is detached."""
    _check_exec(call)
    body = check_exec_start(await call.json())
    return call.forward(json_body=body, upgrade="" if body.get("Detach") else "tcp")


async def on_exec(call: Call) -> Forward:
    """Look at an exec, or resize its terminal."""
    _check_exec(call)
    return call.forward()


def _check_exec(call: Call) -> None:
    if call.groups["name"] not in call.engine.execs:
        raise missing("exec", call.groups["name"])
