"""Nothing that was asked for is dropped without a word: each demand is claimed by whoever honours it.

Two tables, both made from the attrs fields themselves, so that a new field is refused until somebody claims it:

- of a plan: a runtime names in `RuntimeInfo.honours` what it does, ``network``, ``limits.pids``, ``mounts.read_only``;
- of a request and its config: core does some itself (`CORES`), a plugin claims what it takes up
  (`PlanBuilder.claim`): ``sandbox``, ``hooks.pre_run``.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from moat_core.types import Problem

if TYPE_CHECKING:
    from moat_core.config import Config
    from moat_core.plan.plan import Plan
    from moat_core.plan.request import RunRequest
    from moat_core.runtime.base import RuntimeInfo

__all__ = ["ASKS", "CORES", "ask_sandbox", "check_honours", "check_taken_up", "find_demands", "list_demands"]

ASKS = "moat_asks"
"""Metadata of a field of `Plan`: ``()`` is core's own, ``(nothing,)`` asks for something when it is another value.
Without it a field always asks."""

CORES = frozenset(
    {
        *("command", "env", "hold", "interactive", "keep", "mounts", "name", "network", "options", "ports", "rebuild"),
        *("config", "run_id", "runtime", "size", "timeout_s", "tty"),
        *("container.cpus", "container.dns", "container.memory", "container.pids", "history.days", "history.runs"),
    }
)
"""What `make_plan` itself takes from a request and a config into the plan; the plan's own table goes on from there."""


def find_demands(plan: Plan) -> tuple[str, ...]:
    """Return the names of what PLAN asks of its runtime: ``mounts``, and ``mounts.read_only`` if one of them is."""
    return tuple(dict.fromkeys(_demands(plan)))


@functools.cache
def list_demands() -> frozenset[str]:
    """Return all names that `find_demands` can ever return."""
    from moat_core.plan.plan import Plan

    names: set[str] = set()
    for field, hint in ((field, typing.get_type_hints(Plan)[field.name]) for field in attrs.fields(Plan)):
        asks = field.metadata.get(ASKS)
        if asks == ():
            continue
        is_one = attrs.has(hint)
        if not (is_one and asks):
            names.add(field.name)
        for kind in [hint] if is_one else [each for each in typing.get_args(hint) if attrs.has(each)]:
            parts = [each for each in attrs.fields(kind) if (is_one and asks) or _is_optional(each)]
            names |= {f"{field.name}.{each.name}" for each in parts}
    return frozenset(names)


def check_honours(plan: Plan, runtime: RuntimeInfo) -> list[Problem]:
    """Return a problem for each demand of PLAN that RUNTIME does not say it honours."""
    return [
        Problem(
            f"The runtime '{runtime.name}' does not honour {name}, which this run asks for.",
            "Take another runtime, or leave it out. A runtime's plugin declares it in RuntimeInfo.honours.",
            where=name,
        )
        for name in find_demands(plan)
        if name not in runtime.honours
    ]


def check_taken_up(request: RunRequest, config: Config, claimed: Mapping[str, str]) -> list[Problem]:
    """Return a problem for each thing that was asked for and that neither core nor a plugin has taken up.

    Args:
        request: See `RunRequest`.
        config: Likewise asked for by the user.
        claimed: Name -> plugin.
    """
    asked = dict.fromkeys([*_wants(request), *_wants(config.core)])
    if not ask_sandbox(request, config):
        asked.pop("sandbox", None)  # to go without asks nothing of anybody; the default is the lifecycle's to insist on
    return [
        Problem(
            f"Nothing takes up {name}, which was asked for: the plugin that does is disabled, or there is none.",
            "`moat plugins` shows what is loaded; look at --without and MOAT_DISABLE, too.",
            where=name,
        )
        for name in asked
        if name not in CORES and name not in claimed
    ]


def ask_sandbox(request: RunRequest, config: Config) -> bool | None:
    """Return `Plan.sandbox`: whether REQUEST, or else CONFIG, insists (``True``) or goes without (``False``)."""
    if request.sandbox is not None:
        return request.sandbox
    return None if config.core.sandbox is None else config.core.sandbox != "none"


def _wants(value: Any, prefix: str = "") -> Iterator[str]:
    """Yield the names of all fields that have another value than their defaults, those of sections one by one."""
    for field in attrs.fields(type(value)):
        item = getattr(value, field.name)
        if f"{prefix}{field.name}" in CORES:
            continue  # core's as a whole: how a config that was read is written down asks nothing of a plugin
        if attrs.has(type(item)):
            yield from _wants(item, f"{prefix}{field.name}.")
        elif not _is_optional(field) or item != _default(field):
            yield f"{prefix}{field.name}"


def _demands(plan: Plan) -> Iterator[str]:
    for field in attrs.fields(type(plan)):
        asks, value = field.metadata.get(ASKS), getattr(plan, field.name)
        if asks == () or (asks and asks[0] == value):
            continue
        if asks and attrs.has(type(value)):
            for each in attrs.fields(type(value)):
                if getattr(value, each.name) != getattr(asks[0], each.name):
                    yield f"{field.name}.{each.name}"
            continue
        yield field.name
        for item in _parts(value):
            for each in attrs.fields(type(item)):
                if _is_optional(each) and getattr(item, each.name) != _default(each):
                    yield f"{field.name}.{each.name}"


def _parts(value: Any) -> list[Any]:
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,)
    return [item for item in items if attrs.has(type(item))]


def _is_optional(field: Any) -> bool:
    return field.default is not attrs.NOTHING and field.metadata.get(ASKS) != ()


def _default(field: Any) -> Any:
    return field.default.factory() if isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type]
