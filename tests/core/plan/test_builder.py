"""What plugins write on: each field is checked when it is set, and whoever set it wrongly is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from moat_core.errors import HookContractError
from moat_core.plan import PlanBuilder
from moat_core.types import User

WRONG = {
    "user": "root",
    "image": "debian",
    "limits": {"pids": 1},
    "network": "host",
    "dns": ["1.1.1.1"],
    "oci_runtime": 1,
    "privileged": True,
    "sandbox": "none",
    "sandboxed": 1,
    "own_network": None,
    "working_dir": Path("/"),
}


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_value_is_refused_where_it_is_set(field):
    """With the plugin, the field and what it is to be; the value that was there stays."""
    builder = PlanBuilder(run_id="run-00000000", name="fox", runtime="r", workspace=Path("/"))
    before = getattr(builder, field)
    with (
        builder.contributing("third"),
        pytest.raises(HookContractError, match=f"Plugin 'third' set plan.{field}") as caught,
    ):
        setattr(builder, field, WRONG[field])
    assert caught.value.hint
    assert caught.value.details["plugin"] == "third"
    assert getattr(builder, field) == before


def test_a_right_value_is_taken():
    """As it is."""
    builder = PlanBuilder(run_id="run-00000000", name="fox", runtime="r", workspace=Path("/"))
    builder.user = User(1, 2)
    builder.dns = ("1.1.1.1",)
    assert (builder.user, builder.freeze().dns) == (User(1, 2), ("1.1.1.1",))
