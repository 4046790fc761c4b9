"""What is asked for and by whom it is taken up: names made from the fields, and refusals that say which."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from moat_core.errors import PlanError
from moat_core.plan import PlanBuilder, check_honours, find_demands, list_demands
from moat_core.plan.claims import CORES
from moat_core.plan.plan import Plan
from moat_core.runtime.base import RuntimeInfo
from moat_core.types import ImageSpec, InitStep, Limits, Mount, Tmpfs, User, Volume

ALWAYS = ("image", "capabilities", "limits.pids")
"""An image there must be, all capabilities but some are dropped, and a fork bomb stays inside."""


def plan(**fields):
    made = PlanBuilder(run_id="run-00000000", name="fox", runtime="r", workspace=Path("/")).freeze()
    return attrs.evolve(made, **fields)


def test_a_plan_that_asks_for_nothing_asks_for_the_default_isolation():
    """Nothing else is in its demands."""
    assert sorted(find_demands(plan())) == sorted(ALWAYS)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"network": "none"}, {"network"}),
        ({"limits": Limits(1, 2.0, 3)}, {"limits.memory_bytes", "limits.cpus"}),
        ({"mounts": (Mount("/a", "/a"),)}, {"mounts"}),
        ({"mounts": (Mount("/a", "/a"), Mount("/b", "/b", read_only=True))}, {"mounts", "mounts.read_only"}),
        ({"tmpfs": (Tmpfs("/t", 1, ("exec",)),)}, {"tmpfs", "tmpfs.size_bytes", "tmpfs.options"}),
        ({"volumes": (Volume("v", "/v", "kept"),)}, {"volumes", "volumes.cache"}),
        ({"user": User(1, 2)}, {"user.uid", "user.gid"}),
        ({"init_steps": (InitStep("a", "b", as_user=True),)}, {"init_steps", "init_steps.as_user"}),
        ({"image": ImageSpec("x", dockerfile="FROM x")}, {"image.dockerfile"}),
        ({"oci_runtime": "runsc", "sandboxed": True}, {"oci_runtime"}),
        ({"command": ("a",), "tty": True, "timeout_s": 1.0, "details": {"a": 1}}, {"command", "tty"}),
    ],
)
def test_each_demand_has_a_name(fields, names):
    """The field's, and the part's where one of its values is not the default; a runtime that lacks it is refused."""
    made = plan(**fields)
    assert set(find_demands(made)) == {*ALWAYS, *names}
    assert names <= list_demands()
    for name in names:
        (problem,) = check_honours(made, RuntimeInfo("r", "x:y", honours=list_demands() - {name}))
        assert (problem.where, name in problem.message) == (name, True)


def test_a_new_field_asks_until_somebody_claims_it():
    """A field without a word about it, of a plan or of something in it, is refused by every runtime."""
    bigger = attrs.make_class(
        "Bigger", {"firewall": attrs.field(default="on", kw_only=True)}, bases=(Plan,), frozen=True
    )
    made = bigger(**{field.name: getattr(plan(), field.name) for field in attrs.fields(Plan)})
    (problem,) = check_honours(made, RuntimeInfo("r", "x:y", honours=list_demands()))
    assert problem.where == "firewall"


@pytest.mark.parametrize(
    ("text", "request_", "name"),
    [
        ("sandbox: gvisor", {}, "sandbox"),
        ("", {"sandbox": True}, "sandbox"),
        ("hooks: {pre_run: 'true'}", {}, "hooks.pre_run"),
        ("hooks: {post_build: 'true'}", {}, "hooks.post_build"),
        ("hooks: {post_build_root: 'true'}", {}, "hooks.post_build_root"),
        ("dependencies: [python]", {}, "dependencies"),
        ("", {"dependencies": ("python",)}, "dependencies"),
        ("base_image: 'debian:12'", {}, "base_image"),
        ("", {}, "workspace"),
    ],
)
def test_what_no_plugin_takes_up_is_named(moat, monkeypatch, text, request_, name):
    """In the config or the request; claimed by a plugin it is none of core's."""
    from moat_core.testing import fake

    monkeypatch.setattr(fake, "moat_add_to_plan", fake.hookimpl(lambda plan: None))
    moat.file("agent.yaml", text)
    with pytest.raises(PlanError) as caught:
        moat.plan(**request_)
    assert name in [problem.where for problem in caught.value.problems]
    monkeypatch.setattr(fake, "moat_add_to_plan", fake.hookimpl(lambda plan: plan.claim("workspace", name)))
    moat.plan(**request_)


def test_going_without_asks_nothing(moat):
    """`sandbox: none` needs nobody."""
    moat.file("agent.yaml", "sandbox: none")
    assert moat.plan().sandbox is False
    assert moat.plan(sandbox=False).sandbox is False
    assert moat.plan(sandbox=True).sandbox is True


def test_core_claims_only_what_is_there():
    """Each of its names is a field's, so that none is kept for what has gone."""
    from moat_core.config import ConfigSchema  # noqa: F401
    from moat_core.config.core import ContainerConfig, CoreConfig, HistoryConfig
    from moat_core.plan import RunRequest

    known = {field.name for kind in (RunRequest, CoreConfig) for field in attrs.fields(kind)}
    known |= {f"container.{field.name}" for field in attrs.fields(ContainerConfig)}
    known |= {f"history.{field.name}" for field in attrs.fields(HistoryConfig)}
    assert known >= CORES
