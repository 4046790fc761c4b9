"""What makes an image: a build, an import, a commit, a loaded archive. Each is judged at its beginning and its end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from moat_plugins.docker_host.images import Making
from moat_plugins.docker_host.policy.containers import check_config
from moat_plugins.docker_host.policy.fields import is_reserved_label, is_reserved_name
from moat_plugins.docker_host.policy.images import check_build, check_changes, check_new_tag
from moat_plugins.docker_host.policy.verdict import Refused, refuse

if TYPE_CHECKING:
    from moat_plugins.docker_host.engine import Engine
    from moat_plugins.docker_host.policy.call import Call
    from moat_plugins.docker_host.policy.verdict import Forward

__all__ = ["build", "commit", "import_archive", "load_archive", "login"]

_LOADED = b"Loaded image: "


async def build(call: Call) -> Forward:
    """Build an image."""
    query, names = await check_build(call)
    making, quiet = Making.begin(call.engine, names), call.query.get("q", "") not in {"", "0", "false"}

    def line(data: bytes) -> bytes:
        return b"" if making.reference.encode() in data else data

    async def adopt() -> bytes:
        if not await making.adopt(call.engine) or quiet:
            return b""
        said = [{"stream": f"Successfully tagged {name}\n"} for name in making.names]
        return b"".join(json.dumps(each).encode() + b"\r\n" for each in said)

    headers = login(call, "x-registry-config")
    return call.forward(query=(*query, ("t", making.reference)), headers=headers, streams=True, line=line, on_end=adopt)


async def import_archive(call: Call) -> Forward:
    """Make an image of the archive that is the body."""
    if call.query["fromSrc"] != "-":
        raise refuse("importing from an address", "the engine would fetch it from its own machine's network")
    making = await _begin(call)
    changes = check_changes([value for name, value in call.pairs if name == "changes" and value])
    kept = tuple(pair for pair in call.pairs if pair[0] not in {"changes", "repo", "tag"})
    query = (*kept, ("repo", making.repository), ("tag", making.tag), *(("changes", each) for each in changes))
    return call.forward(query=query, streams=True, on_end=_adopt(making, call.engine))


async def commit(call: Call) -> Forward:
    """Make an image of the run's own container.

    The engine gives it the container's labels, and moat's are made empty; they cannot be taken away.
    """
    identity = await call.engine.own_container(call.query.get("container", ""))
    making = await _begin(call)
    changes = check_changes([value for key, value in call.pairs if key == "changes" and value])
    config = check_config(await call.json(), call.scope)
    _, found = await call.engine.ask("GET", f"/containers/{identity}/json")
    labels = ((found or {}).get("Config") or {}).get("Labels") or {}
    config["Labels"] |= dict.fromkeys(filter(is_reserved_label, labels), "")
    # The image tells of the container that it was made of, with all of its labels (ContainerConfig, docker save).
    call.engine.guests.expose(identity, labels)
    kept = tuple(pair for pair in call.pairs if pair[0] not in {"changes", "container", "repo", "tag"})
    named = (("container", identity), ("repo", making.repository), ("tag", making.tag))

    async def adopt(answer: Any) -> Any:
        await making.adopt(call.engine)
        return answer

    query = (*named, *kept, *(("changes", each) for each in changes))
    return call.forward(query=query, json_body=config, transform=adopt)


async def load_archive(call: Call) -> Forward:
    """Load an archive of `docker save`; names that moat keeps its own images under stay what they were."""
    if not call.scope.allows("images"):
        raise refuse("loading an image archive", "it could replace any image of the engine; import or build", "images")
    engine, taken = call.engine, list[str]()
    filters = json.dumps({"reference": ["moat/*", "moat/*:*"]})

    def names(item: Any) -> Any:
        return item["Id"], tuple(item.get("RepoTags") or ())

    listed = await engine.list_items("/images/json", (("filters", filters),), names)
    before = {name: identity for identity, there in listed for name in there}

    def line(data: bytes) -> bytes:
        if _LOADED in data:
            name = data.partition(_LOADED)[2].partition(b"\\n")[0].decode("utf-8", "replace").strip()
            if is_reserved_name(name):
                taken.append(name)
        return data

    async def give_back() -> bytes:
        for name in taken:
            await _give_back(engine, name, before.get(name, ""))
        if taken:
            raise refuse(f"the name {taken[0][:80]}", "moat keeps its own images there")
        return b""

    return call.forward(streams=True, line=line, on_end=give_back)


async def _give_back(engine: Engine, name: str, identity: str) -> None:
    """Give NAME to the image that had it, if one had; what took it goes, unless it has another name."""
    loaded = await engine.find_image(name)
    repository, _, tag = name.rpartition(":")
    if not identity or loaded is None:
        await engine.ask("DELETE", f"/images/{name}")
        return
    await engine.ask("POST", f"/images/{identity}/tag", (("repo", repository), ("tag", tag)))
    _, left = await engine.ask("GET", f"/images/{loaded['Id']}/json")
    if left is not None and not left.get("RepoTags"):
        await engine.ask("DELETE", f"/images/{loaded['Id']}")


async def _begin(call: Call) -> Making:
    repo, tag = call.query.get("repo", ""), call.query.get("tag", "")
    if tag and not repo:
        raise Refused("moat: a tag needs a repository.", status=400)
    names = [await check_new_tag(f"{repo}:{tag}" if tag else repo, call.engine)] if repo else []
    return Making.begin(call.engine, names)


def _adopt(making: Making, engine: Engine) -> Any:
    async def adopt() -> bytes:
        await making.adopt(engine)
        return b""

    return adopt


def login(call: Call, name: str = "x-registry-auth") -> tuple[tuple[str, str], ...]:
    """Return the credentials that the run itself has for a registry."""
    value = call.headers.get(name, "")
    return ((name, value),) if value else ()
