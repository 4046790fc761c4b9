"""Which source wins, where values come from, and what they become."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs
import pytest

from moat_core.config import (
    ConfigSchema,
    ContainerConfig,
    check_port,
    json_schema,
    load_config,
    option,
    option_overrides,
    user_config_path,
)
from moat_core.errors import ConfigError, UnknownName
from moat_core.types import Mount


@attrs.frozen
class TlsConfig:
    """TLS of the proxy."""

    port: int = option(8443, help="TLS port.", check=check_port)


@attrs.frozen
class ProxyConfig:
    """The proxy."""

    port: int = option(8080, help="Port.", check=check_port)
    log: bool = option(False, help="Whether it logs.")
    hosts: tuple[str, ...] = option((), help="Hosts.")
    labels: dict[str, str] = option({}, help="Labels.")
    tls: TlsConfig = option(attrs.Factory(TlsConfig), help="TLS.")
    ca: Path | None = option(None, help="A certificate.")


@pytest.fixture
def schema():
    """Return a schema with a plugin's section."""
    made = ConfigSchema()
    made.add_section("proxy", ProxyConfig, owner="proxy")
    return made


FULL = """\
name: red-panda
runtime: docker
sandbox: none
dependencies: [python, node@22]
base_image: registry.example:5000/team/image:1.0@sha256:0123456789abcdef0123456789abcdef
command: [npm, start]
interactive: true
env:
  DEBUG: "1"
  EMPTY: ""
  ON: "on"
mounts:
  - ./data:/data
  - ~/models:/models:ro
  - {source: /srv/x:y, target: /srv/}
ports: {web: 3000, api: 8000}
network: none
container:
  memory: 512m
  cpus: 2
  pids: 100
  dns: [9.9.9.9, "2620:fe::fe"]
hooks:
  pre_run: |
    npm ci
    npm test
  post_build: echo built
  post_build_root: apt-get clean
"""


def test_every_key_is_read(load):
    """All base keys at once, with the values they become."""
    core = load(FULL).core
    assert (core.name, core.runtime, core.sandbox) == ("red-panda", "docker", "none")
    assert core.dependencies == ("python", "node@22")
    assert core.base_image.startswith("registry.example:5000/team/image:1.0@sha256:")
    assert core.command == ("npm", "start")
    assert core.interactive is True
    assert core.env == {"DEBUG": "1", "EMPTY": "", "ON": "on"}
    assert core.mounts == (
        Mount(str(load.folder / "data"), "/data"),
        Mount(str(load.home / "models"), "/models", read_only=True),
        Mount("/srv/x:y", "/srv"),
    )
    assert core.ports == {"web": 3000, "api": 8000}
    assert core.network == "none"
    assert core.container == ContainerConfig(512 * 1024**2, 2.0, 100, ("9.9.9.9", "2620:fe::fe"))
    assert core.hooks.pre_run == "npm ci\nnpm test\n"


@pytest.mark.parametrize(
    "text", [None, "", "# nothing\n", "---\n", "{}", "\ufeff", "env:\nports:\nmounts:\ncontainer:\n"]
)
def test_nothing_said_is_the_defaults(load, text):
    """No file, an empty one, and one whose keys are all commented out mean the same."""
    config = load(text)
    assert config.core == load_config(ConfigSchema(), Path("/nonexistent"), environ={}, trust=lambda *_: True).core
    assert config.origin("name") == "default"
    assert config.path == (None if text is None else load.folder / "agent.yaml")


def test_moat_yaml_is_accepted(load):
    """The other name of the file works and shows in origins."""
    config = load("name: x", file="moat.yaml")
    assert (config.core.name, config.origin("name")) == ("x", "moat.yaml:1")


def test_flag_beats_environment_beats_file_beats_user_config(load):
    """Taking the sources away one by one, the next one shows, with its origin."""
    sources = {
        "overrides": {"name": ("flag", "flag --name")},
        "environ": {"MOAT_NAME": "environment"},
        "text": "\nname: file",
        "user": "\n\nname: user",
    }
    expected = [
        ("flag", "flag --name"),
        ("environment", "environment MOAT_NAME"),
        ("file", "agent.yaml:2"),
        ("user", "user config ~/.config/moat/config.yaml:3"),
    ]
    for value, origin in expected:
        config = load(**{"text": ""} | sources)
        assert (config.core.name, config.origin("name")) == (value, origin)
        sources.pop(next(iter(sources)))


def test_mappings_merge_by_entry_and_sections_by_key(load):
    """`env` is put together from all sources, a list is replaced."""
    config = load(
        "env:\n  A: file\n  B: file\ncontainer: {pids: 50}\ndependencies: [b]",
        user="env: {B: user, C: user}\ncontainer: {pids: 60, cpus: 1}\ndependencies: [a]",
        overrides={"env.A": ("flag", "flag -e")},
    )
    assert config.core.env == {"A": "flag", "B": "file", "C": "user"}
    assert config.origin("env.A") == "flag -e"
    assert config.origin("env.B") == "agent.yaml:3"
    assert config.origin("env") == "flag -e, agent.yaml:3, user config ~/.config/moat/config.yaml:1" or set(
        config.origin("env").split(", ")
    ) == {"flag -e", "agent.yaml:3", "user config ~/.config/moat/config.yaml:1"}
    assert (config.core.container.pids, config.core.container.cpus) == (50, 1.0)
    assert config.core.dependencies == ("b",)


def test_a_losing_source_is_checked_all_the_same(problems):
    """A mistake in the file is told even where a flag overrides it."""
    found = problems(
        "name: A B", environ={"MOAT_NAME": "C D"}, user="name: E F", overrides={"name": ("ok", "flag --name")}
    )
    assert {each.where for each in found} == {"agent.yaml:1", "MOAT_NAME", "~/.config/moat/config.yaml:1"}


def test_ports_of_two_sources_may_not_collide(problems):
    """Two files that are right by themselves can be wrong together."""
    (found,) = problems("ports: {web: 80}", user="ports: {api: 80}")
    assert "name the same port, 80" in found.message


def test_relative_mounts_mean_nothing_in_the_user_config(problems):
    """The user's config belongs to no workspace."""
    (found,) = problems("", user="mounts: ['./x:/x']")
    assert found.where == "~/.config/moat/config.yaml:1"
    assert "the path is relative" in found.message


ENVIRONMENT = [
    ("MOAT_RUNTIME", "docker", "runtime", "docker"),
    ("MOAT_NAME", "fox", "name", "fox"),
    ("MOAT_BASE_IMAGE", "debian:12", "base_image", "debian:12"),
    ("MOAT_NO_SANDBOX", "1", "sandbox", "none"),
    ("MOAT_NO_SANDBOX", "True", "sandbox", "none"),
    ("MOAT_NO_SANDBOX", "0", "sandbox", None),
    ("MOAT_NO_SANDBOX", "", "sandbox", None),
    ("MOAT_NAME", "", "name", None),
    ("MOAT_CONTAINER_MEMORY", "64", "container.memory", 64 * 1024**2),
    ("MOAT_CONTAINER_MEMORY", "1g", "container.memory", 1024**3),
    ("MOAT_CONTAINER_CPUS", ".5", "container.cpus", 0.5),
    ("MOAT_CONTAINER_PIDS", "99", "container.pids", 99),
    ("MOAT_PROXY_PORT", "9000", "proxy.port", 9000),
    ("MOAT_PROXY_TLS_PORT", "9001", "proxy.tls.port", 9001),
    ("MOAT_PROXY_LOG", "on", "proxy.log", True),
    ("MOAT_PROXY_HOSTS", "a,b", "proxy.hosts", ()),
    ("MOAT_PROXY_NONSENSE", "1", "proxy.port", 8080),
    ("MOAT_NONSENSE", "1", "name", None),
    ("MOAT_HOOKS_PRE_RUN", "rm -rf /", "hooks.pre_run", None),
]


@pytest.mark.parametrize(("variable", "text", "key", "value"), ENVIRONMENT)
def test_the_environment_sets_scalars(load, schema, variable, text, key, value):
    """Variables are read as the type that is wanted; empty and unknown ones do nothing."""
    found = {name: (each, origin) for name, each, origin in load("", environ={variable: text}, schema=schema).items()}
    is_set = origin = found[key][1] != "default"
    assert found[key][0] == value
    assert type(found[key][0]) is type(value)
    assert not is_set or found[key][1] == f"environment {variable}", origin


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("MOAT_NO_SANDBOX", "maybe", "true or false, not the text 'maybe'"),
        ("MOAT_PROXY_PORT", "x", "proxy.port must be a whole number, not the text 'x'"),
        ("MOAT_PROXY_PORT", "70000", "proxy.port cannot be '70000'"),
        ("MOAT_PROXY_PORT", "9" * 6000, "(6000 characters)"),
        ("MOAT_CONTAINER_MEMORY", "lots", "cannot be 'lots': a size"),
        ("MOAT_CONTAINER_CPUS", "nan", "a number, not the text 'nan'"),
        ("MOAT_RUNTIME", "a\udcffb", "runtime cannot be"),
        ("MOAT_BASE_IMAGE", "A", "no image reference"),
    ],
)
def test_a_bad_variable_is_named(problems, schema, variable, text, message):
    """What is wrong in the environment is told under the variable's name."""
    (found,) = problems("", environ={variable: text}, schema=schema)
    assert found.where == variable
    assert message in found.message


def test_options_of_the_library_override_a_section(load, schema):
    """`RunRequest.options` come through with plain Python values."""
    options = {"proxy": {"port": 1234, "hosts": ["a"], "labels": {"x.y": "1"}, "tls": TlsConfig(99), "ca": Path("/ca")}}
    config = load("proxy: {port: 1, log: true}", overrides=option_overrides(options), schema=schema)
    assert config.section(ProxyConfig) == ProxyConfig(1234, True, ("a",), {"x.y": "1"}, TlsConfig(99), Path("/ca"))
    assert config.origin("proxy.port") == "option proxy.port"
    assert config.origin("proxy.log") == "agent.yaml:1"
    assert config.origin("proxy.labels.x.y") == "option proxy.labels"
    assert config.origin("proxy.tls.port") == "option proxy.tls"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"proxy.port": ("80", "option proxy.port")},
            "option proxy.port: proxy.port must be a whole number, not the text '80'.",
        ),
        ({"proxy.port": (True, "option proxy.port")}, "not the truth value true"),
        ({"proxy.port": (10**5000, "option proxy.port")}, "a number beyond 64 bits"),
        ({"proxy.prt": (1, "option proxy.prt")}, "Did you mean port?"),
        ({"proxyy.port": (1, "option proxyy.port")}, "Did you mean proxy?"),
        ({"proxy.hosts": ([object()], "option proxy.hosts")}, "proxy.hosts[0] must be text, not a object"),
        ({"proxy": ({1: 2}, "option proxy")}, "A key must be text, not '1'"),
        ({"name": (5, "flag --name")}, "--name: name must be text, not the number 5."),
        ({"name": ("a\0", "flag --name")}, "--name: name cannot be 'a\\x00': it holds a NUL character."),
        ({"": (5, "flag --name")}, "Unknown key ''"),
    ],
)
def test_bad_overrides_are_named_by_their_flag(load, schema, overrides, message):
    """What a flag or option gets wrong is told under its own name."""
    with pytest.raises(ConfigError) as caught:
        load("", overrides=overrides, schema=schema)
    assert message in str(caught.value)


def test_a_value_that_holds_itself_is_refused(load, schema):
    """A list in itself ends at the depth limit."""
    endless = []
    endless.append(endless)
    with pytest.raises(ConfigError, match="32 levels"):
        load("", overrides={"proxy.hosts": (endless, "option proxy.hosts")}, schema=schema)


def test_items_list_every_key_with_its_origin(load, schema):
    """`config show` sees each key once, mappings entry by entry."""
    rows = list(load("env: {A: x}\nproxy: {port: 1}", schema=schema).items())
    keys = [key for key, _, _ in rows]
    assert len(keys) == len(set(keys))
    assert ("env.A", "x", "agent.yaml:1") in rows
    assert ("ports", {}, "default") in rows
    assert ("proxy.port", 1, "agent.yaml:2") in rows
    assert ("proxy.tls.port", 8443, "default") in rows
    assert ("container.memory", None, "default") in rows


def test_an_unknown_key_has_no_origin(load):
    """Asking for the origin of nothing names the nearest key."""
    with pytest.raises(UnknownName, match="'nam'") as caught:
        load("").origin("nam")
    assert "name" in caught.value.hint


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"HOME": "/h"}, "/h/.config/moat/config.yaml"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "/x"}, "/x/moat/config.yaml"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "relative"}, "/h/.config/moat/config.yaml"),
        ({"HOME": "", "XDG_CONFIG_HOME": ""}, None),
    ],
)
def test_where_the_user_config_is(environ, expected):
    """XDG, then HOME, then nowhere."""
    assert user_config_path(environ) == (Path(expected) if expected else None)


def test_a_given_user_config_may_be_missing(tmp_path):
    """An explicit path is read if it is there."""
    path = tmp_path / "mine.yaml"
    assert load_config(ConfigSchema(), tmp_path, environ={}, user_config=path, trust=lambda *_: True).core.name is None
    path.write_text("name: x")
    config = load_config(ConfigSchema(), tmp_path, environ={}, user_config=path, trust=lambda *_: True)
    assert config.origin("name") == f"user config {path}:1"


@attrs.frozen
class BuilderConfig:
    """A builder."""

    mode: Literal["on", "off", "x"] = option("on", help="Whether there is one.", shorthand=True)
    size: int = option(1, help="Its size.")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("builder: off", ("off", 1)),
        ("builder: {size: 2}", ("on", 2)),
        ("builder: {mode: x, size: 3}", ("x", 3)),
        ("", ("on", 1)),
    ],
)
def test_a_section_may_be_its_shorthands_value(tmp_path, text, wanted):
    """Alone, or with the others by their keys; the JSON Schema allows both."""
    made = ConfigSchema()
    made.add_section("builder", BuilderConfig, owner="builder")
    (tmp_path / "agent.yaml").write_text(text + "\n")
    section = load_config(made, tmp_path, environ={}, trust=lambda *_: True).section(BuilderConfig)
    assert (section.mode, section.size) == wanted
    assert [each.get("type") for each in json_schema(made)["properties"]["builder"]["anyOf"]] == [None, "object"]
