"""Values that know where they come from, and the list of what is wrong with them.

A config file, the environment and the library's arguments all become trees of `Item`, so that one reader
(`convert`) reads them and one kind of message names the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs

from moat_core.config.values import show
from moat_core.errors import ConfigError
from moat_core.types import Problem

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DEPTH_LIMIT", "Item", "Kind", "Problems", "Source", "classify", "wrap"]

DEPTH_LIMIT = 32
_PROBLEMS = 100
_INT_BITS = 64

Kind = Literal["null", "bool", "int", "float", "text", "odd", "list", "map", "object", "broken"]

_KINDS: Mapping[str, str] = {
    "null": "empty",
    "bool": "a truth value",
    "int": "a number",
    "float": "a number",
    "text": "a text",
    "odd": "an ambiguous word",
    "list": "a list",
    "map": "a mapping",
    "object": "an object",
    "broken": "broken",
}
_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?")
# What YAML 1.1, YAML 1.2 or a reader of either would take for something else than this text.
_ODD = re.compile(
    r"""(?:yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF|=|<<)
    | [-+]?0[xXoObB][0-9a-fA-F_]+
    | [-+]?[0-9][0-9_]*                                                  # 012, 1_000, too many digits
    | [-+]?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?
    | [-+]?\.[0-9_]+(?:[eE][-+]?[0-9]+)?
    | [-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?                   # 12:30 is 750 in base 60
    | [-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)
    | [0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+|$)[-+0-9:.Zz \t]*     # a date
    """,
    re.VERBOSE,
)


@attrs.define
class Problems:
    """What was found wrong so far; beyond a hundred they are only counted."""

    found: list[Problem] = attrs.field(factory=list)
    uncounted: int = 0

    def add(self, where: str, message: str, hint: str = "") -> None:
        """Record one."""
        if self.is_full:
            self.uncounted += 1
        else:
            self.found.append(Problem(message, hint, where))

    @property
    def is_full(self) -> bool:
        """Whether another one would only be counted; spares looking for its nearest match."""
        return len(self.found) >= _PROBLEMS

    def check(self) -> None:
        """Raise what was recorded, in the order of files and lines.

        Raises:
            ConfigError: Anything was.
        """
        if not self.found:
            return
        problems = sorted(self.found, key=_position)
        if self.uncounted:
            problems.append(Problem(f"… and {self.uncounted} more problems."))
        raise ConfigError(problems)


def _position(problem: Problem) -> tuple[str, int]:
    label, _, line = problem.where.rpartition(":")
    return (label, int(line)) if label and line.isdecimal() else (problem.where, 0)


@attrs.frozen
class Source:
    """Where values come from.

    Args:
        label: What problems name: ``agent.yaml``, ``MOAT_RUNTIME``, ``--name``.
        prefix: What `Config.origin` puts before it: ``"environment "``.
        base: The folder that relative paths start from; ``None`` refuses them.
        home: What ``~`` stands for.
    """

    label: str
    prefix: str = ""
    base: Path | None = None
    home: str | None = None


@attrs.frozen
class Item:
    """One value of the tree.

    Args:
        kind: ``text`` is a string; ``object`` a Python value from the library; ``odd`` a plain scalar that
            YAML 1.1 and 1.2 read differently (``on``, ``012``, ``12:30``), so that nobody may guess;
            ``broken`` was reported already.
        value: A scalar, a ``list[Item]`` or a ``dict[str, Item]``.
        where: ``agent.yaml:7``.
        origin: The same, with the source's prefix.
        raw: A scalar as it was written.
        form: How it was written: in ``yaml``; as ``text``, in the environment, to be read as the type that is
            wanted; or in ``python``.
    """

    kind: Kind
    value: Any
    where: str
    origin: str
    raw: str = ""
    form: Literal["yaml", "text", "python"] = "yaml"

    @property
    def is_loose(self) -> bool:
        """Whether it is text that may stand for a number or a truth value."""
        return self.form == "text"

    def describe(self, *, is_secret: bool = False) -> str:
        """Return what it is, for "must be …, not …"; a secret's kind only."""
        if is_secret:
            return _KINDS[self.kind]
        if self.kind in {"null", "list", "map"}:
            return _KINDS[self.kind]
        if self.kind == "object":
            return f"a {type(self.value).__name__}"
        if self.kind == "odd":
            return show(self.raw)
        raw = show(self.raw) if self.kind == "text" else show(self.raw)[1:-1]
        return f"{_KINDS[self.kind].replace('a ', 'the ', 1)} {raw}"


def classify(text: str) -> tuple[Kind, Any]:
    """Return the kind and the value of a plain (unquoted) scalar."""
    if _NULL.fullmatch(text):
        return "null", None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return "bool", text[0] in "tT"
    if _INT.fullmatch(text):
        return "int", int(text)
    if _FLOAT.fullmatch(text):
        return "float", float(text)
    return ("odd", text) if _ODD.fullmatch(text) else ("text", text)


def wrap(value: Any, source: Source, *, is_text: bool = False, depth: int = 0) -> Item:
    """Return VALUE, from Python or (IS_TEXT) from the environment, as a tree.

    Raises:
        ConfigError: A mapping's key is no text, or it is nested too deeply.
    """
    origin = source.prefix + source.label

    def item(kind: Kind, content: Any, raw: str = "") -> Item:
        return Item(kind, content, source.label, origin, raw, "text" if is_text else "python")

    if depth > DEPTH_LIMIT:
        raise ConfigError([Problem(f"It is nested more than {DEPTH_LIMIT} levels deep.", where=source.label)])
    if isinstance(value, Mapping):
        return item("map", dict(_wrap_entries(value, source, depth)))
    if isinstance(value, (list, tuple)):
        return item("list", [wrap(each, source, depth=depth + 1) for each in value])
    if value is None:
        return item("null", None)
    if type(value) is int and value.bit_length() > _INT_BITS:
        return item("odd", value, "a number beyond 64 bits")
    kinds: dict[type, Kind] = {bool: "bool", int: "int", float: "float", str: "text"}
    kind = kinds.get(type(value), "object")
    return item(kind, value, "" if kind == "object" else str(value).lower() if kind == "bool" else str(value))


def _wrap_entries(value: Mapping[Any, Any], source: Source, depth: int) -> Iterator[tuple[str, Item]]:
    for key, each in value.items():
        if not isinstance(key, str):
            raise ConfigError([Problem(f"A key must be text, not {show(repr(key))}.", where=source.label)])
        yield key, wrap(each, source, depth=depth + 1)
