"""Every option of ours says whether it widens: what says nothing needs trust, and nobody has thought about it."""

from __future__ import annotations

import pytest

from moat_core.api import Moat
from moat_core.config.judges import Baseline

SCHEMA = Moat(home="/nowhere").schema


def leaves(fields, path=()):
    """Yield every option with its path."""
    for field in fields:
        if field.fields is None:
            yield ".".join((*path, field.key)), field
        else:
            yield from leaves(field.fields, (*path, field.key))


OPTIONS = dict(leaves(SCHEMA.fields))


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_says_whether_it_widens(name, tmp_path):
    """And its default, where nobody has said anything else, gives nothing."""
    field = OPTIONS[name]
    assert "widens" in field.metadata, f"say widens=… for {name}"
    widens = field.metadata["widens"]
    assert widens is False or isinstance(widens, str) or callable(widens)
    if callable(widens):
        default = field.make_default()
        assert not widens(default, Baseline(default, tmp_path))


def test_a_dependency_of_ours_that_a_plugin_brings_says_so():
    """`docker:host` and `docker:dind` widen."""
    assert all(info.widens for info in SCHEMA.offered().values())
    assert {"docker:host", "docker:dind"} <= set(SCHEMA.offered())
