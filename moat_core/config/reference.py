"""The reference of the config file as Markdown, made from the help texts so that it cannot fall behind."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import attrs

from moat_core.config.options import LISTS, arms, expected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moat_core.config.options import FieldSpec

__all__ = ["markdown_reference"]

_CONVERTED = {"bytes": "a size", "s": "a duration"}


def markdown_reference(fields: tuple[FieldSpec, ...]) -> str:
    """Return a Markdown table with a line for every key of FIELDS: key, type, default, help."""
    rows = ["| key | value | default | |", "|---|---|---|---|"]
    rows += [
        f"| `{path}` | {_kind(field)} | {_default(field)} | {field.metadata.get('help', '')} |"
        for path, field in _leaves(fields, "")
    ]
    return "\n".join(rows) + "\n"


def _leaves(fields: tuple[FieldSpec, ...], parent: str) -> Iterator[tuple[str, FieldSpec]]:
    for field in fields:
        path = f"{parent}{field.key}"
        if field.fields is not None:
            yield from _leaves(field.fields, f"{path}.")
        else:
            yield path, field


def _kind(field: FieldSpec) -> str:
    unit = field.metadata.get("unit")
    if "convert" in field.metadata and unit in _CONVERTED:
        return _CONVERTED[unit]
    hints = [hint for hint in arms(field.hint) if hint is not type(None)]
    return " or ".join(_kind_of(hint) for hint in hints) + (f" ({unit})" if unit else "")


def _kind_of(hint: Any) -> str:
    args = get_args(hint)
    if get_origin(hint) is Literal:
        return " or ".join(f"`{each}`" for each in args)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return " or ".join(f"`{each.value}`" for each in hint)
    if get_origin(hint) in LISTS:
        return "a list of " + ("texts" if args[0] is str else f"{getattr(args[0], '__name__', 'value').lower()}s")
    if args:
        return f"a mapping of names to {'texts' if args[1] is str else expected(args[1]).removeprefix('a ') + 's'}"
    return expected(hint)


def _default(field: FieldSpec) -> str:
    value = None if field.default is attrs.NOTHING else field.make_default()
    if value is None or value in ((), [], {}):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
