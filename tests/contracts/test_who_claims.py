"""Contracts on who does what was asked for: with the built-ins nothing is left without somebody."""

from __future__ import annotations

import attrs

from moat_core.config.core import CoreConfig
from moat_core.plan import RunRequest, list_demands
from moat_core.plan.claims import CORES
from moat_plugins.docker.honours import HONOURS


def test_a_docker_engine_honours_all_of_a_plan_and_no_more():
    """A new field of a plan, or of something in it, comes with what does it, or is refused."""
    assert list_demands() == HONOURS


def test_the_built_ins_take_up_all_that_can_be_asked_for(moat, monkeypatch, tmp_path):
    """Every field of a request and of the config's base keys is core's or claimed."""
    from moat_core import Moat
    from moat_core.plan import builder

    claimed = []
    claim = builder.PlanBuilder.claim
    monkeypatch.setattr(
        builder.PlanBuilder, "claim", lambda self, *names: (claimed.extend(names), claim(self, *names))[1]
    )
    monkeypatch.setenv("MOAT_PLUGINS", "")
    monkeypatch.setenv("MOAT_DISABLE", "")
    loaded = Moat(home=tmp_path / "home")
    loaded.plan(loaded.request(moat.workspace, runtime="docker"))
    names = set(_names(RunRequest)) | set(_names(CoreConfig))
    assert names - CORES == set(claimed)


def _names(kind, prefix=""):
    for field in attrs.fields(kind):
        made = field.default.factory() if isinstance(field.default, attrs.Factory) else None
        if attrs.has(type(made)):
            yield from _names(type(made), f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"
