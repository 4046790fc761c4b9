"""Plans against the ceiling: what nobody asked for is capped, what somebody asked for beyond it is an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moat_core.errors import PlanError
from moat_core.hooks import hookimpl


@pytest.fixture
def capped(moat):
    """Return a function that plans under a ceiling."""

    def run(ceiling, **arguments):
        folder = Path(os.environ["XDG_CONFIG_HOME"], "moat")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(f"ceiling: {ceiling}\n")
        return moat.plan(**arguments)

    return run


def test_what_nobody_named_is_the_ceilings(capped):
    """Limits and the network."""
    plan = capped("{memory: 1g, cpus: 2, pids: 100, network: none}")
    assert (plan.limits.memory_bytes, plan.limits.cpus, plan.limits.pids) == (1024**3, 2, 100)
    assert plan.network == "none"


BEYOND = [
    ("memory", "{memory: 1g}", {"config": {"container": {"memory": "2g"}}}),
    ("cpus", "{cpus: 1}", {"config": {"container": {"cpus": 1.5}}}),
    ("pids", "{pids: 100}", {"config": {"container": {"pids": 4096}}}),
    ("network", "{network: none}", {"config": {"network": "bridge"}}),
    ("sandbox", "{sandbox: required}", {"sandbox": False}),
    ("sandbox", "{sandbox: required}", {"config": {"sandbox": "none"}}),
    ("mounts", "{mounts: []}", {"mounts": ["/etc:/x:ro"]}),
    ("mounts", "{mounts: [/usr/share]}", {"mounts": ["/usr:/x:ro"]}),
    ("dependencies", "{dependencies: plain}", {"dependencies": ["docker:host"]}),
    ("dependencies", "{dependencies: plain}", {"config": {"dependencies": ["pip:x"]}}),
    ("dependencies", "{dependencies: [python]}", {"dependencies": ["python@3.12", "jq"]}),
    ("fixed", "{fixed: [base_image]}", {"base_image": "evil"}),
    ("fixed", "{fixed: [sandbox]}", {"sandbox": False}),
    ("fixed", "{fixed: [env]}", {"env": {"A": "b"}}),
]


@pytest.mark.parametrize(("key", "ceiling", "arguments"), BEYOND)
def test_beyond_it_is_an_error_naming_it(capped, key, ceiling, arguments):
    """Whoever asks: a file, an argument, a flag."""
    with pytest.raises(PlanError) as caught:
        capped(ceiling, **arguments)
    (found,) = [each for each in caught.value.problems if each.where.startswith("ceiling.")]
    assert found.where == f"ceiling.{key}"
    assert "~/.config/moat/config.yaml" in found.hint


def test_a_link_does_not_lead_around_it(capped, tmp_path):
    """A mount is where it leads."""
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed/link").symlink_to("/etc")
    with pytest.raises(PlanError, match="none of the folders"):
        capped(f"{{mounts: [{tmp_path}/allowed]}}", mounts=[f"{tmp_path}/allowed/link:/x"])
    assert capped(f"{{mounts: [{tmp_path}/allowed]}}", mounts=[f"{tmp_path}/allowed:/x"])


class Greedy:
    """A plugin that gives every run more."""

    @hookimpl
    def moat_add_to_plan(self, plan):
        plan.add_capability("NET_RAW", "for ping")
        plan.privileged = "for fun"
        plan.network = "bridge"


@pytest.mark.parametrize("ceiling", ["{privileged: false}", "{capabilities: false}", "{network: none}"])
def test_plugins_are_under_it_too(capped, moat, ceiling):
    """What they add to a plan counts."""
    moat.register(Greedy())
    with pytest.raises(PlanError) as caught:
        capped(ceiling)
    assert [each.where for each in caught.value.problems] == [f"ceiling.{ceiling[1:].partition(':')[0]}"]
