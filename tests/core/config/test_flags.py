"""What flags say, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moat_core.config import parse_env_flag, parse_mount_flag, parse_port_flag
from moat_core.errors import ConfigError
from moat_core.types import Mount

ENVIRON = {"TOKEN": "s3cret", "BAD": "s3cret\ud800", "ODD": "\udcff"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=b", ("A", "b")),
        ("A=", ("A", "")),
        ("A=b=c", ("A", "b=c")),
        ("TOKEN", ("TOKEN", "s3cret")),
        ("ODD", ("ODD", "\udcff")),
    ],
)
def test_env(text, expected):
    """K=V, and K alone from the environment."""
    assert parse_env_flag(text, ENVIRON) == expected


@pytest.mark.parametrize("text", ["", "=x", "1A=x", "A B=x", "NOT_SET", "A=s3cret\0", "BAD", "A=" + "s3cret" * 50_000])
def test_bad_env_says_where_and_never_what(text):
    """The flag is named, the value is not."""
    with pytest.raises(ConfigError) as caught:
        parse_env_flag(text, ENVIRON)
    (problem,) = caught.value.problems
    assert problem.where == "--env"
    assert "s3cret" not in str(caught.value)


def test_mount():
    """Sources start at the working folder, modes are kept."""
    base = Path("/work")
    assert parse_mount_flag("data:/data", base) == Mount("/work/data", "/data")
    assert parse_mount_flag("/a/../b:/data:ro", base) == Mount("/b", "/data", read_only=True)
    assert parse_mount_flag("~/x:/data:rw", base, home="/h") == Mount("/h/x", "/data")


@pytest.mark.parametrize("text", ["", "a", "a:", ":/b", "a:b", "a:/b:x", "a:/b:ro:rw", "a:/workspace", "~/x:/b", "a:/"])
def test_bad_mount(text):
    """What is no mount is told under the flag's name, with what was given."""
    with pytest.raises(ConfigError) as caught:
        parse_mount_flag(text, Path("/work"))
    (problem,) = caught.value.problems
    assert problem.where == "--mount"
    assert f"'{text}'" in problem.message


@pytest.mark.parametrize("text", ["web=3000", "web:3000"])
def test_port(text):
    """Both separators work."""
    assert parse_port_flag(text) == ("web", 3000)


@pytest.mark.parametrize(
    "text", ["", "3000", "web", "web=", "=1", "web=0", "web=65536", "web=x", "WEB=1", "web=٣", "a=1=2"]
)
def test_bad_port(text):
    """What is no port is told under the flag's name."""
    with pytest.raises(ConfigError) as caught:
        parse_port_flag(text)
    assert caught.value.problems[0].where == "--port"


@given(st.text())
def test_flags_raise_nothing_but_config_errors(text):
    """Whatever is typed, the answer is a value or one problem."""
    calls = (
        lambda: parse_env_flag(text, {}),
        lambda: parse_mount_flag(text, Path("/work")),
        lambda: parse_port_flag(text),
    )
    for call in calls:
        found = ()
        try:
            call()
        except ConfigError as error:
            found = error.problems
        assert len(found) <= 1
        assert all(problem.message.isprintable() for problem in found)
