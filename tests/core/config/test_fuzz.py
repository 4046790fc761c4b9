"""Hypothesis: whatever stands in the file, loading gives a config or a ConfigError, and never lies."""

from __future__ import annotations

import tempfile
from pathlib import Path

import attrs
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moat_core.config import ConfigSchema, CoreConfig, load_config
from moat_core.config.tree import classify
from moat_core.errors import ConfigError

KEYS = [field.key for field in ConfigSchema().base] + [
    "memory",
    "cpus",
    "pids",
    "dns",
    "pre_run",
    "source",
    "target",
    "mode",
    "A",
    "web",
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.dates(),
    st.binary(max_size=5),
    st.sampled_from(["none", "bridge", "/a:/b", "512m", "debian:12", "12:30", "on", "python@3.11"]),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=8), st.integers()), inner, max_size=4)
    ),
    max_leaves=20,
)
CONFIGS = st.dictionaries(st.sampled_from(KEYS), TREES, max_size=6)


@pytest.fixture(scope="module")
def folder():
    """Return one folder for all examples; each rewrites its file."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def attempt(folder, data):
    """Load DATA; return the config or ``None``, after looking at the problems."""
    (folder / "agent.yaml").write_bytes(data)
    try:
        return load_config(ConfigSchema(), folder, environ={}, trust=lambda *_: True)
    except ConfigError as error:
        found = error.problems
    assert found
    for problem in found:
        assert problem.where.startswith("agent.yaml")
        assert problem.message.isprintable()
        assert len(problem.message) < 1500
    return None


def is_sound(config):
    """Check what a valid config promises."""
    core = config.core
    assert isinstance(core, CoreConfig)
    assert all(isinstance(value, str) and "\0" not in value for value in core.env.values())
    assert all(1 <= port <= 65535 for port in core.ports.values())
    assert len(set(core.ports.values())) == len(core.ports)
    assert all(mount.source.startswith("/") and mount.target.startswith("/") for mount in core.mounts)
    for _, _, origin in config.items():
        assert origin == "default" or origin.startswith("agent.yaml:")


@given(st.binary(max_size=400))
def test_bytes(folder, data):
    """Arbitrary bytes."""
    config = attempt(folder, data)
    assert config is None or is_sound(config) is None


@given(st.text(max_size=400))
def test_text(folder, text):
    """Arbitrary text."""
    config = attempt(folder, text.encode("utf-8", "surrogatepass"))
    assert config is None or is_sound(config) is None


@given(st.text(alphabet=st.sampled_from("abe:-[]{}\"'|>&*!%#?,\n\t \\x0\u00851~@`<="), max_size=200))
def test_punctuation(folder, text):
    """Text made of what means something to YAML."""
    attempt(folder, text.encode())


@given(CONFIGS, st.booleans())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_structures(folder, tree, flow):
    """Valid YAML of any shape under the right keys."""
    data = yaml.safe_dump(tree, default_flow_style=flow, allow_unicode=True).encode("utf-8", "surrogatepass")
    config = attempt(folder, data)
    assert config is None or is_sound(config) is None


@given(st.text(alphabet=st.sampled_from("yesnoftrualYNOF0123456789+-._:exXabEinTZ~= <"), max_size=12))
def test_a_plain_scalar_is_text_only_where_other_readers_agree(text):
    """What PyYAML takes for a number, truth value, date or nothing is never silently a text here."""
    try:
        theirs = yaml.safe_load(f"key: {text}")
    except (yaml.YAMLError, ValueError):
        return
    if not isinstance(theirs, dict):
        return
    if not isinstance(theirs.get("key"), str):
        assert classify(text.strip())[0] != "text"


NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50)
GOOD = st.fixed_dictionaries(
    {},
    optional={
        "name": NAMES,
        "sandbox": st.sampled_from(["none", "gvisor"]),
        "dependencies": st.lists(NAMES, unique=True, max_size=4),
        "command": st.lists(TEXTS, max_size=4).map(lambda rest: ["program", *rest]),
        "interactive": st.booleans(),
        "env": st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True), TEXTS, max_size=4),
        "network": st.sampled_from(["bridge", "none"]),
        "ports": st.dictionaries(NAMES, st.integers(1, 65535), max_size=3).filter(
            lambda ports: len(set(ports.values())) == len(ports)
        ),
        "container": st.fixed_dictionaries({"pids": st.integers(16, 9999), "cpus": st.floats(0.01, 64)}),
    },
)


class Quoting(yaml.SafeDumper):
    """Quotes every text: PyYAML itself leaves 08 bare, which YAML 1.2 reads as a number."""


Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


@given(GOOD, st.booleans())
def test_what_is_right_comes_back_as_it_was(folder, tree, flow):
    """Round trip: valid values, dumped by PyYAML, are read back unchanged."""
    data = yaml.dump(tree, Dumper=Quoting, default_flow_style=flow).encode()
    config = attempt(folder, data)
    assert config is not None, data
    found = attrs.asdict(config.core)
    for key, value in tree.items():
        if key == "container":
            assert found[key]["pids"] == value["pids"]
            assert found[key]["cpus"] == pytest.approx(value["cpus"])
        else:
            assert found[key] == (tuple(value) if isinstance(value, list) else value)
            assert value in ({}, []) or config.origin(key) != "default"
