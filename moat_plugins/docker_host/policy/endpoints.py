"""The endpoints that the guard knows (Docker Engine API v1.45); any other is refused."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import attrs

from moat_plugins.docker_host.policy import making, on_containers, on_images, on_networks, on_system
from moat_plugins.docker_host.policy.verdict import Forward, Reply, refuse

if TYPE_CHECKING:
    from moat_plugins.docker_host.policy.call import Call

__all__ = ["ENDPOINTS", "REASONS", "Endpoint", "decide", "find_endpoint"]

Handler = Callable[["Call"], Awaitable[Forward | Reply]]

_OBJECT = r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)"
_IMAGE = r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.:@/+-]*?)"


@attrs.frozen
class Endpoint:
    """A method, a path and who decides.

    Args:
        query: Names of the parameters that are known.
        several: Those of them that may come more than once.
        own_query: The handler looks at the query itself.
    """

    method: str
    pattern: re.Pattern[str]
    handler: Handler
    query: frozenset[str] = frozenset()
    several: frozenset[str] = frozenset()
    own_query: bool = False


def _at(method: str, path: str, handler: Handler, query: str = "", several: str = "", *, own: bool = False) -> Endpoint:
    pattern = path.replace("{object}", _OBJECT).replace("{image}", _IMAGE)
    return Endpoint(method, re.compile(pattern), handler, frozenset(query.split()), frozenset(several.split()), own)


_c, _i, _m, _n, _s = on_containers, on_images, making, on_networks, on_system

ENDPOINTS: tuple[Endpoint, ...] = (
    _at("GET", "/_ping", _s.plain),
    _at("HEAD", "/_ping", _s.plain),
    _at("GET", "/version", _s.version),
    _at("GET", "/info", _s.info),
    _at("GET", "/events", _s.own_events, "since until filters"),
    _at("GET", "/system/df", _s.usage, "type verbose", "type"),
    _at("POST", "/session", _s.session),
    _at("POST", "/grpc", _s.grpc),
    _at("GET", "/containers/json", _c.own_list, "all limit size filters"),
    _at("POST", "/containers/create", _c.create, "name platform"),
    _at("POST", "/containers/prune", _c.prune, "filters"),
    _at("GET", "/containers/{object}/json", _c.inspect, "size"),
    _at("GET", "/containers/{object}/top", _c.top, "ps_args"),
    _at("GET", "/containers/{object}/logs", _c.on_own, "follow stdout stderr since until timestamps tail details"),
    _at("GET", "/containers/{object}/changes", _c.on_own),
    _at("GET", "/containers/{object}/export", _c.on_own),
    _at("GET", "/containers/{object}/stats", _c.on_own, "stream one-shot"),
    _at("POST", "/containers/{object}/resize", _c.on_own, "h w"),
    _at("POST", "/containers/{object}/start", _c.on_names, "detachKeys"),
    _at("POST", "/containers/{object}/stop", _c.on_own, "signal t"),
    _at("POST", "/containers/{object}/restart", _c.on_names, "signal t"),
    _at("POST", "/containers/{object}/kill", _c.on_own, "signal"),
    _at("POST", "/containers/{object}/update", _c.update),
    _at("POST", "/containers/{object}/rename", _c.rename, "name"),
    _at("POST", "/containers/{object}/pause", _c.on_own),
    _at("POST", "/containers/{object}/unpause", _c.on_own),
    _at("POST", "/containers/{object}/attach", _c.attach, "detachKeys logs stream stdin stdout stderr"),
    _at("POST", "/containers/{object}/wait", _c.on_own, "condition"),
    _at("DELETE", "/containers/{object}", _c.delete, "v force link"),
    _at("HEAD", "/containers/{object}/archive", _c.on_own, "path"),
    _at("GET", "/containers/{object}/archive", _c.on_own, "path"),
    _at("PUT", "/containers/{object}/archive", _c.put_archive, "path noOverwriteDirNonDir copyUIDGID"),
    _at("POST", "/containers/{object}/exec", _c.create_exec),
    _at("POST", "/exec/{object}/start", _c.start_exec),
    _at("POST", "/exec/{object}/resize", _c.on_exec, "h w"),
    _at("GET", "/exec/{object}/json", _c.on_exec),
    _at("GET", "/images/json", _i.own_list, "all filters shared-size digests manifests"),
    _at("POST", "/images/create", _i.pull, "fromImage fromSrc repo tag message platform changes", "changes"),
    _at("POST", "/images/load", _m.load_archive, "quiet platform"),
    _at("POST", "/images/prune", _i.prune, "filters"),
    _at("GET", "/images/get", _i.save, "names platform", "names"),
    _at("GET", "/images/{image}/json", _i.look, "manifests"),
    _at("GET", "/images/{image}/history", _i.look, "platform"),
    _at("GET", "/images/{image}/get", _i.use, "platform"),
    _at("POST", "/images/{image}/push", _i.push, "tag platform"),
    _at("POST", "/images/{image}/tag", _i.tag, "repo tag"),
    _at("DELETE", "/images/{image}", _i.delete, "force noprune"),
    _at("GET", "/distribution/{image}/json", _s.plain_with_login),
    _at("POST", "/commit", _m.commit, "container repo tag comment author pause changes", "changes"),
    _at("POST", "/build", _m.build, own=True),
    _at("POST", "/build/cancel", _s.plain, "id"),
    _at("POST", "/build/prune", _i.prune_builds, "all filters keep-storage"),
    _at("GET", "/networks", _n.own_networks, "filters"),
    _at("POST", "/networks/create", _n.create_network),
    _at("POST", "/networks/prune", _n.prune_networks, "filters"),
    _at("GET", "/networks/{object}", _n.inspect_network, "verbose scope"),
    _at("DELETE", "/networks/{object}", _n.delete_network),
    _at("POST", "/networks/{object}/connect", _n.connect),
    _at("POST", "/networks/{object}/disconnect", _n.disconnect),
    _at("GET", "/plugins", _s.no_plugins, "filters"),
    _at("GET", "/plugins/{image}/json", _s.no_plugin),
    _at(
        "GET", "/(swarm|nodes|services|tasks|secrets|configs)(/{object})?", _s.no_swarm, "filters status insertDefaults"
    ),
    _at("GET", "/volumes", _n.own_volumes, "filters"),
    _at("POST", "/volumes/create", _n.create_volume),
    _at("POST", "/volumes/prune", _n.prune_volumes, "filters"),
    _at("GET", "/volumes/{object}", _n.on_volume),
    _at("DELETE", "/volumes/{object}", _n.on_volume, "force"),
)

REASONS = {
    "/swarm": "a run has no swarm: it would open the engine's machine to the network",
    "/nodes": "a run has no swarm",
    "/services": "a run has no swarm",
    "/tasks": "a run has no swarm",
    "/secrets": "a run has no swarm",
    "/configs": "a run has no swarm",
    "/plugins": "plugins run on the engine's machine, as root",
    "/auth": "the engine would log in from its own machine's network; pull and push with credentials work",
}
"""First part of a path -> why no endpoint below it is for a run."""


def find_endpoint(method: str, path: str) -> tuple[Endpoint, dict[str, str]]:
    """Return who decides on METHOD and PATH, and what the path names.

    Raises:
        Refused: The guard does not know it.
    """
    for endpoint in ENDPOINTS:
        if endpoint.method == method and (match := endpoint.pattern.fullmatch(path)):
            return endpoint, match.groupdict()
    for prefix, why in REASONS.items():
        if path == prefix or path.startswith(f"{prefix}/"):
            raise refuse(f"{method} {path[:80]}", why)
    raise refuse(f"{method} {path[:80]}", "the guard does not know this endpoint")


async def decide(call: Call) -> Forward | Reply:
    """Return what becomes of CALL.

    Raises:
        Refused: Nothing.
    """
    endpoint, groups = find_endpoint(call.method, call.path)
    call.groups = groups
    if not endpoint.own_query:
        call.check_query(endpoint.query, endpoint.several)
    return await endpoint.handler(call)
