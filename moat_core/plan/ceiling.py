"""Holding a plan against the user's ceiling: whoever asked for more, a flag or a plugin, it is an error naming it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from moat_core.config.ceiling import covers_any
from moat_core.config.judges import is_inside
from moat_core.types import Limits, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from moat_core.config import Ceiling, Config
    from moat_core.plan.plan import Plan
    from moat_core.plan.request import RunRequest

__all__ = ["exceeds", "fill", "limits_of"]

_HINT = "It is your own: `ceiling:` in ~/.config/moat/config.yaml."
# What of a request means what which key does.
_KEYS = {
    "name": "name",
    "runtime": "runtime",
    "sandbox": "sandbox",
    "base_image": "base_image",
    "dependencies": "dependencies",
    "env": "env",
    "mounts": "mounts",
    "ports": "ports",
    "command": "command",
    "interactive": "interactive",
}


def limits_of(config: Config) -> Limits:
    """Return the limits that CONFIG names; where it names none, the ceiling's, if it has one."""
    container, ceiling = config.core.container, config.ceiling
    pids = container.pids or min(Limits().pids, ceiling.pids or Limits().pids)
    return Limits(container.memory or ceiling.memory, container.cpus or ceiling.cpus, pids)


def fill(config: Config) -> Config:
    """Return CONFIG with the ceiling's word where nobody else has said anything."""
    core, ceiling = config.core, config.ceiling
    if ceiling.network == "none" and core.network != "none" and config.origin("network") == "default":
        core = attrs.evolve(core, network="none")
    if ceiling.sandbox == "required" and core.sandbox is None:
        core = attrs.evolve(core, sandbox="gvisor")
    return config if core is config.core else attrs.evolve(config, core=core)


def exceeds(plan: Plan, request: RunRequest, config: Config) -> Iterator[Problem]:
    """Yield what of PLAN, and of what was asked for, is beyond the ceiling."""
    ceiling = config.ceiling
    for what, key, has, most in (
        ("memory", "memory", plan.limits.memory_bytes, ceiling.memory),
        ("CPUs", "cpus", plan.limits.cpus, ceiling.cpus),
        ("processes", "pids", plan.limits.pids, ceiling.pids),
    ):
        if most is not None and (has is None or has > most):
            shown = "no limit" if has is None else f"{has:g}"
            yield _problem(key, f"The run's limit of {what} is {shown}; the most is {most:g}.")
    if ceiling.sandbox == "required" and not plan.sandboxed:
        yield _problem("sandbox", "The run would go without gVisor, which is required.")
    if ceiling.network == "none" and plan.network != "none":
        yield _problem("network", "The run would have a network, and none may.")
    if plan.privileged and not ceiling.privileged:
        yield _problem("privileged", f"The run's container would be privileged: {plan.privileged}")
    if plan.capabilities and not ceiling.capabilities:
        yield _problem("capabilities", f"The run would keep the capabilities {', '.join(sorted(plan.capabilities))}.")
    yield from _mounts(plan, ceiling)
    yield from _dependencies([*config.core.dependencies, *request.dependencies], ceiling)
    yield from _fixed(request, ceiling)


def _mounts(plan: Plan, ceiling: Ceiling) -> Iterator[Problem]:
    if ceiling.mounts is None:
        return
    for mount in plan.mounts:
        if not any(is_inside(mount.source, root) for root in (plan.workspace, *ceiling.mounts)):
            yield _problem("mounts", f"{mount.source} is in none of the folders that mounts may come from.")


def _dependencies(names: list[str], ceiling: Ceiling) -> Iterator[Problem]:
    allowed = ceiling.dependencies
    if allowed == "any":
        return
    for name in names:
        if ":" in name if allowed == "plain" else name not in allowed and name.partition("@")[0] not in allowed:
            yield _problem("dependencies", f"{name!r} may not be asked for.")


def _fixed(request: RunRequest, ceiling: Ceiling) -> Iterator[Problem]:
    if not ceiling.fixed:
        return
    for field, key in _KEYS.items():
        value: Any = getattr(request, field)
        is_asked = value not in (None, False, (), {}) or (field == "sandbox" and value is False)
        if is_asked and covers_any(ceiling, key):
            yield _problem("fixed", f"{key} is left to your own config.")


def _problem(key: str, message: str) -> Problem:
    return Problem(message, _HINT, where=f"ceiling.{key}")
