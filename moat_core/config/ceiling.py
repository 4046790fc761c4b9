"""``ceiling:`` in the user's own config: what no run gets, whoever asks for it, flags included.

Only `load_config` reads it, from the user's file alone; `moat_core.plan.ceiling` holds plans against it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs

from moat_core.config.core import check_cpus, check_pids, read_memory
from moat_core.config.options import FieldSpec, fields_of, option
from moat_core.config.values import BadValue

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moat_core.config.schema import Layer
    from moat_core.config.tree import Problems

__all__ = ["CEILING", "CEILING_FIELD", "Ceiling", "check_fixed"]

CEILING = "ceiling"
"""The key in the user's config."""


def _check_root(value: Path) -> None:
    if not os.path.isabs(value):
        raise BadValue("a root is an absolute path, or one that starts with ~/")


@attrs.frozen
class Ceiling:
    """``ceiling:`` What no run gets, whatever flags, arguments, the environment and a workspace's file say."""

    memory: int | None = option(
        None,
        help="The most memory of a run; also of one that names none.",
        convert=read_memory,
        unit="bytes",
        widens=False,
    )
    cpus: float | None = option(
        None, help="The most CPUs of a run; also of one that names none.", check=check_cpus, widens=False
    )
    pids: int | None = option(
        None, help="The most processes of a run; also of one that names none.", check=check_pids, widens=False
    )
    sandbox: Literal["any", "required"] = option(
        "any",
        help="`required`: no run goes without gVisor, or what else isolates more than namespaces do.",
        widens=False,
    )
    network: Literal["bridge", "none"] = option("bridge", help="`none`: no run has a network.", widens=False)
    mounts: tuple[Path, ...] | None = option(
        None,
        help="The folders that mounts may come from, beside the workspace; `[]`: none.",
        check_item=_check_root,
        widens=False,
    )
    dependencies: Literal["any", "plain"] | tuple[str, ...] = option(
        "any",
        help="`plain`: of `dependencies` only plain names, so neither `docker:host` nor `pip:NAME`. A list: those that "
        "may be asked for.",
        widens=False,
    )
    privileged: bool = option(
        True,
        help="`false`: no run's container is privileged, as that of `docker:dind` without gVisor is.",
        widens=False,
    )
    capabilities: bool = option(True, help="`false`: no run keeps a further Linux capability.", widens=False)
    host_env: bool = option(True, help="`false`: `-e NAME` passes no variable of yours on.", widens=False)
    fixed: tuple[str, ...] = option(
        (),
        help="Keys, or whole sections, that only your own config sets: `docker_host`, `gvisor.runtime`, `base_image`.",
        widens=False,
    )


CEILING_FIELD = FieldSpec(
    CEILING,
    CEILING,
    Ceiling,
    attrs.Factory(Ceiling),
    {"help": "What no run gets, whoever asks for it.", "widens": False},
    fields_of(Ceiling),
)


def check_fixed(
    ceiling: Ceiling, layers: Iterable[Layer], own: Layer, fields: Mapping[str, FieldSpec], problems: Problems
) -> None:
    """Record each value of LAYERS (all but the user's OWN) that CEILING leaves to the user's own config.

    What they say no differently passes.
    """
    for layer in layers:
        for path, leaf in layer.items():
            by = next((key for key in ceiling.fixed if _covers(key, path)), None)
            if by is None:
                continue
            before = own[path].value if path in own else _default(fields[path[0]], path)
            if leaf.value != before:
                problems.add(
                    leaf.where,
                    f"{'.'.join(path)} is left to your own config: it has `ceiling: {{fixed: [{by}]}}`.",
                    "Set it there, or take it out of that list.",
                )


def covers_any(ceiling: Ceiling, key: str) -> bool:
    """Tell whether KEY, dotted, is fixed."""
    return any(_covers(each, tuple(key.split("."))) for each in ceiling.fixed)


def _covers(key: str, path: tuple[str, ...]) -> bool:
    wanted = tuple(key.split("."))
    return path[: len(wanted)] == wanted


def _default(field: FieldSpec, path: tuple[str, ...]) -> Any:
    for key in path[1:]:
        if field.fields is None:
            return (field.make_default() or {}).get(key)
        field = next(each for each in field.fields if each.key == key)
    return field.make_default()


def unknown_fixed(ceiling: Ceiling, fields: Iterable[FieldSpec]) -> Iterator[str]:
    """Yield what of ``fixed`` is no key: a misspelt one would hold nothing back."""
    by_key = {field.key: field for field in fields}
    for name in ceiling.fixed:
        first, *rest = name.split(".")
        field = by_key.get(first)
        for key in rest:
            if field is None or field.is_map:
                break
            field = next((each for each in field.fields or () if each.key == key), None)
        if field is None:
            yield name
