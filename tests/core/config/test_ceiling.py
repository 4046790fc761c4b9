"""``ceiling:`` in the user's config: read from nowhere else, filled in where nobody says anything, exceeded by nobody."""

from __future__ import annotations

import attrs
import pytest

from moat_core.config import Ceiling, ConfigSchema, markdown_reference, option
from moat_core.config.ceiling import CEILING_FIELD
from moat_core.errors import PluginError


@attrs.frozen
class Section:
    """A plugin's."""

    word: str = option("a", help="A word.")
    names: dict[str, str] = option({}, help="Names.")


@pytest.fixture
def schema():
    """Return a schema with a section."""
    made = ConfigSchema()
    made.add_section("plug", Section, owner="plug")
    return made


ELSEWHERE = [
    {"text": "ceiling: {memory: 1g}"},
    {"overrides": {"ceiling.memory": ("1g", "flag --x")}},
    {"text": "ceiling: null"},
]


@pytest.mark.parametrize("where", ELSEWHERE)
def test_only_the_users_own_config_has_one(problems, where):
    """In a workspace's file, or from the library, it is an error; the environment has no variable for it."""
    (found,) = problems(**where)
    assert "your own config only" in found.message


def test_the_environment_cannot_set_it(load):
    """Not by the name that a section's key would have."""
    config = load("", user="ceiling: {memory: 1g}", environ={"MOAT_CEILING_MEMORY": "2g"})
    assert config.ceiling == Ceiling(memory=1024**3)
    assert {key: value for key, value, _ in config.items() if key.startswith("ceiling")} == {"ceiling.memory": 1024**3}


def test_it_is_checked_like_everything_else(problems):
    """With line and nearest match."""
    found = problems("", user="ceiling:\n  memry: 1g\n  mounts: [relative]\n  fixed: [sandbx, plug.x]\n")
    assert [each.where.rpartition(":")[2] for each in found] == ["2", "3"]
    (found,) = problems("", user="ceiling: {fixed: [sandbx]}")
    assert "'sandbx', which is no key" in found.message


FIXED = [
    ("plug", "plug: {word: b}", None, None),
    ("plug.word", "plug: {word: b}", None, None),
    ("plug.names", "plug: {names: {x: y}}", None, None),
    ("plug.word", "", {"MOAT_PLUG_WORD": "b"}, None),
    ("plug", "", None, {"plug.word": ("b", "option plug.word")}),
    ("network", "network: none", None, None),
]


@pytest.mark.parametrize(("key", "text", "environ", "overrides"), FIXED)
def test_a_fixed_key_is_set_by_nobody_else(problems, schema, key, text, environ, overrides):
    """Neither by a file, trusted as it may be, nor by the environment, nor by an option."""
    user = f"ceiling: {{fixed: [{key}]}}"
    (found,) = problems(text, user=user, environ=environ, overrides=overrides, schema=schema)
    assert "left to your own config" in found.message


def test_saying_the_same_is_no_setting(load, schema):
    """And the user's own config sets it."""
    user = "ceiling: {fixed: [plug, network]}\nplug: {word: b}"
    config = load("plug: {word: b}\nnetwork: bridge", user=user, schema=schema)
    assert config.section(Section).word == "b"


def test_no_plugin_takes_its_name():
    """It is core's."""
    with pytest.raises(PluginError, match="ceiling"):
        ConfigSchema().add_section("ceiling", Section, owner="plug")


def test_the_page_has_its_reference():
    """Made from the help texts."""
    from pathlib import Path

    page = (Path(__file__).parents[3] / "docs/config.md").read_text()
    assert markdown_reference((CEILING_FIELD,)) in page
