"""Images: any may be pulled and used; names that are somebody else's are never replaced, taken away or pushed."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from moat_plugins.docker_host.policy.fields import (
    check_reference,
    familiar_name,
    is_reserved_label,
    is_reserved_name,
)
from moat_plugins.docker_host.policy.limits import check_build_limits
from moat_plugins.docker_host.policy.shape import load
from moat_plugins.docker_host.policy.verdict import Refused, missing, refuse

if TYPE_CHECKING:
    from moat_plugins.docker_host.engine import Engine
    from moat_plugins.docker_host.policy.call import Call
    from moat_plugins.docker_host.scope import Scope

__all__ = ["check_build", "check_changes", "check_new_tag", "check_pulled", "own_image"]

_DIGEST = re.compile(r"(?:sha256:)?[0-9a-f]{12,64}")


async def own_image(name: str, engine: Engine) -> dict[str, Any]:
    """Return an image that the run made.

    Raises:
        Refused: There is none of that name, or it is not the run's.
    """
    found = await engine.find_image(name)
    if found is None:
        raise missing("image", name)
    if not engine.is_own_image(found) and not engine.scope.allows("images"):
        raise refuse(f"changing the image {name[:80]}", "this run did not make it", "images")
    return found


async def check_new_tag(reference: str, engine: Engine) -> str:
    """Return REFERENCE if the run may give an image that name.

    Raises:
        Refused: Another image has it, or it is one of moat's own.
    """
    name = check_reference(reference)
    if "@" in name or _DIGEST.fullmatch(name):
        raise Refused("moat: an image cannot be named by a digest.", status=400)
    if is_reserved_name(name):
        raise refuse(f"the name {name[:80]}", "moat keeps its own images there")
    if engine.scope.allows("images"):
        return name
    found = await engine.find_image(name)
    if found is not None and familiar_name(name) not in engine.own_names(found):
        raise refuse(f"the name {name[:80]}", "an image that this run did not name has it", "images")
    return name


async def check_pulled(reference: str, engine: Engine) -> str:
    """Return REFERENCE if a pull may take that name: it is free, the run's, or means what its registry says anyway.

    Raises:
        Refused: It is an image's that somebody made here, or one of moat's own.
    """
    name = check_reference(reference)
    if is_reserved_name(name):
        raise refuse(f"pulling {name[:80]}", "moat keeps its own images under that name")
    if "@" in name or engine.scope.allows("images"):
        return name
    found = await engine.find_image(name)
    repository = familiar_name(name).rpartition(":")[0]
    pulled = {familiar_name(each).partition("@")[0] for each in (found or {}).get("RepoDigests") or ()}
    if found is not None and repository not in pulled and familiar_name(name) not in engine.own_names(found):
        raise refuse(f"pulling {name[:80]}", "an image that was made here has the name", "images")
    return name


def check_changes(changes: list[str]) -> list[str]:
    """Return Dockerfile instructions for an image; which labels came of them is looked at when it is there."""
    for change in changes:
        if "\n" in change or "\r" in change:
            raise Refused("moat: a change is one line.", status=400)
    return changes


_BUILD_QUERY = frozenset(
    [
        "dockerfile",
        "t",
        "q",
        "nocache",
        "cachefrom",
        "pull",
        "rm",
        "forcerm",
        "memory",
        "memswap",
        "cpushares",
        "cpusetcpus",
        "cpuperiod",
        "cpuquota",
        "buildargs",
        "shmsize",
        "labels",
        "networkmode",
        "platform",
        "target",
        "version",
        "session",
        "buildid",
        "outputs",
        "extrahosts",
        "ulimits",
        "remote",
    ]
)
_PLAIN_MODES = {"", "default", "bridge"}


async def check_build(call: Call) -> tuple[tuple[tuple[str, str], ...], list[str]]:
    """Return the query of POST /build (API v1.45, ImageBuild) for the classic builder, and the names it is to give.

    What the run forces on it is in the query, and no name.

    Raises:
        Refused: Something of it is not allowed or not known.
    """
    scope, engine = call.scope, call.engine
    if not scope.build:
        raise refuse("building", "its owner set docker_host.build: false")
    call.check_query(_BUILD_QUERY, frozenset({"t", "extrahosts"}))
    query = dict(call.pairs)
    if query.get("version", "1") not in {"", "1"}:
        raise refuse(
            "BuildKit by /build", "there a '# syntax=' line could bring steps of any kind; buildx is let through"
        )
    if query.get("remote", "") not in {"", "client-session"}:
        raise refuse("building from a remote context", "the engine would fetch it from its own machine's network")
    tags = [await check_new_tag(value, engine) for name, value in call.pairs if name == "t" and value]
    made = {name: value for name, value in query.items() if name not in {"t", "extrahosts", "networkmode"}}
    made = check_build_limits(made, scope)
    made["networkmode"] = _network(query, scope)
    made["labels"] = json.dumps(_labels(query.get("labels", ""), scope))
    if query.get("pull", "") not in {"", "0", "false"} and not scope.allows("images"):
        raise refuse("pulling while the classic builder builds", "it would take names; `docker pull` first", "images")
    made["buildargs"] = json.dumps(_arguments(query.get("buildargs", "")))
    made |= {"rm": "1", "forcerm": "1"}
    hosts = [(name, value) for name, value in call.pairs if name == "extrahosts"]
    return (*made.items(), *hosts), tags


def _network(query: dict[str, str], scope: Scope) -> str:
    """The classic builder's steps can be put on the run's own network."""
    mode = query.get("networkmode", "")
    if mode == "none":
        return mode
    if mode == "host" and scope.allows("host-network"):
        return mode
    if mode not in _PLAIN_MODES and mode != scope.network:
        raise refuse(f"building with the network {mode[:40]}", "it is not the run's", "host-network")
    return scope.network


def _labels(raw: str, scope: Scope) -> dict[str, str]:
    labels = load(raw.encode()) or {}
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise Refused("moat: labels must be an object of texts.", status=400)
    for key in labels:
        if is_reserved_label(key) and labels[key] != scope.marks.get(key):
            raise refuse(f"the label {key[:60]}", "labels of moat's own tell whose an object is")
    return {key: item for key, item in labels.items() if not is_reserved_label(key)}


def _arguments(raw: str) -> dict[str, str | None]:
    found = load(raw.encode()) or {}
    if not isinstance(found, dict) or not all(value is None or isinstance(value, str) for value in found.values()):
        raise Refused("moat: buildargs must be an object of texts.", status=400)
    return found
