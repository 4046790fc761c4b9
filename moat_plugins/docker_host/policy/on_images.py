"""What may be asked of images and builds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moat_plugins.docker_host.items import Listing
from moat_plugins.docker_host.policy.containers import check_config
from moat_plugins.docker_host.policy.fields import check_reference
from moat_plugins.docker_host.policy.images import check_build, check_changes, check_new_tag, own_image
from moat_plugins.docker_host.policy.verdict import Refused, Reply, missing, refuse

if TYPE_CHECKING:
    from moat_plugins.docker_host.policy.call import Call
    from moat_plugins.docker_host.policy.verdict import Forward


async def own_list(call: Call) -> Forward:
    """List the images that the run made, pulled or used."""

    def keep(item: Any) -> Any:
        return item if call.scope.is_own(item.get("Labels")) or item.get("Id") in call.engine.images else None

    return call.forward(listing=Listing({"": keep}))


async def use(call: Call) -> Forward:
    """Look at an image, or save it: any that the engine has may be used by who knows its name."""
    found = await call.engine.find_image(call.groups["name"])
    if found is None:
        raise missing("image", call.groups["name"])
    call.engine.images.add(found["Id"])
    return call.forward()


async def save(call: Call) -> Forward:
    """Save several."""
    for name, value in call.pairs:
        if name == "names" and await call.engine.find_image(value) is None:
            raise missing("image", value)
    return call.forward()


async def pull(call: Call) -> Forward:
    """Pull an image, or import the archive that is the body."""
    query = call.query
    if query.get("fromSrc"):
        return await _import(call)
    name = check_reference(query.get("fromImage", ""))
    tag = query.get("tag", "")
    return call.forward(headers=_login(call), on_end=_remember(call, name, tag))


def _remember(call: Call, name: str, tag: str) -> Any:
    async def look() -> None:
        reference = name if not tag else (f"{name}@{tag}" if ":" in tag else f"{name}:{tag}")
        if found := await call.engine.find_image(reference):
            call.engine.images.add(found["Id"])

    return look


async def _import(call: Call) -> Forward:
    if call.query["fromSrc"] != "-":
        raise refuse("importing from an address", "the engine would fetch it from its own machine's network")
    repo, tag = call.query.get("repo", ""), call.query.get("tag", "")
    if repo:
        await check_new_tag(f"{repo}:{tag}" if tag else repo, call.engine)
    changes = [value for name, value in call.pairs if name == "changes" and value]
    kept = tuple(pair for pair in call.pairs if pair[0] != "changes")
    made = tuple(("changes", change) for change in check_changes(changes, call.scope))
    return call.forward(query=(*kept, *made), streams=True)


async def load_archive(call: Call) -> Forward:
    """Load an archive of `docker save`."""
    if not call.scope.allows("images"):
        raise refuse("loading an image archive", "it could replace any image of the engine; import or build", "images")
    return call.forward(streams=True)


async def push(call: Call) -> Forward:
    """Push an image that the run made."""
    await own_image(_tagged(call), call.engine)
    return call.forward(headers=_login(call))


async def tag(call: Call) -> Forward:
    """Give an image that the run made another name."""
    await own_image(call.groups["name"], call.engine)
    repo, name = call.query.get("repo", ""), call.query.get("tag", "")
    await check_new_tag(f"{repo}:{name}" if name else repo, call.engine)
    return call.forward()


async def delete(call: Call) -> Forward:
    """Remove an image that the run made."""
    await own_image(call.groups["name"], call.engine)
    return call.forward()


async def prune(call: Call) -> Forward:
    """Remove unused images that the run made."""
    return call.forward(query=call.with_own())


async def prune_builds(call: Call) -> Reply:  # noqa: ARG001 - an endpoint
    """Remove nothing: the build cache is everybody's, and none of it the run's alone."""
    return Reply(200, {"CachesDeleted": [], "SpaceReclaimed": 0})


async def commit(call: Call) -> Forward:
    """Make an image of the run's own container."""
    identity = await call.engine.own_container(call.query.get("container", ""))
    repo, name = call.query.get("repo", ""), call.query.get("tag", "")
    if repo:
        await check_new_tag(f"{repo}:{name}" if name else repo, call.engine)
    changes = [value for key, value in call.pairs if key == "changes" and value]
    kept = tuple(pair for pair in call.pairs if pair[0] not in {"changes", "container"})
    made = tuple(("changes", change) for change in check_changes(changes, call.scope))
    query = (("container", identity), *kept, *made)
    return call.forward(query=query, json_body=check_config(await call.json(), call.scope))


async def build(call: Call) -> Forward:
    """Build an image."""
    query = await check_build(call)
    return call.forward(query=query, headers=_login(call, "x-registry-config"), streams=True)


def _login(call: Call, name: str = "x-registry-auth") -> tuple[tuple[str, str], ...]:
    """Return the credentials that the run itself has for a registry."""
    value = call.headers.get(name, "")
    return ((name, value),) if value else ()


def _tagged(call: Call) -> str:
    name, wanted = call.groups["name"], call.query.get("tag", "")
    if not name or "@" in name:
        raise Refused("moat: push an image by its name.", status=400)
    return f"{name}:{wanted}" if wanted else name
