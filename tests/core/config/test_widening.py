"""What of a workspace's file widens, what is left of it without trust, and what an option that says nothing is."""

from __future__ import annotations

import os

import attrs
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moat_core.config import ConfigSchema, above, distrust, load_config, only, option, overrides
from moat_core.errors import PluginError
from moat_core.types import DependencyInfo


@attrs.frozen
class Section:
    """A plugin's."""

    silent: str = option("a", help="Its author said nothing.")
    narrow: str = option("a", help="It never widens.", widens=False)
    always: str = option("a", help="Every other value does.", widens="it is another one")
    most: int = option(5, help="More is wider.", widens=above("more"))
    word: str = option("a", help="One word is wide.", widens=only("the wide one", "wide"))
    theirs: str = option("", help="Free until the user says something.", widens=overrides("not the user's"))
    names: dict[str, str] = option({}, help="Entries, about which nothing is said.")
    token: str = option("", help="It is not shown.", secret=True, widens="another token")
    short: tuple[str, ...] = option((), help="A list, about which nothing is said.")


OFFERED = {
    "thing:wide": DependencyInfo("thing:wide", "s", widens="a thing"),
    "thing:silent": DependencyInfo("thing:silent", "s"),
    "thing:narrow": DependencyInfo("thing:narrow", "s", widens=""),
}


@pytest.fixture
def widened(load):
    """Return a function that loads TEXT, trusting nothing, and returns the keys that widen and the config."""

    def run(text, user=None, **kwargs):
        schema = ConfigSchema()
        schema.add_section("plug", Section, owner="plug")
        schema.offered = lambda: OFFERED
        config = load(text, user=user, schema=schema, trust=distrust, **kwargs)
        return [each.key for each in config.widenings], config

    return run


WIDE = [
    ("sandbox: none", None, ["sandbox"]),
    ("sandbox: none", "sandbox: gvisor", ["sandbox"]),
    ("sandbox: null", "sandbox: gvisor", ["sandbox"]),
    ("runtime: other", None, ["runtime"]),
    ("runtime: other", "runtime: docker", ["runtime"]),
    ("base_image: evil/image", None, ["base_image"]),
    ("interactive: true", None, ["interactive"]),
    ("mounts: ['/etc:/x']", None, ["mounts[0]"]),
    ("mounts: ['/etc:/x:ro']", None, ["mounts[0]"]),
    ("mounts: ['~/x:/x']", None, ["mounts[0]"]),
    ("mounts: ['..:/x']", None, ["mounts[0]"]),
    ("mounts: ['./a/../../b:/x']", None, ["mounts[0]"]),
    ("mounts: ['./d:/x', '/etc:/y', {source: /, target: /z}]", None, ["mounts[1]", "mounts[2]"]),
    ("mounts: ['./d:/usr/bin']", None, ["mounts[0]"]),
    ("mounts: ['./d:/lib64']", None, ["mounts[0]"]),
    ("mounts: ['./d:/x/../etc']", None, ["mounts[0]"]),
    ("mounts: ['./d:/workspace/x']", None, ["mounts[0]"]),
    ("mounts: ['./d:/x', './d:/x/y']", None, ["mounts[1]"]),
    ("mounts: ['./d:/x', '/etc:/x/y']", "mounts: ['/etc:/x/y']", ["mounts[0]"]),
    ("mounts: []", "mounts: ['/empty:/workspace/.git']", ["mounts"]),
    ("mounts: ['/etc:/x']", "mounts: ['/etc:/x:ro']", ["mounts"]),
    ("network: bridge", "network: none", ["network"]),
    ("container: {memory: 2g}", "container: {memory: 1g}", ["container.memory"]),
    ("container: {memory: null}", "container: {memory: 1g}", ["container.memory"]),
    ("container: {cpus: 4}", "container: {cpus: 1.5}", ["container.cpus"]),
    ("container: {pids: 5000}", None, ["container.pids"]),
    ("container: {pids: null}", "container: {pids: 100}", ["container.pids"]),
    ("container: {dns: [6.6.6.6]}", "container: {dns: [9.9.9.9]}", ["container.dns"]),
    ("container: {dns: []}", "container: {dns: [9.9.9.9]}", ["container.dns"]),
    ("hooks: {post_build: x, post_build_root: y}", None, ["hooks.post_build", "hooks.post_build_root"]),
    ("dependencies: [python, 'pip:evil', 'npm:@a/b@1']", None, ["dependencies[1]", "dependencies[2]"]),
    ("dependencies: ['thing:wide', 'thing:silent', 'thing:narrow']", None, ["dependencies[0]", "dependencies[1]"]),
    ("dependencies: ['thing:wide@1', 'thing:other']", None, ["dependencies[0]", "dependencies[1]"]),
    ("plug: {silent: b}", None, ["plug.silent"]),
    ("plug: {silent: a}", "plug: {silent: b}", ["plug.silent"]),
    ("plug: {always: b}", None, ["plug.always"]),
    ("plug: {most: 6}", None, ["plug.most"]),
    ("plug: {most: 3}", "plug: {most: 2}", ["plug.most"]),
    ("plug: {word: wide}", None, ["plug.word"]),
    ("plug: {theirs: x}", "plug: {theirs: y}", ["plug.theirs"]),
    ("plug: {names: {a: x}}", None, ["plug.names.a"]),
    ("plug: {short: [x]}", None, ["plug.short"]),
    ("plug: {token: x}", None, ["plug.token"]),
]


@pytest.mark.parametrize(("text", "user", "keys"), WIDE)
def test_what_widens_is_found_and_left_out(widened, text, user, keys):
    """Each value that gives more than the user's own config and the defaults do, and it is not in the config."""
    found, config = widened(text, user)
    assert found == keys
    assert not config.is_trusted
    left = {key: (value, origin) for key, value, origin in config.items()}
    alone = {key: (value, origin) for key, value, origin in widened("", user)[1].items()}
    assert all(left.get(each.key) == alone.get(each.key) for each in config.widenings if each.item is None)
    assert all(each.why and each.where == "agent.yaml:1" for each in config.widenings)


NARROW = [
    ("name: fox\ncommand: [rm, -rf, /]\nenv: {A: b, PATH: /workspace}\nports: {web: 3000}", None),
    ("sandbox: gvisor", None),
    ("sandbox: none", "sandbox: none"),
    ("network: none", None),
    ("network: bridge", None),
    ("container: {memory: 64g, cpus: 64, pids: 100, dns: [9.9.9.9]}", None),
    ("container: {memory: 512m, cpus: 1}", "container: {memory: 1g, cpus: 1}"),
    ("container: {pids: 200}", "container: {pids: 200}"),
    ("dependencies: [python, node@22, jq]", None),
    ("dependencies: ['thing:wide', 'pip:x']", "dependencies: ['pip:x', 'thing:wide']"),
    ("mounts: ['./d:/x:ro', {source: ., target: /y}]", None),
    ("mounts: ['/etc:/x:ro', './d:/d']", "mounts: ['/etc:/x:ro']"),
    ("interactive: false", "interactive: true"),
    ("hooks: {pre_run: anything}", None),
    ("plug: {silent: a, narrow: b, always: a, most: 5, word: b, theirs: x, names: {}, short: []}", None),
    ("plug: {silent: b, most: 9}", "plug: {silent: b, most: 10}"),
    ("", "sandbox: none\nmounts: ['/etc:/x']"),
]


@pytest.mark.parametrize(("text", "user"), NARROW)
def test_what_narrows_needs_no_trust(widened, text, user):
    """It is heeded whoever wrote it."""
    found, config = widened(text, user)
    assert found == []
    assert config.is_trusted


def test_narrowing_counts_beside_what_is_left_out(widened):
    """A file that does both narrows all the same."""
    config = widened("sandbox: none\nnetwork: none\nmounts: ['/etc:/x', './d:/d']\ncontainer: {pids: 100}")[1]
    assert (config.core.sandbox, config.core.network, config.core.container.pids) == (None, "none", 100)
    assert [mount.target for mount in config.core.mounts] == ["/d"]


def test_a_link_in_the_workspace_that_leads_out_is_outside(widened, load):
    """A mount is judged by where it leads, and what is shown says so."""
    load("")
    (load.folder / "d").symlink_to("/etc")
    found, config = widened("mounts: ['./d:/x']")
    assert found == ["mounts[0]"]
    assert "(/etc)" in config.widenings[0].why


def test_where_a_link_leads_is_part_of_what_was_decided(widened, load):
    """Trust in a mount of one folder is no trust in the same words for another one."""
    load("")
    (load.folder / "d").symlink_to("/etc")
    before = widened("mounts: ['./d:/x']")[1].widenings[0].fingerprint
    (load.folder / "d").unlink()
    (load.folder / "d").symlink_to("/usr")
    assert widened("mounts: ['./d:/x']")[1].widenings[0].fingerprint != before


def test_flags_and_the_environment_need_no_trust(widened):
    """They are the user's own word, also where the file says the same."""
    config = widened("sandbox: none", environ={"MOAT_NO_SANDBOX": "1", "MOAT_PLUG_SILENT": "b"})[1]
    assert (config.core.sandbox, config.section(Section).silent) == ("none", "b")


def test_nothing_is_interpolated(widened):
    """No spelling in the file takes a value from the host's environment."""
    config = widened("env: {A: '${HOME}', B: '$HOME', C: '~'}")[1]
    assert dict(config.core.env) == {"A": "${HOME}", "B": "$HOME", "C": "~"}


def test_a_secret_is_not_shown(widened):
    """What widens is named, not told."""
    (found,) = widened("plug: {token: s3cret}")[1].widenings
    assert (found.value, "s3cret" in repr(found)) == ("…", False)


def test_what_is_shown_is_whole_and_on_one_line(widened):
    """A long value cannot hide its end, nor a control character what stands before it."""
    name = "x" * 5000 + "-end"
    (found,) = widened(f'plug: {{silent: "{name}\\e[2K\\u202e\\nb"}}')[1].widenings
    assert found.value.isprintable()
    assert "-end" in found.value


def test_a_judge_that_raises_is_the_plugins_fault(load):
    """And nothing passes."""

    def broken(value, baseline):
        raise KeyError(value)

    Broken = attrs.make_class("Broken", {"key": option("", help="h", widens=broken)}, frozen=True)  # noqa: N806
    Broken.__annotations__ = {"key": str}
    schema = ConfigSchema()
    schema.add_section("broken", Broken, owner="test")
    with pytest.raises(PluginError, match=r"broken\.key"):
        load("broken: {key: x}", schema=schema)


def test_what_was_decided_is_no_word_about_anything_else(load):
    """A file that is handed on with its decision is not read again, and widens no further than that."""
    config = load("sandbox: none")
    (load.folder / "agent.yaml").write_text("sandbox: none\nmounts: ['/:/x']\n")
    again = load_config(ConfigSchema(), load.folder, environ={}, source=config.file)
    assert (again.core.sandbox, again.core.mounts, again.is_trusted) == ("none", (), True)
    stranger = attrs.evolve(config.file, text="runtime: other\n")
    assert not load_config(ConfigSchema(), load.folder, environ={}, source=stranger).is_trusted
    assert not load_config(
        ConfigSchema(), load.folder, environ={}, source=attrs.evolve(config.file, accepted=frozenset())
    ).is_trusted


SOURCES = st.sampled_from(["/etc:/x", "./d:/d", "~/a:/a:ro", "./d:/usr", "..:/up", ".:/same"])
TREES = st.fixed_dictionaries(
    {},
    optional={
        "sandbox": st.sampled_from(["none", "gvisor", None]),
        "network": st.sampled_from(["bridge", "none"]),
        "interactive": st.booleans(),
        "runtime": st.sampled_from(["docker", "other", None]),
        "base_image": st.sampled_from(["debian:12", "evil"]),
        "dependencies": st.lists(st.sampled_from(["python", "pip:x", "thing:wide", "thing:narrow"]), unique=True),
        "mounts": st.lists(SOURCES, unique_by=lambda mount: mount.split(":")[1]),
        "container": st.fixed_dictionaries(
            {},
            optional={
                "memory": st.sampled_from(["1g", "2g", None]),
                "cpus": st.sampled_from([1, 2.5, None]),
                "pids": st.sampled_from([100, 4096, 5000, None]),
                "dns": st.lists(st.sampled_from(["9.9.9.9", "1.1.1.1"]), unique=True),
            },
        ),
        "hooks": st.dictionaries(st.sampled_from(["pre_run", "post_build", "post_build_root"]), st.just("true")),
        "plug": st.fixed_dictionaries(
            {}, optional={"most": st.integers(0, 9), "silent": st.sampled_from("ab"), "word": st.just("wide")}
        ),
    },
)


@given(TREES, TREES)
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], deadline=None)
def test_what_is_left_widens_nothing(tmp_path, file, user):
    """Whatever is in both files: without what was found there is nothing more to find, and the user's word holds."""
    schema = ConfigSchema()
    schema.add_section("plug", Section, owner="plug")
    schema.offered = lambda: OFFERED
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(file))
    mine = tmp_path / "user.yaml"
    mine.write_text(yaml.safe_dump(user | {"mounts": [m for m in user.get("mounts", ()) if m[0] in "/~"]}))

    def read(**kwargs):
        return load_config(schema, tmp_path, environ={"HOME": "/h"}, user_config=mine, **kwargs)

    narrow, alone = read(), read(source={})
    core, own = narrow.core, alone.core
    assert core.sandbox != "none" or own.sandbox == "none"
    assert core.network == "none" or own.network == "bridge"
    assert core.base_image == own.base_image
    assert core.runtime == own.runtime
    assert (core.container.pids or 4096) <= (own.container.pids or 4096)
    assert (core.container.memory or 2**60) <= (own.container.memory or 2**60)
    assert {m for m in core.mounts if not m.source.startswith(str(tmp_path))} == set(own.mounts)
    assert {d for d in core.dependencies if ":" in d} <= {*own.dependencies, "thing:narrow"}
    assert narrow.section(Section).most <= alone.section(Section).most
    assert narrow.is_trusted == (not narrow.widenings)
    assert read(trust=lambda *_: True).widenings == narrow.widenings


def test_the_file_is_read_once(load, monkeypatch):
    """What is hashed, shown and decided on is what is parsed: no second opening of a file that may have changed."""
    load("name: a")
    opened = []
    true_open = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest, **kw: opened.append(str(path)) or true_open(path, *rest, **kw))

    def trust(file, widenings):
        (load.folder / "agent.yaml").write_text("mounts: ['/:/x']\n")
        return True

    config = load_config(ConfigSchema(), load.folder, environ={}, trust=trust)
    assert opened.count("agent.yaml") == 1
    assert config.core.mounts == ()
