"""The body of POST /containers/create, field by field (Docker Engine API v1.45, ContainerCreate).

Pure: what is referred to (networks, containers, volumes, folders) is looked up afterwards, in `references`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from moat_plugins.docker_host.policy.fields import make_labels
from moat_plugins.docker_host.policy.limits import force_limits, free, limit_fields
from moat_plugins.docker_host.policy.mounts import ENDPOINT, MOUNT, check_tmpfs
from moat_plugins.docker_host.policy.shape import (
    DROPPED,
    boolean,
    deny,
    drop,
    each,
    integer,
    is_harmless,
    mapping,
    number,
    one_of,
    shape,
    table,
    text,
    texts,
)
from moat_plugins.docker_host.policy.verdict import refuse

if TYPE_CHECKING:
    from moat_plugins.docker_host.policy.shape import Rule
    from moat_plugins.docker_host.scope import Scope

__all__ = ["DEFAULT_CAPABILITIES", "LOG", "SIZE", "check_config", "check_create", "words"]

DEFAULT_CAPABILITIES = frozenset(
    [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "NET_RAW",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
)
"""What Docker gives a container that asks for nothing; moby, oci/caps/defaults.go."""

LOG = {"Type": "local", "Config": {"max-size": "10m", "max-file": "2"}}
"""The log of a container that asks for none in particular: of bounded size."""

_HARMLESS_SECURITY = re.compile(r"no-new-privileges(?:[:=](?:true))?|apparmor[:=]docker-default|seccomp[:=]builtin")
_HEALTH: Rule = table(
    {
        "Test": texts,
        "Interval": integer,
        "Timeout": integer,
        "StartPeriod": integer,
        "StartInterval": integer,
        "Retries": integer,
    }
)
_EMPTY_SET: Rule = mapping(table({}))
SIZE: Rule = each(number(0))
"""A terminal's rows and columns."""


def _config_fields(scope: Scope) -> dict[str, Rule]:
    """What a container and a committed image have in common."""
    return {
        "Hostname": text,
        "Domainname": text,
        "User": text,
        "AttachStdin": boolean,
        "AttachStdout": boolean,
        "AttachStderr": boolean,
        "ExposedPorts": _EMPTY_SET,
        "Tty": boolean,
        "OpenStdin": boolean,
        "StdinOnce": boolean,
        "Env": texts,
        "Cmd": words,
        "Healthcheck": _HEALTH,
        "ArgsEscaped": boolean,
        "Image": text,
        "Volumes": _EMPTY_SET,
        "WorkingDir": text,
        "Entrypoint": words,
        "NetworkDisabled": boolean,
        "MacAddress": text,
        "OnBuild": texts,
        "Labels": make_labels(scope),
        "StopSignal": text,
        "StopTimeout": integer,
        "Shell": texts,
    }


def words(value: Any, where: str) -> Any:
    """An argv, or one text; an empty list is not the same as nothing."""
    return text(value, where) if isinstance(value, str) else texts(value, where)


def _host_fields(scope: Scope) -> dict[str, Rule]:
    namespaces = free(scope, "host-namespaces")
    security = free(scope, "security-opt")
    return {
        **limit_fields(scope),
        "AutoRemove": boolean,
        "Binds": texts,
        "Mounts": each(MOUNT),
        "Tmpfs": mapping(check_tmpfs),
        "VolumesFrom": texts,
        "VolumeDriver": one_of("", "local", why="only the engine's own driver keeps data where the guard can tell"),
        "ContainerIDFile": drop,
        "LogConfig": _log,
        "NetworkMode": text,
        "PortBindings": mapping(each(table({"HostIp": text, "HostPort": text}))),
        "PublishAllPorts": boolean,
        "ConsoleSize": SIZE,
        "CapAdd": each(_capability(scope)),
        "CapDrop": texts,
        "Dns": texts,
        "DnsOptions": texts,
        "DnsSearch": texts,
        "ExtraHosts": texts,
        "GroupAdd": texts,
        "Links": texts,
        "IpcMode": _mode("", "none", "private", "shareable", joins=True, free=namespaces),
        "PidMode": _mode("", joins=True, free=namespaces),
        "UTSMode": _mode("", free=namespaces),
        "UsernsMode": _mode("", free=namespaces),
        "CgroupnsMode": _mode("", "private", free=namespaces),
        "Cgroup": deny("another control group has other limits"),
        "OomScoreAdj": number(0),
        "Privileged": deny(
            "a privileged container is root on the machine", "privileged", unless=free(scope, "privileged")
        ),
        "ReadonlyRootfs": boolean,
        "SecurityOpt": security or each(_security),
        "MaskedPaths": deny("what is masked tells of the machine, and controls it", "security-opt", unless=security),
        "ReadonlyPaths": deny("what is read-only controls the machine", "security-opt", unless=security),
        "Sysctls": deny("kernel settings are the machine's", "security-opt", unless=security),
        "Annotations": deny("annotations configure the OCI runtime"),
        "StorageOpt": mapping(text),
        "ShmSize": number(0),
        "Runtime": _runtime(scope),
        "Isolation": one_of("", "default"),
        "Init": boolean,
    }


def _mode(*words: str, joins: bool = False, free: Rule | None = None) -> Rule:
    """A namespace: one of WORDS, or ``container:NAME`` where it JOINS, which is looked up afterwards."""

    def check(value: Any, where: str) -> Any:
        found = text(value, where)
        if found is DROPPED or found in words or (joins and found.startswith("container:")) or free is not None:
            return found
        raise refuse(f"{where} = {found[:40]}", "it is shared with the engine's machine", "host-namespaces")

    return check


def _capability(scope: Scope) -> Rule:
    def check(value: Any, where: str) -> Any:
        found = text(value, where)
        name = found.upper().removeprefix("CAP_")
        if name not in DEFAULT_CAPABILITIES and not scope.allows("capabilities"):
            raise refuse(f"the capability {name[:40]}", "it is beyond what Docker gives by default", "capabilities")
        return found

    return check


def _security(value: Any, where: str) -> Any:
    found = text(value, where)
    if _HARMLESS_SECURITY.fullmatch(found) is None:
        raise refuse(f"the security option {found[:40]}", "it may weaken the isolation", "security-opt")
    return found


def _runtime(scope: Scope) -> Rule:
    """What the run itself was started with, whatever is asked for."""

    def check(value: Any, where: str) -> Any:
        found = text(value, where)
        if found is DROPPED or not found or found == scope.plan.oci_runtime or scope.allows("runtime"):
            return found
        raise refuse(f"the OCI runtime {found[:40]}", "containers are isolated as the run itself is", "runtime")

    return check


def _log(value: Any, where: str) -> Any:
    """Logs stay on the engine, and have a bounded size."""
    if is_harmless(value):
        return LOG
    found = table({"Type": one_of("", "json-file", "local", "none"), "Config": mapping(text)})(value, where)
    kind = found.get("Type", "")
    if kind == "none":
        return {"Type": "none", "Config": {}}
    known = {"max-size", "max-file", "compress", "mode", "env", "env-regex"}  # no labels: the run may not know ours
    config = {key: item for key, item in found.get("Config", {}).items() if key in known}
    if unknown := set(found.get("Config", {})) - known:
        raise refuse(f"the log option {min(unknown)[:40]}", "the guard does not know it")
    return {"Type": kind or "local", "Config": {**config, **LOG["Config"]}}  # type: ignore[dict-item]


def check_create(body: Any, scope: Scope) -> dict[str, Any]:
    """Return the container that BODY asks for, with what the run forces on it; references are still the run's words.

    Raises:
        Refused: Something of it is not allowed or not known.
    """
    fields = {
        **_config_fields(scope),
        "HostConfig": table(_host_fields(scope)),
        "NetworkingConfig": table({"EndpointsConfig": mapping(ENDPOINT)}),
    }
    config = shape(table(fields), body)
    config["Labels"] = config.get("Labels") or {}
    host = config.setdefault("HostConfig", {})
    host.setdefault("LogConfig", LOG)
    force_limits(host, scope)
    if scope.plan.oci_runtime and not (scope.allows("runtime") and host.get("Runtime")):
        host["Runtime"] = scope.plan.oci_runtime
    return config


def check_config(body: Any, scope: Scope) -> dict[str, Any]:
    """Return the config of an image to commit."""
    config = shape(table(_config_fields(scope)), body)
    config["Labels"] = config.get("Labels") or {}
    return config
