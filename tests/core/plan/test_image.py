"""The name of an image stands for everything in it; CAs are written into its Dockerfile."""

from __future__ import annotations

import os
import subprocess
import sys

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moat_core.plan import PROXY_ARGS, finish_image, image_tag
from moat_core.types import ImageSpec

SPEC = ImageSpec(
    "debian:bookworm-slim",
    "FROM debian:bookworm-slim\nRUN true\n",
    files={"a": b"1", "b": b"2"},
    build_args={"VERSION": "1", "HTTP_PROXY": "http://proxy:3128"},
    trust=(b"-----BEGIN CERTIFICATE-----\nQQ==\n-----END CERTIFICATE-----\n",),
)


@pytest.mark.parametrize(
    "change",
    [
        {"base": "debian:trixie-slim"},
        {"dockerfile": "FROM debian:bookworm-slim\nRUN true \n"},
        {"files": {"a": b"1", "b": b"3"}},
        {"files": {"a": b"2", "b": b"1"}},
        {"files": {"a": b"1", "c": b"2"}},
        {"files": {"a": b"1"}},
        {"build_args": {"VERSION": "2"}},
        {"build_args": {}},
        {"trust": ()},
        {"trust": SPEC.trust * 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_change_changes_the_tag(change):
    """Base, text, files, their names, arguments and CAs: none may change without another name."""
    assert image_tag(attrs.evolve(SPEC, **change)) != image_tag(SPEC)


def test_the_cases_above_are_all_fields():
    """A field that is added to the spec must be thought of here and in the tag."""
    assert {field.name for field in attrs.fields(ImageSpec)} == {
        "base", "dockerfile", "tag", "files", "build_args", "trust",
    }  # fmt: skip


def test_order_and_proxies_do_not_matter():
    """The order of files and the host's proxies decide nothing of the content."""
    same = attrs.evolve(
        SPEC, files={"b": b"2", "a": b"1"}, build_args=dict.fromkeys(PROXY_ARGS, "x") | {"VERSION": "1"}
    )
    assert image_tag(same) == image_tag(SPEC)


_FILES = st.dictionaries(st.text(max_size=5), st.binary(max_size=5), max_size=3)


@given(_FILES, _FILES, st.text(max_size=10), st.text(max_size=10))
def test_different_content_has_different_tags(files, others, text, other):
    """No two contents share a name by the way they are put together."""
    one = image_tag(attrs.evolve(SPEC, files=files, dockerfile=text))
    two = image_tag(attrs.evolve(SPEC, files=others, dockerfile=other))
    assert (one == two) is ((files, text) == (others, other))


def test_tag_is_the_same_in_every_process():
    """Neither the hash seed nor the process changes the name."""
    program = "from test_image import SPEC; from moat_core.plan import image_tag; print(image_tag(SPEC))"
    tags = set()
    for seed in ("0", "1", "random"):
        environ = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.path.dirname(__file__)}
        tags.add(
            subprocess.run(
                [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
            ).stdout
        )
    assert tags == {image_tag(SPEC) + "\n"}
    assert len(image_tag(SPEC)) == len("moat/run:") + 16


def test_cas_come_right_after_every_from():
    """Each stage trusts them before its first step, by ARG, so that the image's own environment stays clean."""
    spec = attrs.evolve(SPEC, dockerfile="ARG A\nFROM a AS x\nRUN one\n# from nowhere\n  from b\nRUN two\n")
    lines = finish_image(spec).dockerfile.splitlines()
    for stage, run in (("FROM a AS x", "RUN one"), ("  from b", "RUN two")):
        between = lines[lines.index(stage) + 1 : lines.index(run)]
        assert any("trust.sh" in line for line in between)
        assert "ARG SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt" in between
    assert not any(line.startswith("ENV") for line in lines)


def test_what_needs_no_build_is_left_alone():
    """A base without a Dockerfile, and an image with a name of its own, are not touched."""
    for spec in (attrs.evolve(SPEC, dockerfile=None), attrs.evolve(SPEC, tag="mine")):
        assert finish_image(spec) is spec


def test_finishing_twice_is_finishing_once():
    """A finished spec has a name, so that nothing is written into it again."""
    once = finish_image(SPEC)
    assert finish_image(once) == once
