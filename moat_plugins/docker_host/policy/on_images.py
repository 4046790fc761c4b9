"""What may be asked of images. What makes one is in `making`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from moat_plugins.docker_host.images import hide_names, name_image, own_images, remove_image
from moat_plugins.docker_host.items import Listing
from moat_plugins.docker_host.policy.fields import check_reference
from moat_plugins.docker_host.policy.images import check_new_tag, check_pulled, own_image
from moat_plugins.docker_host.policy.making import import_archive, login
from moat_plugins.docker_host.policy.verdict import Forward, Refused, Reply, missing, refuse

if TYPE_CHECKING:
    from moat_plugins.docker_host.engine import Engine
    from moat_plugins.docker_host.policy.call import Call

_OK, _CREATED = 200, 201


async def own_list(call: Call) -> Forward:
    """List the images that the run made, pulled or used."""
    engine = call.engine
    own = await own_images(engine)
    await call.resolve_ends(lambda name: _known(engine, name))
    filters = call.filters()
    dangling = filters.pop("dangling", None)  # none of the run's own is, for the engine
    wants = {"1": True, "true": True, "0": False, "false": False}.get((dangling or [""])[0].lower())
    query = tuple(pair for pair in call.pairs if pair[0] != "filters")

    def keep(item: Any) -> Any:
        if item.get("Id") not in own and item.get("Id") not in engine.images:
            return None
        shown = hide_names(engine, item)
        return shown if wants is None or wants is not bool(shown.get("RepoTags")) else None

    return call.forward(query=(*query, ("filters", json.dumps(filters))), listing=Listing({"": keep}))


async def _known(engine: Engine, name: str) -> str:
    found = await engine.find_image(name)
    if found is None or not (engine.is_own_image(found) or found["Id"] in engine.images):
        raise missing("image", name)
    identity: str = found["Id"]
    return identity


async def look(call: Call) -> Forward:
    """Look at an image, or at what it is made of: any that the engine has may be used by who knows its name."""
    await _use(call)
    engine = call.engine

    async def without_ours(answer: Any) -> Any:
        if isinstance(answer, list):
            return [hide_names(engine, item, key="Tags") for item in answer]
        return hide_names(engine, answer)

    return call.forward(transform=without_ours)


async def use(call: Call) -> Forward:
    """Save an image."""
    await _use(call)
    return call.forward()


async def _use(call: Call) -> None:
    found = await call.engine.find_image(call.groups["name"])
    if found is None:
        raise missing("image", call.groups["name"])
    call.engine.images.add(found["Id"])


async def save(call: Call) -> Forward:
    """Save several."""
    for name, value in call.pairs:
        if name == "names" and await call.engine.find_image(value) is None:
            raise missing("image", value)
    return call.forward()


async def pull(call: Call) -> Forward | Reply:
    """Pull an image, or import the archive that is the body.

    A pull gives the name when it ends. So the registry is asked first what the name means, that is pulled, which takes
    no name, and the name is given when it is there, if it may still be.
    """
    query = call.query
    if query.get("fromSrc"):
        return await import_archive(call)
    repository, tag = check_reference(query.get("fromImage", "")), query.get("tag", "")
    if "@" in repository and tag:
        raise Refused("moat: pull an image by its digest, or by a tag.", status=400)
    reference = repository if not tag else f"{repository}@{tag}" if ":" in tag else f"{repository}:{tag}"
    await check_pulled(reference, call.engine)
    if "@" in reference or call.scope.allows("images"):
        return call.forward(headers=login(call), on_end=_remember(call, reference))
    if ":" not in reference.rpartition("/")[2]:
        raise refuse("pulling every tag", "each is a name that could be somebody's; name one", "images")
    status, answer = await call.engine.ask("GET", f"/distribution/{reference}/json", headers=login(call))
    if status != _OK:
        return Reply(status, answer)
    repository, digest = reference.rpartition(":")[0], str(answer["Descriptor"]["digest"])
    wanted = {"fromImage": repository, "tag": digest, "platform": query.get("platform", "")}
    made = tuple((key, value) for key, value in wanted.items() if value)
    return call.forward(query=made, headers=login(call), on_end=_remember(call, f"{repository}@{digest}", reference))


def _remember(call: Call, pulled: str, name: str = "") -> Any:
    engine = call.engine

    async def look_again() -> bytes:
        found = await engine.find_image(pulled)
        if found is None:
            return b""
        engine.images.add(found["Id"])
        if name:
            await check_pulled(name, engine)
            repository, _, tag = name.rpartition(":")
            await engine.ask("POST", f"/images/{found['Id']}/tag", (("repo", repository), ("tag", tag)))
        return b""

    return look_again


async def push(call: Call) -> Forward:
    """Push an image that the run made."""
    await own_image(_tagged(call), call.engine)
    return call.forward(headers=login(call))


async def tag(call: Call) -> Forward | Reply:
    """Give an image that the run made another name."""
    engine = call.engine
    found = await own_image(call.groups["name"], engine)
    repo, name = call.query.get("repo", ""), call.query.get("tag", "")
    wanted = await check_new_tag(f"{repo}:{name}" if name else repo, engine)
    if not engine.is_own_image(found):
        return call.forward()  # the run's owner allowed it
    await name_image(engine, found["Id"], wanted)
    return Reply(_CREATED)


async def delete(call: Call) -> Forward | Reply:
    """Remove an image that the run made."""
    found = await own_image(call.groups["name"], call.engine)
    if not call.engine.is_own_image(found):
        return call.forward()  # the run's owner allowed it
    force = call.query.get("force", "").lower() in {"1", "true"}
    return Reply(_OK, await remove_image(call.engine, found, call.groups["name"], force=force))


async def prune(call: Call) -> Reply:
    """Remove unused images that the run made: those without a name, or all."""
    filters, engine = call.filters(), call.engine
    every = (filters.pop("dangling", ["true"]) or ["true"])[0].lower() in {"0", "false"}
    if filters:
        raise refuse("pruning images by more than that they have no name", "remove them by their names")
    said: list[dict[str, str]] = []
    for identity in await own_images(engine):
        found = await engine.find_image(identity)
        if found is not None and (every or not engine.own_names(found)):
            try:
                said += await remove_image(engine, found, identity, force=False)
            except Refused:
                continue  # it is used
    return Reply(_OK, {"ImagesDeleted": said or None, "SpaceReclaimed": 0})


async def prune_builds(call: Call) -> Reply:  # noqa: ARG001 - an endpoint
    """Remove nothing: the build cache is everybody's, and none of it the run's alone."""
    return Reply(_OK, {"CachesDeleted": [], "SpaceReclaimed": 0})


def _tagged(call: Call) -> str:
    name, wanted = call.groups["name"], call.query.get("tag", "")
    if not name or "@" in name:
        raise Refused("moat: push an image by its name.", status=400)
    return f"{name}:{wanted}" if wanted else name
