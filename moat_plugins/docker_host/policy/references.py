"""What a container refers to: networks, ports, folders, volumes, containers. Each is looked up, or made the run's."""

from __future__ import annotations

import hashlib
import posixpath
from typing import TYPE_CHECKING, Any

from moat_plugins.docker_host.folders import find_folder
from moat_plugins.docker_host.policy.fields import check_name, is_reserved_label, is_short_id
from moat_plugins.docker_host.policy.mounts import ENDPOINT
from moat_plugins.docker_host.policy.shape import DROPPED
from moat_plugins.docker_host.policy.verdict import Refused, missing, refuse
from moat_plugins.docker_host.scope import BIND_LABEL

if TYPE_CHECKING:
    from moat_plugins.docker_host.engine import Engine
    from moat_plugins.docker_host.folders import Bind
    from moat_plugins.docker_host.scope import Scope

__all__ = ["bind_ports", "check_endpoint", "resolve_create"]

_HERE = {"", "default", "bridge"}
_ANYWHERE = {"", "0.0.0.0", "127.0.0.1", "::", "::1", "localhost"}  # noqa: S104 - what a client may say, not bound
_BIND_OPTIONS = {"", "rw", "ro", "z", "Z", "rprivate", "private", "rslave", "slave", "nocopy", "cached", "delegated"}
_SUBPATH_MINOR = 45
_MOST_PORTS = 32


async def resolve_create(config: dict[str, Any], engine: Engine) -> dict[str, Any]:
    """Return CONFIG, which `check_create` made, with every reference put in the run's own terms.

    Raises:
        Refused: It refers to what the run may not use.
    """
    host, scope = config["HostConfig"], engine.scope
    image = config.get("Image", "")
    if is_short_id(image) and await engine.find_image(image) is None:
        raise missing("image", image)
    await _resolve_network(config, engine)
    for key in ("IpcMode", "PidMode"):
        if str(host.get(key, "")).startswith("container:"):
            host[key] = "container:" + await engine.own_container(host[key].partition(":")[2])
    host["VolumesFrom"] = [await _volumes_from(each, engine) for each in host.get("VolumesFrom", [])]
    host["Links"] = [await _link(each, engine) for each in host.get("Links", [])]
    await _resolve_mounts(config, engine)
    await _publish_all(config, engine)
    bind_ports(host, scope)
    return config


async def _resolve_network(config: dict[str, Any], engine: Engine) -> None:
    """Put the container on the run's network unless it asks for one of the run's own making."""
    host, scope = config["HostConfig"], engine.scope
    mode = host.get("NetworkMode", "")
    if mode == "host" and scope.allows("host-network"):
        return
    if mode.startswith("container:"):
        host["NetworkMode"] = "container:" + await engine.own_container(mode.partition(":")[2])
    elif mode in _HERE or mode == scope.network:
        host["NetworkMode"] = scope.network
    elif mode == "host":
        raise refuse("the network 'host'", "it is the engine machine's own", "host-network")
    elif mode != "none":
        host["NetworkMode"] = await engine.own_network(mode)
    given = config.get("NetworkingConfig", {}).get("EndpointsConfig") or {}
    ends = {}
    for name, end in given.items():
        if name == "host":
            raise refuse("the network 'host'", "it is the engine machine's own", "host-network")
        checked = await check_endpoint(end, engine)
        if name == "none":
            ends[name] = checked
        else:
            here = name in _HERE or name == scope.network
            ends[scope.network if here else await engine.own_network(name)] = checked
    if ends:
        config["NetworkingConfig"] = {"EndpointsConfig": ends}
    else:
        config.pop("NetworkingConfig", None)


async def check_endpoint(end: Any, engine: Engine) -> dict[str, Any]:
    """Return how a container may be on a network.

    Raises:
        Refused: It is linked to somebody else's container, or has a field that is not known.
    """
    checked = ENDPOINT(end, "EndpointConfig")
    if checked is DROPPED:
        return {}
    if checked.get("Links"):
        checked["Links"] = [await _link(each, engine) for each in checked["Links"]]
    made: dict[str, Any] = checked
    return made


async def _link(link: str, engine: Engine) -> str:
    name, colon, alias = link.partition(":")
    return (
        f"{await engine.own_container(name.removeprefix('/'))}{colon}{alias}"
        if colon
        else (f"{await engine.own_container(name.removeprefix('/'))}:{name.removeprefix('/')}")
    )


async def _volumes_from(each: str, engine: Engine) -> str:
    name, colon, mode = each.partition(":")
    if mode not in {"", "ro", "rw", "z", "Z", "ro,z", "rw,z"}:
        raise refuse(f"volumes from {each[:60]}", "the guard does not know this mode")
    return f"{await engine.own_container(name)}{colon}{mode}"


async def _resolve_mounts(config: dict[str, Any], engine: Engine) -> None:
    """Make every mount an entry of ``Mounts``: unlike ``Binds``, it makes nothing on the engine's machine."""
    host, scope = config["HostConfig"], engine.scope
    given = [_from_bind(each) for each in host.pop("Binds", [])]
    made: list[dict[str, Any]] = []
    for mount in [*given, *host.pop("Mounts", [])]:
        kind, source, target = mount.get("Type"), mount.get("Source", ""), _target(mount)
        if kind == "bind" and scope.allows("binds") and not _is_known(source, scope):
            made.append({key: item for key, item in mount.items() if key != "_make"})
        elif kind == "bind":
            made.append(await _bind(mount, source, target, engine))
        elif kind == "volume":
            if source:
                name = check_name(source, "a volume")
                await engine.ensure_volume(name, {})
            options = mount.get("VolumeOptions", {})
            labels = {key: item or "" for key, item in options.get("Labels", {}).items() if not is_reserved_label(key)}
            made.append({**mount, "VolumeOptions": {**options, "Labels": labels}})
        elif kind == "tmpfs":
            made.append(mount)
        else:
            raise Refused("moat: a mount needs a type: bind, volume or tmpfs.", status=400)
    if made:
        host["Mounts"] = made


def _target(mount: dict[str, Any]) -> str:
    target = mount.get("Target", "")
    if not isinstance(target, str) or not target.startswith("/"):
        raise Refused(f"invalid mount config: invalid mount path: '{target}' mount path must be absolute", status=400)
    return posixpath.normpath(target)


def _from_bind(bind: str) -> dict[str, Any]:
    """Read ``source:target[:options]``; a source that is no path is a volume's name."""
    parts = bind.split(":")
    if not 2 <= len(parts) <= 3:  # noqa: PLR2004 - as above
        raise Refused(f"invalid volume specification: '{bind[:200]}'", status=400)
    options = parts[2].split(",") if len(parts) == 3 else []  # noqa: PLR2004 - as above
    if unknown := set(options) - _BIND_OPTIONS:
        raise refuse(f"the mount option {min(unknown)[:40]}", "the guard does not know it")
    mount: dict[str, Any] = {"Target": parts[1], "ReadOnly": "ro" in options}
    if parts[0].startswith("/"):
        return {**mount, "Type": "bind", "Source": parts[0], "_make": True}
    return {**mount, "Type": "volume", "Source": parts[0], "VolumeOptions": {"NoCopy": "nocopy" in options}}


def _is_known(source: str, scope: Scope) -> bool:
    path = posixpath.normpath("/" + source.lstrip("/"))
    return any(path == mount.target or path.startswith(f"{mount.target}/") for mount in scope.plan.mounts)


async def _bind(mount: dict[str, Any], source: str, target: str, engine: Engine) -> dict[str, Any]:
    if not source.startswith("/"):
        raise Refused(f"invalid mount config for type \"bind\": invalid mount path: '{source}'", status=400)
    make = bool(mount.get("_make") or mount.get("BindOptions", {}).get("CreateMountpoint"))
    return await _show(
        find_folder(source, target, engine.scope, read_only=bool(mount.get("ReadOnly")), make=make), engine
    )


async def _show(bind: Bind, engine: Engine) -> dict[str, Any]:
    """Return the mount that shows BIND.

    A whole mount of the run is bound as it is: nobody inside can put a link in its place. Below that the engine
    itself goes from a volume on the mount's root to a path in it, and follows no link out of it, whatever changes
    meanwhile (``Subpath``, API v1.45; moby, internal/safepath). Where another run can put something else in the root's
    place, it is named by our own descriptor, which the engine opens itself, in its own mount namespace.
    """
    scope = engine.scope
    if not bind.below and not bind.pinned:
        return {"Type": "bind", "Source": bind.root, "Target": bind.target, "ReadOnly": bind.read_only}
    if bind.below and not scope.speaks(_SUBPATH_MINOR):
        raise refuse(
            "mounting a part of the workspace",
            "this engine is older than Docker 26 and could be led out of it; mount the whole workspace",
        )
    device = bind.pinned or bind.root
    name = f"moat-{scope.run_id}-{hashlib.sha256(f'{device} {bind.root}'.encode()).hexdigest()[:12]}"
    labels = {BIND_LABEL: "true"}
    await engine.ensure_volume(name, labels, {"type": "none", "o": "bind", "device": device})
    return {
        "Type": "volume",
        "Source": name,
        "Target": bind.target,
        "ReadOnly": bind.read_only,
        "VolumeOptions": {"NoCopy": True} | ({"Subpath": bind.below} if bind.below else {}),
    }


async def _publish_all(config: dict[str, Any], engine: Engine) -> None:
    """Do what ``docker run -P`` means port by port, since the engine would open each on every address."""
    host = config["HostConfig"]
    if not host.pop("PublishAllPorts", False):
        return
    image = await engine.find_image(config.get("Image", ""))
    exposed = {**((image or {}).get("Config") or {}).get("ExposedPorts", {}), **(config.get("ExposedPorts") or {})}
    host["PortBindings"] = {**{port: [{}] for port in exposed}, **(host.get("PortBindings") or {})}


def bind_ports(host: dict[str, Any], scope: Scope) -> None:
    """Open published ports on the run's gateway only: the run and its containers reach them there.

    Raises:
        Refused: Another address is asked for.
    """
    ports = host.get("PortBindings") or {}
    if sum(len(bindings or [{}]) for bindings in ports.values()) > _MOST_PORTS:
        raise refuse(f"publishing more than {_MOST_PORTS} ports", "each is a process of root's on the engine's machine")
    for port, bindings in ports.items():
        made = []
        for binding in bindings or [{}]:
            address = binding.get("HostIp", "")
            if scope.allows("any-publish") and address not in {"", scope.gateway}:
                made.append(binding)
                continue
            if address not in _ANYWHERE | {scope.gateway}:
                raise refuse(f"publishing {port} on {address[:40]}", "the address is not the run's", "any-publish")
            made.append({"HostIp": scope.gateway, "HostPort": binding.get("HostPort", "")})
        host["PortBindings"][port] = made
