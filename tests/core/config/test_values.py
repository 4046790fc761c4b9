"""Sizes, durations, references, paths and what is shown of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moat_core.config import BadValue, check_image, duration_s, nearest, show, size_bytes
from moat_core.config.values import expand_path, parse_mount

ANYTHING = st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.text()))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("512m", 512 * 1024**2),
        ("2g", 2 * 1024**3),
        ("1.5g", 1536 * 1024**2),
        ("64MiB", 64 * 1024**2),
        ("64 MB", 64 * 1024**2),
        ("100b", 100),
        ("0", 0),
        ("1T", 1024**4),
        (256, 256 * 1024**2),
        (0.5, 512 * 1024),
    ],
)
def test_sizes(value, expected):
    """Units are powers of 1024, a bare number is MiB."""
    assert size_bytes(value) == expected


@pytest.mark.parametrize("value", ["", "m", "-1m", "1x", "1 2", "1e3", "٣m", True, None, [1], -1, float("nan"), 2**60])
def test_what_is_no_size(value):
    """Everything else is refused."""
    with pytest.raises(BadValue):
        size_bytes(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("30s", 30.0), ("500ms", 0.5), ("1h30m", 5400.0), ("1.5h", 5400.0), ("2d", 172800.0), (5, 5.0), ("7", 7.0)],
)
def test_durations(value, expected):
    """Units add up, a bare number is seconds."""
    assert duration_s(value) == expected


@pytest.mark.parametrize("value", ["", "s", "-1s", "1x", "1h 30m", True, None, -1, float("inf"), 1e300, "9" * 12 + "d"])
def test_what_is_no_duration(value):
    """Everything else is refused."""
    with pytest.raises(BadValue):
        duration_s(value)


@given(ANYTHING)
def test_sizes_and_durations_only_raise_bad_value(value):
    """Whatever is given, the answer is a finite number or a BadValue."""
    for read in (size_bytes, duration_s):
        found, reason = 0, "fine"
        try:
            found = read(value)
        except BadValue as error:
            reason = error.reason
        assert reason
        assert 0 <= found <= 2**63


@given(st.integers(0, 2**23 - 1), st.sampled_from("bkmgt"))
def test_sizes_are_exact(number, unit):
    """No digit is lost in a float."""
    assert size_bytes(f"{number}{unit}") == number * 1024 ** "bkmgt".index(unit)


IMAGES = [
    ("debian", True),
    ("debian:bookworm-slim", True),
    ("localhost/x", True),
    ("localhost:5000/a/b_c/d__e/f--g.h:Tag_1.2", True),
    ("Registry.Example/team/image", True),
    ("a@sha256:" + "0" * 64, True),
    ("a:b@sha256:" + "0" * 64, True),
    ("moat/run:0123456789abcdef", True),
    ("", False),
    ("A", False),
    ("a:", False),
    ("a//b", False),
    ("a b", False),
    ("-a", False),
    ("a@sha256:0", False),
    ("a:" + "b" * 129, False),
    ("a\n", False),
    ("a" * 300, False),
]


@pytest.mark.parametrize(("reference", "is_good"), IMAGES)
def test_image_references(reference, is_good):
    """The grammar of image references, no more and no less."""
    if is_good:
        check_image(reference)
    else:
        with pytest.raises(BadValue):
            check_image(reference)


@given(st.text())
def test_what_is_shown_is_one_short_printable_line(text):
    """Nothing in a value can steer the terminal or fill the screen."""
    shown = show(text)
    assert shown.isprintable()
    assert len(shown) < 700
    assert shown.startswith("'")


def test_ordinary_text_is_shown_as_it_is():
    """Letters of any language stay readable."""
    assert show("grün 狐") == "'grün 狐'"


@pytest.mark.parametrize(
    ("word", "expected"), [("nam", "name"), ("Name", "name"), ("xyzzy", None), ("", None), ("a" * 10**6, None)]
)
def test_nearest(word, expected):
    """The nearest match is near, whatever the case."""
    assert nearest(word, ["name", "runtime"]) == expected


@given(st.text(), st.one_of(st.none(), st.just(Path("/base"))), st.one_of(st.none(), st.just("/home/u")))
def test_paths_become_absolute_or_bad(text, base, home):
    """A path is absolute and normal afterwards, or refused."""
    try:
        path = expand_path(text, base, home)
    except BadValue:
        return
    assert path.startswith("/")
    assert ".." not in path.split("/")


@given(st.text(alphabet=st.sampled_from("a/:.~\0 \nrow"), max_size=30))
def test_mounts_are_safe_or_bad(text):
    """Whatever is written, a mount has an absolute normal target that is none of the system's."""
    try:
        mount = parse_mount(text, base=Path("/base"), home="/home/u")
    except BadValue:
        return
    assert mount.source.startswith("/")
    assert mount.target.startswith("/")
    assert not mount.target.startswith("//")
    assert mount.target not in {"/", "/workspace", "/proc", "/sys"}
    assert ".." not in mount.target.split("/")
    again = parse_mount(str(mount), base=None, home=None)
    assert again == mount
