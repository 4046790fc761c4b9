"""What a container may take of the machine: never more than the run itself may, and no devices.

One table says it for all who can ask: POST /containers/create, where what is not named is filled in, POST
/containers/{id}/update, where it stays as it is, and the classic builder's steps, which are containers, too. After the
table, `hold` makes of the fields that say the same thing twice (a quota and processors, memory and swap) the one that
counts, so that none of them lifts what another holds.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from moat_plugins.docker_host.policy.shape import (
    DROPPED,
    anything,
    deny,
    drop,
    each,
    integer,
    is_harmless,
    load,
    number,
    one_of,
    shape,
    table,
    text,
)
from moat_plugins.docker_host.policy.verdict import Refused, refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moat_plugins.docker_host.policy.shape import Rule
    from moat_plugins.docker_host.scope import Scope

__all__ = ["check_build_limits", "check_ulimit", "check_update", "force_limits", "free", "limit_fields"]

_SHARES, _BLKIO = 1024, 500
"""The weights that the run's own container has, Docker's defaults: with more, guests would crowd everybody else out."""
_PERIOD_US = 100_000
_ULIMITS = frozenset(
    ["core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nofile", "nproc", "rss", "sigpending", "stack"]
)
"""What a process may have more of; not ``rtprio`` and ``nice``, by which it would go before the machine's own."""


def limit_fields(scope: Scope) -> dict[str, Rule]:
    """The table. `hold` is to be called on what it makes."""
    limits = scope.plan.limits
    devices = deny("a container has no device of the machine's", "devices", unless=free(scope, "devices"))
    real_time = deny("real-time scheduling can starve the machine")
    return {
        "CpuShares": _weight(_SHARES),
        "Memory": _at_most(limits.memory_bytes),
        "NanoCpus": _at_most(_nano(scope)),
        "BlkioWeight": _weight(_BLKIO),
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
        "Ulimits": each(table({"Name": check_ulimit, "Soft": integer, "Hard": integer})),
        "CpuRealtimePeriod": real_time,
        "CpuRealtimeRuntime": real_time,
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


def hold(made: dict[str, Any], scope: Scope) -> dict[str, Any]:
    """Return MADE, which the table passed, with no two fields of which one would lift the other's limit.

    Docker keeps ``NanoCpus`` and a quota side by side, and of an update's ``CpuQuota`` of -1 it makes "none at all";
    ``MemorySwap`` is the sum of memory and swap, -1 for swap without end (API v1.45).
    """
    made = dict(made)
    if (most := _nano(scope)) is not None:
        period, quota = made.pop("CpuPeriod", 0) or _PERIOD_US, made.pop("CpuQuota", 0)
        if quota > 0:
            made["NanoCpus"] = max(1, min(quota * 1_000_000_000 // period, made.get("NanoCpus") or most, most))
    if scope.plan.limits.memory_bytes is not None:
        made.pop("MemorySwap", None)
        if "Memory" in made:
            made["MemorySwap"] = made["Memory"]  # equal: no swap beside it, as the run has none
    return made


def force_limits(host: dict[str, Any], scope: Scope) -> None:
    """Give HOST, a checked ``HostConfig``, the run's own limits where it names none."""
    held = hold(host, scope)
    for key in ("Memory", "NanoCpus", "PidsLimit"):
        if key not in held and (limit := limit_fields(scope)[key](0, key)):
            held[key] = limit
    host.clear()
    host.update(hold(held, scope))


def check_update(body: Any, scope: Scope) -> dict[str, Any]:
    """Return new limits of a container; those that it does not name stay.

    Raises:
        Refused: It names something that the table does not know, or that nobody may have.
    """
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise Refused("moat: the body must be an object.", status=400)
    named = {key: item for key, item in body.items() if not is_harmless(item)}
    return hold(shape(table(limit_fields(scope)), named), scope)


_BUILD = {"memory": "Memory", "memswap": "MemorySwap", "cpushares": "CpuShares", "cpusetcpus": "CpusetCpus"}
_BUILD |= {"cpuperiod": "CpuPeriod", "cpuquota": "CpuQuota", "ulimits": "Ulimits"}
"""Parameters of POST /build -> fields of a container that mean the same."""


def check_build_limits(query: Mapping[str, str], scope: Scope) -> dict[str, str]:
    """Return the QUERY of POST /build with the limits of a container for its steps.

    Raises:
        Refused: It asks for what a container may not have.
    """
    others = {name: value for name, value in query.items() if name not in _BUILD}
    asked: dict[str, Any] = {"CpusetCpus": query.get("cpusetcpus", "")}
    for name, field in _BUILD.items():
        if name != "cpusetcpus" and query.get(name):
            asked[field] = load(query[name].encode())
    made = shape(table(limit_fields(scope)), asked)
    force_limits(made, scope)
    if nano := made.get("NanoCpus"):  # which this endpoint does not know
        made |= {"CpuPeriod": _PERIOD_US, "CpuQuota": nano * _PERIOD_US // 1_000_000_000}
    limits = {name: made[field] for name, field in _BUILD.items() if made.get(field)}
    if "ulimits" in limits:
        limits["ulimits"] = json.dumps(limits["ulimits"])
    return {**others, **{name: str(value) for name, value in limits.items()}}


def check_ulimit(value: Any, where: str) -> Any:
    """The name of a limit that a process inherits (setrlimit(2))."""
    found = text(value, where)
    if found is not DROPPED and found not in _ULIMITS:
        raise refuse(f"the ulimit {found[:40]}", "it can starve the machine, or the guard does not know it")
    return found


def free(scope: Scope, option: str) -> Rule | None:
    """Return the rule of a field that is the run's to use as it likes, if OPTION is allowed; ``None`` if not."""
    return anything if scope.allows(option) else None


def _nano(scope: Scope) -> int | None:
    cpus = scope.plan.limits.cpus
    return round(cpus * 1_000_000_000) if cpus else None


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


def _weight(most: int) -> Rule:
    """A weight against others', MOST at the most; 0 is the default."""

    def check(value: Any, where: str) -> Any:
        found = number(0)(value, where)
        return found if found is DROPPED else min(found, most)

    return check
