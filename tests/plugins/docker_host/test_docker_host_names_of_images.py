"""How images are called: what the engine lists, what moat keeps, what is the run's."""

from __future__ import annotations

import pytest
from guarded import GUESTS

from moat_plugins.docker_host.policy.fields import familiar_name, hide_labels, is_reserved_name


@pytest.mark.parametrize(
    ("reference", "familiar"),
    [
        ("a", "a:latest"),
        ("a:1", "a:1"),
        ("library/a", "a:latest"),
        ("docker.io/a", "a:latest"),
        ("docker.io/library/a:1", "a:1"),
        ("index.docker.io/b/a", "b/a:latest"),
        ("docker.io/b/a@sha256:0", "b/a@sha256:0"),
        ("host:5000/a", "host:5000/a:latest"),
        ("host:5000/library/a:1", "host:5000/library/a:1"),
        ("library/a/b", "library/a/b:latest"),
    ],
)
def test_familiar_names(reference, familiar):
    """As the engine's own lists have them."""
    assert familiar_name(reference) == familiar


@pytest.mark.parametrize(
    "name", ["moat/x", "MOAT/x:1", "docker.io/moat/x/y", "localhost/moat/x", "h:1/moat/x@sha256:0"]
)
def test_reserved_names(name):
    """In any case, on any registry."""
    assert is_reserved_name(name)


@pytest.mark.parametrize("name", ["moat", "moat:1", "moatx/x", "x/moat", "my.registry/x/moat/y", "moat-x/y"])
def test_other_names(name):
    """What only looks alike is anybody's."""
    assert not is_reserved_name(name)


def test_the_runs_names_of_an_image():
    """Each holds for the image and the name that it was made for."""
    made, other = "sha256:1", "sha256:2"
    own, its = GUESTS.name_image(made), GUESTS.name_image(made, "mine:1")
    assert GUESTS.own_names(made, ["mine:1", "theirs:1", own, its]) == ["mine:1"]
    assert GUESTS.own_names(made, ["theirs:1", own]) == []
    assert GUESTS.own_names(made, [GUESTS.name_new_image()]) == []
    assert GUESTS.own_names(made, ["mine:1", its]) is None
    assert GUESTS.own_names(other, ["mine:1", own, its]) is None
    assert GUESTS.own_names(made, [f"{GUESTS.repository}:new-0123456789abcdef-{'0' * 32}"]) is None
    assert GUESTS.is_reserved(own)
    assert GUESTS.is_reserved(GUESTS.name_new_image())


def test_labels_of_ours_are_hidden():
    """Who knew them could have others' things taken for the run's."""
    signed = GUESTS.sign("container", "web", {"a": "b"})
    assert hide_labels(signed) == {"a": "b"}
    assert hide_labels(None) is None
