"""Sections: claiming them, reading every kind of field, and what authors are told."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest

from moat_core.config import BadValue, ConfigSchema, duration_s, option, size_bytes
from moat_core.errors import PluginError


class Mode(enum.StrEnum):
    """A choice."""

    FAST = "fast"
    SLOW = "slow"


@attrs.frozen
class Rule:
    """One rule."""

    host: str = option(help="Which host.")
    allow: bool = option(True, help="Whether it may be reached.")


def even(value):
    """Refuse odd numbers."""
    if value % 2:
        raise ValueError("it is odd")


def upper(value):
    """Turn text to capitals."""
    if not isinstance(value, str):
        raise BadValue("it is no text", "Quote it.")
    return value.upper()


@attrs.frozen
class Everything:
    """Every kind of field."""

    text: str = option("", help="h")
    number: int = option(0, help="h", check=even)
    share: float = option(0.5, help="h")
    flag: bool = option(False, help="h")
    maybe: int | None = option(None, help="h")
    either: int | str = option(0, help="h")
    choice: Literal["a", "b", 3] = option("a", help="h")
    mode: Mode = option(Mode.FAST, help="h")
    many: tuple[int, ...] = option((), help="h", check_item=even)
    listed: list[str] = option([], help="h")
    mapped: dict[str, int] = option({}, help="h")
    rules: tuple[Rule, ...] = option((), help="h")
    named: Mapping[str, Rule] = option({}, help="h")
    path: Path = option(Path("/x"), help="h")
    size: int = option(0, help="h", convert=size_bytes, unit="bytes")
    wait: float = option(1.0, help="h", convert=duration_s, unit="s")
    shout: str = option("", help="h", convert=upper)
    free: Any = option(None, help="h")
    from_: str = option("", help="h")


@pytest.fixture
def read(load):
    """Return a function that reads TEXT as the section `all`."""

    def run(text, **kwargs):
        schema = ConfigSchema()
        schema.add_section("all", Everything, owner="test")
        return load("all:\n  " + text.replace("\n", "\n  "), schema=schema, **kwargs).section(Everything)

    return run


GOOD = [
    ("text: hello", "text", "hello"),
    ("text: y", "text", "y"),
    ("text: '5'", "text", "5"),
    ("text: |\n  a\n  b", "text", "a\nb"),
    ("text: 1.2.3", "text", "1.2.3"),
    ("text: a:b", "text", "a:b"),
    ("number: 4", "number", 4),
    ("number: -4", "number", -4),
    ("share: 1", "share", 1.0),
    ("share: 1e3", "share", 1000.0),
    ("share: .5", "share", 0.5),
    ("flag: True", "flag", True),
    ("maybe: 1", "maybe", 1),
    ("maybe: null", "maybe", None),
    ("maybe:", "maybe", None),
    ("either: 5", "either", 5),
    ("either: x", "either", "x"),
    ("choice: 3", "choice", 3),
    ("choice: b", "choice", "b"),
    ("mode: slow", "mode", Mode.SLOW),
    ("many: [2, 4]", "many", (2, 4)),
    ("many:", "many", ()),
    ("listed: [a]", "listed", ["a"]),
    ("mapped: {a.b: 1, on: 2}", "mapped", {"a.b": 1, "on": 2}),
    ("rules: [{host: a}, {host: b, allow: false}]", "rules", (Rule("a"), Rule("b", False))),
    ("named: {x: {host: a}}", "named", {"x": Rule("a")}),
    ("path: /a/../b", "path", Path("/b")),
    ("size: 2k", "size", 2048),
    ("size: 1", "size", 1024**2),
    ("wait: 1m30s", "wait", 90.0),
    ("shout: hi", "shout", "HI"),
    ("free: {a: [1, x, null]}", "free", {"a": [1, "x", None]}),
    ("from: x", "from_", "x"),
]


@pytest.mark.parametrize(("text", "name", "value"), GOOD)
def test_every_kind_of_field_is_read(read, text, name, value):
    """A value becomes what the annotation says, of the very type."""
    found = getattr(read(text), name)
    assert found == value
    assert type(found) is type(value)


def test_relative_paths_start_at_the_workspace(read, load):
    """A Path is absolute afterwards."""
    assert read("path: a/b").path == load.folder / "a/b"
    assert read("path: ~/b").path == load.home / "b"


BAD = [
    ("text: 5", "all.text must be text, not the number 5."),
    ("text: null", "all.text must be text, not empty."),
    ("number: 3", "all.number cannot be '3': it is odd."),
    ("number: 2.0", "all.number must be a whole number, not the number 2.0."),
    ("number: true", "not the truth value true"),
    ("share: x", "all.share must be a number"),
    ("flag: 1", "all.flag must be true or false, not the number 1."),
    ("either: [1]", "all.either must be a whole number or text, not a list."),
    ("choice: c", "must be one of a, b, 3, not the text 'c'."),
    ("choice: '3'", "must be one of a, b, 3"),
    ("mode: slw", "Did you mean slow?"),
    ("many: [2, 3]", "all.many[1] cannot be '3': it is odd."),
    ("many: [2, x]", "all.many[1] must be a whole number"),
    ("mapped: {a: x}", "all.mapped.a must be a whole number"),
    ("rules: [{allow: true}]", "all.rules[0] lacks the key 'host'."),
    ("rules: [{host: a, hst: b}]", "Unknown key 'hst' in all.rules[0]."),
    ("rules: [a]", "all.rules[0] must be a mapping"),
    ("named: {x: {host: 5}}", "all.named.x.host must be text"),
    ("path: ''", "all.path cannot be ''"),
    ("size: on", "must be unambiguous, not 'on'"),
    ("wait: soon", "all.wait cannot be 'soon': a duration"),
    ("wait: 1:30", "must be unambiguous, not '1:30'"),
    ("wait: -1", "all.wait cannot be '-1'"),
    ("shout: 5", "all.shout cannot be '5': it is no text.\n  Quote it."),
    ("from_: x", "Unknown key 'from_' in all."),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_every_kind_of_field_refuses_others(problems, text, message):
    """A value of another type, or one that a check refuses, is one problem in its line."""
    schema = ConfigSchema()
    schema.add_section("all", Everything, owner="test")
    (found,) = problems("all:\n  " + text, schema=schema)
    assert found.where == "agent.yaml:2"
    assert message in str(found)


def test_defaults_are_not_shared(read):
    """A list that one config changes is not another one's default."""
    first = read("text: a")
    first.listed.append("x")
    assert read("text: a").listed == []


def test_validators_of_attrs_are_problems_too(problems):
    """What the class itself refuses is told in the section's line."""

    def ordered(instance, attribute, value):
        if value < instance.low:
            raise ValueError("high is below low")

    Range = attrs.make_class(  # noqa: N806
        "Range",
        {
            "low": attrs.field(default=0, type=int),
            "high": attrs.field(default=9, type=int, validator=ordered),
        },
        frozen=True,
    )
    Range.__annotations__ = {"low": int, "high": int}
    schema = ConfigSchema()
    schema.add_section("span", Range, owner="test")
    (found,) = problems("span:\n  low: 20", schema=schema)
    assert str(found) == "agent.yaml:2: span cannot be used: high is below low."


def test_a_broken_check_is_the_plugins_fault(load):
    """A check that raises something else than ValueError is a PluginError, not a traceback."""

    def broken(value):
        raise KeyError(value)

    Broken = attrs.make_class("Broken", {"key": option("", help="h", check=broken)}, frozen=True)  # noqa: N806
    Broken.__annotations__ = {"key": str}
    schema = ConfigSchema()
    schema.add_section("broken", Broken, owner="test")
    with pytest.raises(PluginError, match=r"broken\.key"):
        load("broken: {key: x}", schema=schema)


@attrs.frozen
class NoDefault:
    """Cannot be made from nothing."""

    key: str = option(help="h")


@attrs.frozen
class Unsupported:
    """Has a type that YAML cannot give."""

    key: set[int] = option(attrs.Factory(set), help="h")


@attrs.frozen
class Unresolvable:
    """Names a type that is not there."""

    key: Missing = option(None, help="h")  # noqa: F821


@attrs.frozen
class Plain:
    """A section like any other."""

    key: str = option("", help="h")


@attrs.frozen
class Depends:
    """Its default looks at other fields."""

    key: str = attrs.field(default=attrs.Factory(lambda self: "x", takes_self=True))


CLAIMS = [
    ("name", Plain, ["moat", "second", "'name'"]),
    ("taken", Plain, ["first", "second", "'taken'"]),
    ("Bad-Name", Plain, ["second", "'Bad-Name'"]),
    ("again", Everything, ["second", "'taken'"]),
    ("other", NoDefault, ["second", "other.key", "no default"]),
    ("other", Unsupported, ["Unsupported.key", "set[int]"]),
    ("other", Unresolvable, ["Unresolvable", "Missing"]),
    ("other", Depends, ["Depends.key", "other fields"]),
    ("other", dict, ["dict", "attrs"]),
]


@pytest.mark.parametrize(("name", "cls", "words"), CLAIMS)
def test_a_claim_that_cannot_be_names_the_owners(name, cls, words):
    """Clashing and impossible sections are PluginErrors that say whose they are."""
    schema = ConfigSchema()
    schema.add_section("taken", Everything, owner="first")
    with pytest.raises(PluginError) as caught:
        schema.add_section(name, cls, owner="second")
    assert caught.value.hint
    for word in words:
        assert word in str(caught.value)


def test_the_owner_can_be_who_is_being_called():
    """The host names the plugin once, around its hook."""
    schema = ConfigSchema()
    with schema.contributing("hello"):
        schema.add_section("hello", Plain)
    (section,) = schema
    assert (section.name, section.owner, section.cls) == ("hello", "hello", Plain)


def test_a_section_that_was_not_added_cannot_be_asked_for(load):
    """A plugin that forgot its hook is told so."""
    with pytest.raises(PluginError, match="Plain is no section"):
        load("").section(Plain)


def test_an_absent_section_is_its_defaults(load):
    """Nothing in the file gives the class's own defaults."""
    schema = ConfigSchema()
    schema.add_section("plain", Plain, owner="x")
    assert load("", schema=schema).section(Plain) == Plain()
    assert load("plain:", schema=schema).section(Plain) == Plain()
