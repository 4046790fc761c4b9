"""Checking JSON by tables: what is not in a table is refused, and what is sent on is made anew from what was checked.

Go's decoder takes keys in any case and the last of duplicates, so the client's own bytes are never sent on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from moat_plugins.docker_host.budget import weigh
from moat_plugins.docker_host.policy.verdict import Refused, refuse

__all__ = [
    "DROPPED",
    "Rule",
    "anything",
    "boolean",
    "deny",
    "drop",
    "each",
    "integer",
    "is_harmless",
    "load",
    "mapping",
    "number",
    "one_of",
    "optional",
    "shape",
    "table",
    "text",
    "texts",
]

Rule = Callable[[Any, str], Any]
"""From a value and where it stands to the value to send on. Raises `Refused`. `DROPPED` leaves the key out."""

DROPPED: Any = object()
_SHOWN = 60


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Refused("moat: the body has a key twice.", status=400)
    return found


def _constant(name: str) -> Any:
    raise Refused(f"moat: {name} is no JSON.", status=400)


def load(data: bytes) -> Any:
    """Parse a body strictly: UTF-8, no duplicate keys, no NaN, no abyss. An empty one is ``None``.

    Raises:
        Refused: It is no such JSON.
    """
    if not data.strip():
        return None
    try:
        weigh(data)
        return json.loads(data.decode("utf-8"), object_pairs_hook=_pairs, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise Refused("moat: the body is no JSON.", status=400) from error


def is_harmless(value: Any) -> bool:
    """Tell whether VALUE says nothing: what a client sends for a field that it does not use."""
    if isinstance(value, dict):
        return all(is_harmless(each_) for each_ in value.values())
    if isinstance(value, list):
        return not value
    return value is None or value is False or value == "" or (isinstance(value, (int, float)) and value == 0)


def table(fields: Mapping[str, Rule]) -> Rule:
    """Return the rule of an object with FIELDS. Others must be harmless, and are left out."""

    def check(value: Any, where: str) -> Any:
        if value is None:
            return DROPPED
        if not isinstance(value, dict):
            raise _wrong(where, "an object")
        made = {}
        for key, item in value.items():
            here = f"{where}.{key}" if where else key
            rule = fields.get(key)
            if rule is None:
                if not is_harmless(item):
                    raise refuse(_show(here), "the guard does not know this field")
                continue
            result = rule(item, here)
            if result is not DROPPED:
                made[key] = result
        return made

    return check


def shape(rule: Rule, value: Any, where: str = "") -> dict[str, Any]:
    """Apply the RULE of an object; ``null`` is an empty one."""
    made = rule(value, where)
    return {} if made is DROPPED else made


def text(value: Any, where: str) -> Any:
    """Any text."""
    if value is None:
        return DROPPED
    if not isinstance(value, str) or "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise _wrong(where, "text")
    return value


def boolean(value: Any, where: str) -> Any:
    """True or false."""
    if value is None:
        return DROPPED
    if not isinstance(value, bool):
        raise _wrong(where, "true or false")
    return value


def integer(value: Any, where: str) -> Any:
    """A whole number of 64 bits."""
    if value is None:
        return DROPPED
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 63:
        raise _wrong(where, "a whole number")
    return value


def number(least: int) -> Rule:
    """A whole number of at least LEAST."""

    def check(value: Any, where: str) -> Any:
        found = integer(value, where)
        if found is not DROPPED and found < least:
            raise refuse(f"{_show(where)} = {found}", f"it may not be less than {least}")
        return found

    return check


def one_of(*words: str, why: str = "the guard does not know this value", option: str = "") -> Rule:
    """One of WORDS."""

    def check(value: Any, where: str) -> Any:
        found = text(value, where)
        if found is not DROPPED and found not in words:
            raise refuse(f"{_show(where)} = {_show(found)}", why, option)
        return found

    return check


def each(rule: Rule) -> Rule:
    """A list of what RULE accepts."""

    def check(value: Any, where: str) -> Any:
        if value is None:
            return DROPPED
        if not isinstance(value, list):
            raise _wrong(where, "a list")
        return [rule(item, f"{where}[{index}]") for index, item in enumerate(value) if item is not None]

    return check


texts = each(text)
"""A list of texts."""


def mapping(rule: Rule) -> Rule:
    """An object with any keys and values that RULE accepts; a value that it leaves out is ``null``."""

    def check(value: Any, where: str) -> Any:
        if value is None:
            return DROPPED
        if not isinstance(value, dict):
            raise _wrong(where, "an object")
        made = {key: rule(item, f"{where}.{key}") for key, item in value.items()}
        return {key: None if item is DROPPED else item for key, item in made.items()}

    return check


def optional(rule: Rule) -> Rule:
    """What RULE accepts; what says nothing is left out, whatever its type."""

    def check(value: Any, where: str) -> Any:
        return DROPPED if is_harmless(value) else rule(value, where)

    return check


def drop(value: Any, where: str) -> Any:  # noqa: ARG001 - a rule
    """Anything, and it is not sent on: something that has no effect on the engine."""
    return DROPPED


def deny(why: str, option: str = "", *, unless: Rule | None = None) -> Rule:
    """Nothing; UNLESS is the rule for a run that may."""

    def check(value: Any, where: str) -> Any:
        if unless is not None:
            return unless(value, where)
        if not is_harmless(value):
            raise refuse(_show(where), why, option)
        return DROPPED

    return check


def anything(value: Any, where: str) -> Any:  # noqa: ARG001 - a rule
    """Anything, sent on as it is: for what the user has allowed."""
    return value


def _show(word: str) -> str:
    shown = "".join(char if char.isprintable() else "?" for char in word)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"


def _wrong(where: str, expected: str) -> Refused:
    return Refused(f"moat: {_show(where) or 'the body'} must be {expected}.", status=400)
