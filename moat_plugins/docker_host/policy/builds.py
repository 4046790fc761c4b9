"""BuildKit's own API, method by method (moby/buildkit, api/services/control and frontend/gateway, v0.12 to v0.20).

What a build may do beyond a container's everyday rights it must be *entitled* to, and the only way to ask for that is
a field of Control.Solve. The rest is about others' things: names of images, cache mounts, the records of their builds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_plugins.docker_host.images import Making
from moat_plugins.docker_host.policy.fields import is_reserved_label
from moat_plugins.docker_host.policy.images import check_new_tag
from moat_plugins.docker_host.policy.limits import check_ulimit
from moat_plugins.docker_host.policy.verdict import Refused, refuse
from moat_plugins.docker_host.wire import check_once, decode, encode, read_map, text_of, write_entry

if TYPE_CHECKING:
    from moat_plugins.docker_host.engine import Engine
    from moat_plugins.docker_host.scope import Scope
    from moat_plugins.docker_host.wire import Field

__all__ = ["CHECKED", "PASSED", "check_message", "why_refused"]

_CONTROL = "/moby.buildkit.v1.Control/"
_BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge/"

CHECKED = frozenset({f"{_CONTROL}Solve", f"{_CONTROL}ListenBuildHistory", f"{_BRIDGE}Solve"})
"""Methods of one request message, which is looked at whole."""

_PASSED_BRIDGE = "Evaluate Inputs Ping ReadDir ReadFile ResolveImageConfig ResolveSourceMeta Return StatFile Warn"

PASSED = frozenset(
    {f"{_CONTROL}{name}" for name in ("Status", "Info", "ListWorkers")}
    | {f"{_BRIDGE}{name}" for name in _PASSED_BRIDGE.split()}
    | {"/grpc.health.v1.Health/Check"}
)
"""Methods that concern only a build whose random reference the caller knows, or tell nothing of others."""

_REFUSED = {
    f"{_CONTROL}Prune": "the build cache is everybody's",
    f"{_CONTROL}DiskUsage": "the build cache is everybody's",
    f"{_CONTROL}UpdateBuildHistory": "the records of builds are everybody's",
    f"{_BRIDGE}NewContainer": "containers are made by the engine's own API only",
    f"{_BRIDGE}ExecProcess": "containers are made by the engine's own API only",
}

_EXPORTERS = {"", "moby", "image", "docker", "oci", "local", "tar", "cacheonly"}
_EXPORTER_ATTRIBUTES = {
    "name",
    "name-canonical",
    "dest",
    "tar",
    "push",
    "push-by-digest",
    "unpack",
    "store",
    "dangling-name-prefix",
    "oci-mediatypes",
    "compression",
    "compression-level",
    "force-compression",
    "rewrite-timestamp",
    "platform-split",
    "buildinfo",
    "attestation-prefix",
    "context",
}
# fmt: off
_OPTIONS = frozenset({
    "add-hosts", "attest:provenance", "cmdline", "context", "contextkey", "contextsubdir", "dockerfilekey", "filename",
    "force-network-mode", "frontend.caps", "hostname", "image-resolve-mode", "multi-platform", "no-cache",
    "override-copy-image", "platform", "requestid", "shm-size", "source", "target", "ulimit",
})
"""Of the Dockerfile frontend (moby/buildkit, frontend/dockerui/config.go), without cgroup-parent and cache imports."""
# fmt: on
_OPTION_FAMILIES = ("build-arg:", "context:", "input-metadata:", "label:", "local-sessionid:", "vcs:")
_ENTITLEMENTS = {"network.host": "host-network", "security.insecure": "privileged"}
_FRONTENDS = {"", "dockerfile.v0"}


def why_refused(method: str) -> tuple[str, bool]:
    """Return why METHOD is not passed on, and whether it is known at all."""
    if method in _REFUSED:
        return f"moat: {method.rpartition('/')[2]} is not allowed in this run: {_REFUSED[method]}.", True
    return f"moat: the guard does not know {method[:120]}.", False


async def check_message(method: str, data: bytes, engine: Engine) -> tuple[bytes, list[Making]]:
    """Return the request message to send on, and the images that it makes, to be adopted when it is answered.

    Raises:
        Refused: Something of it is not allowed or not known.
    """
    fields = decode(data)
    if method == f"{_CONTROL}Solve":
        checked, makings = await _check_solve(fields, engine)
        return encode(checked), makings
    if method == f"{_BRIDGE}Solve":
        return encode(_check_bridge_solve(fields, engine.scope)), []
    check_once(fields, (2, 4), several=(4,))
    if not any(number == 2 and value for number, _, value in fields):  # noqa: PLR2004 - BuildHistoryRequest.Ref
        raise refuse("listing builds", "the records of builds are everybody's")
    return encode(fields), []


async def _check_solve(fields: list[Field], engine: Engine) -> tuple[list[Field], list[Making]]:
    """control.proto, SolveRequest. What an exporter makes in the engine is made under a name of the guard's."""
    makings: list[Making] = []
    made: list[Field] = [field for field in fields if field[0] not in {4, 13}]
    check_once(fields, (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13), several=(4, 7, 9, 10, 13))
    plain = {1, 5, 11, 14}  # Ref, Session, Internal, EnableSessionExporter
    for number, _, value in fields:
        if number in {2, 10}:
            _refuse_llb(value)
        elif number == 3:  # noqa: PLR2004 - ExporterDeprecated
            attributes = await _check_exporter(text_of(value), read_map(fields, 4), engine, makings)
            made += [write_entry(4, key, item) for key, item in attributes.items()]
        elif number == 6:  # noqa: PLR2004 - Frontend
            _check_frontend(text_of(value))
        elif number == 8:  # noqa: PLR2004 - Cache
            _check_cache(decode(value))
        elif number == 9:  # noqa: PLR2004 - Entitlements
            _check_entitlement(text_of(value), engine.scope)
        elif number == 12:  # noqa: PLR2004 - SourcePolicy
            _refuse_policy(value)
        elif number == 13:  # noqa: PLR2004 - Exporters
            made.append((13, 2, encode(await _check_one_exporter(decode(value), engine, makings))))
        elif number not in plain | {4, 7}:
            raise refuse(f"field {number} of a build's request", "the guard does not know it")
    return _force_attributes(made, 7, engine.scope), makings


def _check_bridge_solve(fields: list[Field], scope: Scope) -> list[Field]:
    """gateway.proto, SolveRequest."""
    check_once(fields, (1, 2, 3, 4, 11, 12, 13, 15), several=(3, 4, 12, 13, 15))
    plain = {5, 6, 10, 11, 14}  # how results are returned, Final, ExporterAttr, Evaluate
    for number, _, value in fields:
        if number in {1, 12}:
            _refuse_llb(value)
        elif number == 2:  # noqa: PLR2004 - Frontend
            _check_frontend(text_of(value))
        elif number in {4, 13}:
            _refuse_import(value)
        elif number == 15:  # noqa: PLR2004 - SourcePolicies
            _refuse_policy(value)
        elif number not in plain | {3}:
            raise refuse(f"field {number} of a build's request", "the guard does not know it")
    return _force_attributes(fields, 3, scope)


def _check_cache(fields: list[Field]) -> None:
    """control.proto, CacheOptions: results may be handed out, but nobody else's builds shall find what comes in."""
    check_once(fields, (1, 2, 3, 4, 5), several=(2, 3, 4, 5))
    for number, _, value in fields:
        if number in {2, 5}:
            _refuse_import(value)
        elif number not in {1, 3, 4}:
            raise refuse(f"field {number} of a build's caches", "the guard does not know it")


def _refuse_import(value: bytes) -> None:
    if value:
        raise refuse("importing a build's cache", "the engine's cache is everybody's, and would believe it")


def _refuse_policy(value: bytes) -> None:
    if value:
        raise refuse("a source policy", "the guard does not know what it says")


async def _check_one_exporter(fields: list[Field], engine: Engine, makings: list[Making]) -> list[Field]:
    """control.proto, Exporter."""
    check_once(fields, (1, 2), several=(2,))
    if not {number for number, _, _ in fields} <= {1, 2}:
        raise refuse("this build output", "the guard does not know all of it")
    kind = next((text_of(value) for number, _, value in fields if number == 1), "")
    attributes = await _check_exporter(kind, read_map(fields, 2), engine, makings)
    others = [field for field in fields if field[0] != 2]  # noqa: PLR2004 - Attrs
    return [*others, *(write_entry(2, key, item) for key, item in attributes.items())]


def _refuse_llb(value: bytes) -> None:
    if value:
        raise refuse("a build from anything but a Dockerfile", "its steps could use the build caches of others")


def _check_frontend(name: str) -> None:
    if name not in _FRONTENDS:
        raise refuse(f"the build frontend {name[:40]}", "its steps could use the build caches of others")


def _check_entitlement(name: str, scope: Scope) -> None:
    option = _ENTITLEMENTS.get(name, "")
    if not option or not scope.allows(option):
        raise refuse(f"the entitlement {name[:40]}", "steps of a build have a container's everyday rights", option)


async def _check_exporter(
    kind: str, attributes: dict[str, str], engine: Engine, makings: list[Making]
) -> dict[str, str]:
    """Return the attributes to send on. What goes to the client has the names that it wants, as they are its own."""
    if kind not in _EXPORTERS:
        raise refuse(f"the build output {kind[:40]}", "the guard does not know it")
    for key in attributes:
        if key not in _EXPORTER_ATTRIBUTES and not key.startswith(("annotation", "attestation")):
            raise refuse(f"the option {key[:40]} of a build's output", "the guard does not know it")
    if kind not in {"moby", "image"}:
        return attributes
    if attributes.get("push", "") not in {"", "false", "0"}:
        raise refuse("pushing while building", "the image has another name until it is there; `docker push` then")
    names = [await check_new_tag(name, engine) for name in attributes.get("name", "").split(",") if name]
    makings.append(Making.begin(engine, names))
    return {**attributes, "name": makings[-1].reference}


def _force_attributes(fields: list[Field], number: int, scope: Scope) -> list[Field]:
    """Return FIELDS with what the run forces on the frontend; the map of its options is field NUMBER.

    ``cmdline`` keeps the frontend from handing over to the one that a ``# syntax=`` line names, which could make steps
    of any kind; the namespace keeps cache mounts apart. The host's name is part of the key under which a step's result
    is cached: what else decides a result (secrets, the proxy of a build argument) is not, so that without it a run
    could have others find results of its own making.
    """
    options = read_map(fields, number)
    if unknown := [key for key in options if key not in _OPTIONS and not key.startswith(_OPTION_FAMILIES)]:
        raise refuse(f"the build option {min(unknown)[:60]}", "the guard does not know it")
    for limit in options.get("ulimit", "").split(","):
        check_ulimit(limit.partition("=")[0] or None, "ulimit")
    if options.get("force-network-mode", "") == "host" and not scope.allows("host-network"):
        raise refuse("building with the network host", "it is the engine machine's own", "host-network")
    if options.get("force-network-mode", "") not in {"", "host", "none", "sandbox", "default"}:
        raise Refused("moat: the guard does not know this network of a build.", status=403)
    for key in options:
        if key.startswith("label:") and is_reserved_label(key.removeprefix("label:")):
            raise refuse(f"the label {key[6:66]}", "labels of moat's own tell whose an object is")
    forced = {
        "build-arg:BUILDKIT_CACHE_MOUNT_NS": scope.run_id,
        "build-arg:BUILDKIT_SANDBOX_HOSTNAME": f"moat-{scope.run_id}",
        "hostname": f"moat-{scope.run_id}",
        "cmdline": "moat",
    }
    forced_keys = {*forced, "build-arg:BUILDKIT_SYNTAX"}
    kept = {key: value for key, value in options.items() if key not in forced_keys}
    others = [field for field in fields if field[0] != number]
    return [*others, *(write_entry(number, key, value) for key, value in {**kept, **forced}.items())]
