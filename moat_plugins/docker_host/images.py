"""Images that the run makes: made under a name that says whose they are, and named as it wants when they are there.

A name that was free when a build began may be somebody's when it ends. So whatever makes an image makes it under a new
name in the run's own repository (`Guests.name_new_image`), and is followed by `adopt`, which judges again what is there
now. Whose an image is, and which of its names are the run's, is told by further names in that repository.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs

from moat_plugins.docker_host.policy.fields import familiar_name
from moat_plugins.docker_host.policy.images import check_new_tag
from moat_plugins.docker_host.policy.verdict import Refused, refuse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moat_plugins.docker_host.engine import Engine

__all__ = ["Making", "error_line", "hide_names", "name_image", "own_images", "remove_image"]

_OK, _CREATED, _CONFLICT, _MISSING = 200, 201, 409, 404


@attrs.frozen
class Making:
    """An image that is being made.

    Args:
        reference: What it is called until it is there.
        names: What the run wants it to be called.
    """

    reference: str
    names: tuple[str, ...]

    @classmethod
    def begin(cls, engine: Engine, names: Iterable[str]) -> Making:
        """Return how to make an image that the run wants to have NAMES, which were looked at."""
        return cls(engine.guests.name_new_image(), tuple(dict.fromkeys(names)))

    @property
    def repository(self) -> str:
        """The first part of the reference."""
        return self.reference.rpartition(":")[0]

    @property
    def tag(self) -> str:
        """Its second part."""
        return self.reference.rpartition(":")[2]

    async def adopt(self, engine: Engine) -> str:
        """Make what was made the run's and give it its names; return its id, ``""`` if nothing was made.

        Raises:
            Refused: It carries labels of moat's own, or one of the names is somebody else's by now. The names before
                that one are given, and what has none goes.
        """
        found = await engine.find_image(self.reference)
        if found is None:
            return ""
        identity = str(found["Id"])
        try:
            _check_labels(found, engine)
            await _tag(engine, identity, engine.guests.name_image(identity))
            for name in self.names:
                await name_image(engine, identity, name)
        finally:
            await engine.ask("DELETE", f"/images/{self.reference}", (("noprune", "0"),))
        return identity


async def name_image(engine: Engine, identity: str, name: str) -> None:
    """Give an image of the run's a NAME, if nobody else has it at this moment.

    Raises:
        Refused: Somebody has.
    """
    familiar = familiar_name(name)
    own = engine.guests.name_image(identity, familiar)
    await _tag(engine, identity, own)
    try:
        await check_new_tag(name, engine)  # last: what is between this look and the next call is the whole window
    except Refused:
        await engine.ask("DELETE", f"/images/{own}")
        raise
    await _tag(engine, identity, familiar)


def _check_labels(found: dict[str, Any], engine: Engine) -> None:
    """Empty labels are let through: a commit leaves them, which cannot take them away."""
    for key, value in ((found.get("Config") or {}).get("Labels") or {}).items():
        if key in engine.guests.claims and value:
            raise refuse(f"the label {key[:60]} in an image", "labels of moat's own tell whose an object is")


async def _tag(engine: Engine, identity: str, name: str) -> None:
    repository, _, tag = name.rpartition(":")
    status, answer = await engine.ask("POST", f"/images/{identity}/tag", (("repo", repository), ("tag", tag)))
    if status != _CREATED:
        raise Refused(str((answer or {}).get("message", "the image cannot be named")), status=status)


async def own_images(engine: Engine) -> set[str]:
    """Return the ids of all images that the run made."""
    filters = json.dumps({"reference": [engine.guests.repository]})

    def own(item: Any) -> Any:
        return item["Id"] if engine.guests.own_names(item["Id"], item.get("RepoTags") or ()) is not None else None

    return set(await engine.list_items("/images/json", (("filters", filters),), own))


def hide_names(engine: Engine, item: dict[str, Any], *, key: str = "RepoTags") -> dict[str, Any]:
    """Return what the engine says of an image without the names that only tell whose it is."""
    names = item.get(key)
    if not names:
        return item
    return {**item, key: [name for name in names if not engine.guests.is_reserved(name)]}


async def remove_image(engine: Engine, found: dict[str, Any], name: str, *, force: bool) -> list[dict[str, str]]:
    """Do what DELETE /images/{name} means, of an image that the run made: as if it had none but the run's own names.

    Args:
        found: What the engine says of the image.
        name: How the run called it: by one of its names, or by its id.

    Raises:
        Refused: It is used, or has several names.
    """
    identity, there = str(found["Id"]), found.get("RepoTags") or []
    own = engine.guests.own_names(identity, there) or []
    by_name = familiar_name(name) in own
    if familiar_name(name) in there and not by_name:
        raise refuse(f"taking the name {name[:80]} away", "this run did not give it", "images")
    gone = [familiar_name(name)] if by_name else own
    if not by_name and len({each.rpartition(":")[0] for each in gone}) > 1 and not force:
        raise Refused(
            f"conflict: unable to delete {identity[7:19]} (must be forced) - image is referenced in multiple "
            "repositories",
            status=_CONFLICT,
        )
    is_last = set(gone) == set(own)
    if is_last and not force and await _is_used(engine, identity):
        raise Refused(
            f"conflict: unable to remove {name[:80]} (must force) - a container is using its image", status=_CONFLICT
        )
    marks = [engine.guests.name_image(identity, each) for each in gone]
    if is_last:
        marks = [each for each in there if engine.guests.is_reserved(each) and each not in marks] + marks
        marks.sort(key=lambda each: each == engine.guests.name_image(identity))
    said: list[dict[str, str]] = []
    for each in [*gone, *marks]:
        _, answer = await engine.ask("DELETE", f"/images/{each}", (("force", "1"),))
        said += [line for line in answer if isinstance(line, dict)] if isinstance(answer, list) else []
    return [line for line in said if not engine.guests.is_reserved(line.get("Untagged", ""))]


async def _is_used(engine: Engine, identity: str) -> bool:
    def uses(item: Any) -> Any:
        return True if item.get("ImageID") == identity else None

    return bool(await engine.list_items("/containers/json", (("all", "1"),), uses))


def error_line(refused: Refused) -> bytes:
    """Return how a stream of progress says that it ends badly (Docker Engine API, ImageBuild)."""
    return json.dumps({"errorDetail": {"message": refused.message}, "error": refused.message}).encode() + b"\r\n"
