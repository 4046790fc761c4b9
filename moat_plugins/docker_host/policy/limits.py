"""What a container may take of the machine: never more than the run itself may, and no devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moat_plugins.docker_host.policy.shape import (
    DROPPED,
    anything,
    deny,
    drop,
    each,
    integer,
    is_harmless,
    number,
    one_of,
    shape,
    table,
    text,
)

if TYPE_CHECKING:
    from moat_plugins.docker_host.policy.shape import Rule
    from moat_plugins.docker_host.scope import Scope

__all__ = ["check_update", "force_limits", "free", "limit_fields"]


def limit_fields(scope: Scope) -> dict[str, Rule]:
    """What POST /containers/{id}/update takes, too."""
    limits = scope.plan.limits
    devices = deny("a container has no device of the machine's", "devices", unless=free(scope, "devices"))
    return {
        "CpuShares": number(0),
        "Memory": _at_most(limits.memory_bytes),
        "NanoCpus": _at_most(round(limits.cpus * 1_000_000_000) if limits.cpus else None),
        "BlkioWeight": number(0),
        "CpuPeriod": number(0),
        "CpuQuota": integer,
        "CpusetCpus": text,
        "CpusetMems": text,
        "MemoryReservation": number(0),
        "MemorySwap": integer,
        "MemorySwappiness": integer,
        "KernelMemory": drop,
        "KernelMemoryTCP": drop,
        "PidsLimit": _at_most(limits.pids),
        "Ulimits": each(table({"Name": text, "Soft": integer, "Hard": integer})),
        "CpuRealtimePeriod": deny("real-time scheduling can starve the machine"),
        "CpuRealtimeRuntime": deny("real-time scheduling can starve the machine"),
        "OomKillDisable": deny("the machine could run out of memory"),
        "CgroupParent": deny("another control group has other limits"),
        "Devices": devices,
        "DeviceCgroupRules": devices,
        "DeviceRequests": devices,
        "BlkioWeightDevice": devices,
        "BlkioDeviceReadBps": devices,
        "BlkioDeviceWriteBps": devices,
        "BlkioDeviceReadIOps": devices,
        "BlkioDeviceWriteIOps": devices,
        "RestartPolicy": table({"Name": _restart, "MaximumRetryCount": number(0)}),
    }


def _restart(value: Any, where: str) -> Any:
    """``always`` and ``unless-stopped`` come back whenever the engine does; the run's owner may be gone by then."""
    found = one_of("", "no", "on-failure", "always", "unless-stopped")(value, where)
    return "on-failure" if found in {"always", "unless-stopped"} else found


def _at_most(limit: int | None) -> Rule:
    """No more than the run itself has: 0 and less mean no limit to Docker."""

    def check(value: Any, where: str) -> Any:
        found = integer(value, where)
        if limit is None:
            return found
        return limit if found is DROPPED or found <= 0 else min(found, limit)

    return check


def free(scope: Scope, option: str) -> Rule | None:
    """Return the rule of a field that is the run's to use as it likes, if OPTION is allowed; ``None`` if not."""
    return anything if scope.allows(option) else None


def force_limits(host: dict[str, Any], scope: Scope) -> None:
    """Give HOST, a checked ``HostConfig``, the run's own limits where it names none."""
    for key in ("Memory", "NanoCpus", "PidsLimit"):
        if key not in host:
            limit = limit_fields(scope)[key](0, key)
            if limit:
                host[key] = limit
    if scope.plan.limits.memory_bytes is not None:
        host["MemorySwap"] = host["Memory"]
    if host.get("NanoCpus"):
        host.pop("CpuPeriod", None)
        host.pop("CpuQuota", None)  # Docker takes one or the other


def check_update(body: Any, scope: Scope) -> dict[str, Any]:
    """Return new limits of a container; those that it does not name stay."""
    if not isinstance(body, dict):
        return {}
    named = {key: item for key, item in body.items() if not is_harmless(item)}
    return shape(table(limit_fields(scope)), named)
