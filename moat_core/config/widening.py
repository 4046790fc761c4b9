"""Which values of a workspace's file give a run more than it would have without that file.

This is the one place that decides: each option says it of itself (``widens=``, see `moat_core.config.judges`), and
one that says nothing is taken to widen. What does not differ from what holds anyway never does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from moat_core.config.judges import Baseline
from moat_core.errors import PluginError

if TYPE_CHECKING:
    from moat_core.config.options import FieldSpec
    from moat_core.config.schema import Layer, Leaf
    from moat_core.types import DependencyInfo

__all__ = ["Widening", "find_widenings", "without"]

_UNDECLARED = "its plugin does not say whether it widens"


@attrs.frozen
class Widening:
    """One value that widens.

    Args:
        key: As `Config.items` has it, with the position in a list: ``mounts[0]``.
        value: It, as it may be shown.
        where: ``agent.yaml:7``.
        why: What the run gets, or loses of its isolation.
        path: The leaf that it is, or is in.
        item: Its position there; ``None``: it is the whole leaf.
    """

    key: str
    value: str
    where: str
    why: str
    path: tuple[str, ...] = attrs.field(repr=False)
    item: int | None = None

    @property
    def fingerprint(self) -> str:
        """What a decision about it is remembered by: all that the user was shown, but the line."""
        text = "\0".join((self.key.partition("[")[0], self.value, self.why))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def to_json(self) -> dict[str, str]:
        """Return the stable fields: key, value, where, why."""
        return {"key": self.key, "value": self.value, "where": self.where, "why": self.why}


def find_widenings(
    fields: Iterable[FieldSpec],
    layer: Layer,
    before: Layer,
    folder: Path,
    offered: Mapping[str, DependencyInfo],
) -> tuple[Widening, ...]:
    """Return what of LAYER (the workspace's file) widens, beside BEFORE (what the user's own config says).

    Args:
        fields: All that can be configured.
        folder: The workspace.
        offered: What plugins offer as dependencies.

    Raises:
        PluginError: An option's judge raised.
    """
    by_key = {field.key: field for field in fields}
    found = [
        widening
        for path, leaf in layer.items()
        for widening in _judge(path, leaf, *_field(by_key, path), before, folder, offered)
    ]
    return tuple(sorted(found, key=lambda each: (_line(each.where), each.key)))


def without(layer: Layer, widenings: Iterable[Widening]) -> Layer:
    """Return LAYER less what widens; of a list, less the items that do."""
    whole = {each.path for each in widenings if each.item is None}
    items: dict[tuple[str, ...], set[int]] = {}
    for each in widenings:
        if each.item is not None:
            items.setdefault(each.path, set()).add(each.item)
    kept: dict[tuple[str, ...], Leaf] = {}
    for path, leaf in layer.items():
        if path in whole:
            continue
        if path in items:
            rest = [value for number, value in enumerate(leaf.value) if number not in items[path]]
            leaf = attrs.evolve(leaf, value=type(leaf.value)(rest))  # noqa: PLW2901
        kept[path] = leaf
    return kept


def _field(by_key: Mapping[str, FieldSpec], path: tuple[str, ...]) -> tuple[FieldSpec, bool]:
    """Return the option that PATH leads to, and whether PATH is an entry of it."""
    field = by_key[path[0]]
    for number, key in enumerate(path[1:], 1):
        if field.fields is None:
            assert number == len(path) - 1
            return field, True
        field = next(each for each in field.fields if each.key == key)
    return field, False


def _judge(  # noqa: PLR0917
    path: tuple[str, ...],
    leaf: Leaf,
    field: FieldSpec,
    is_entry: bool,
    before: Layer,
    folder: Path,
    offered: Mapping[str, DependencyInfo],
) -> Iterator[Widening]:
    default = field.make_default()
    if is_entry:
        default = (default or {}).get(path[-1])
    value = before[path].value if path in before else default
    widens = field.metadata.get("widens", True)
    if widens is False or leaf.value == value:
        return
    key = ".".join(path)
    why = widens if isinstance(widens, str) else _UNDECLARED if widens is True else ""
    if callable(widens):
        try:
            why = widens(leaf.value, Baseline(value, folder, offered))
        except Exception as error:
            raise PluginError(f"What the config key {key} has as `widens` raised {error!r}.") from error
    is_secret = field.metadata.get("secret", False)
    if isinstance(why, Mapping):
        for number, reason in why.items():
            yield Widening(f"{key}[{number}]", _shown(leaf.value[number], is_secret), leaf.where, reason, path, number)
    elif why:
        yield Widening(key, _shown(leaf.value, is_secret), leaf.where, why, path)


def _shown(value: Any, is_secret: bool) -> str:
    """Return VALUE on one line, whole: who cuts it short hides what matters in its end."""
    if is_secret:
        return "…"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_shown(each, is_secret) for each in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(value))


def _line(where: str) -> int:
    line = where.rpartition(":")[2]
    return int(line) if line.isdecimal() else 0
