"""The border: Python's own kinds of error for whatever cannot be passed on, and everything else unchanged."""

from __future__ import annotations

import os
import pathlib
import subprocess

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moat_core import checks
from moat_core.errors import ArgumentTooLong, InvalidType, InvalidValue, UsageError
from moat_core.types import Command, EnvValue, InitStep, Limits, Mount, Port, Tmpfs, User

NAN, INFINITY = float("nan"), float("inf")


class Fake:
    """Something that says it is a path and is none."""

    def __fspath__(self):
        return 5


BAD = [
    # check, value, the built-in error that Python's own call raises
    (checks.text, None, TypeError),
    (checks.text, b"x", TypeError),
    (checks.text, "a\0b", ValueError),
    (checks.text, "\ud800", ValueError),
    (checks.path, None, TypeError),
    (checks.path, 5, TypeError),
    (checks.path, Fake(), TypeError),
    (checks.path, bytearray(b"x"), TypeError),
    (checks.path, "", ValueError),
    (checks.path, "a.txt\0.sh", ValueError),
    (checks.path, b"a\0b", ValueError),
    (checks.path, pathlib.Path("a\0b"), ValueError),
    (checks.word, 1, TypeError),
    (checks.word, "x\0", ValueError),
    (checks.word, "x" * 131_072, OSError),
    (checks.word, "ä" * 65_536, OSError),
    (checks.argv, "ls -l", TypeError),
    (checks.argv, b"ls", TypeError),
    (checks.argv, bytearray(b"ls"), TypeError),
    (checks.argv, {"ls": 1}, TypeError),
    (checks.argv, None, TypeError),
    (checks.argv, 5, TypeError),
    (checks.argv, [], ValueError),
    (checks.argv, [""], ValueError),
    (checks.argv, ["ls", None], TypeError),
    (checks.argv, ["ls", ["a"]], TypeError),
    (checks.env, {"A=B": "c"}, ValueError),
    (checks.env, {"": "c"}, ValueError),
    (checks.env, {"A\0": "c"}, ValueError),
    (checks.env, {"A\n": "c"}, ValueError),
    (checks.env, {"1A": "c"}, ValueError),
    (checks.env, {"A": "\0"}, ValueError),
    (checks.env, {"A": None}, TypeError),
    (checks.env, {"A": 1}, TypeError),
    (checks.env, {None: "c"}, TypeError),
    (checks.env, ["A=B"], TypeError),
    (checks.env, "A=B", TypeError),
    (checks.env, {"A": "x" * 131_070}, OSError),
    (checks.user, 0, TypeError),
    (checks.user, "", ValueError),
    (checks.user, "a b", ValueError),
    (checks.user, "root\0", ValueError),
    (checks.user, "root\n", ValueError),
    (checks.user, "1:2:3", ValueError),
    (checks.user, "-1", ValueError),
    (checks.user, "4294967295", ValueError),
    (checks.flag, 1, TypeError),
    (checks.flag, "no", TypeError),
    (checks.flag, None, TypeError),
    (checks.count, True, TypeError),
    (checks.count, 1.0, TypeError),
    (checks.count, "1", TypeError),
    (checks.count, None, TypeError),
    (checks.count, NAN, TypeError),
    (checks.count, -1, ValueError),
    (checks.count, 2**63, ValueError),
    (checks.port, 0, ValueError),
    (checks.port, 65_536, ValueError),
    (checks.seconds, NAN, ValueError),
    (checks.seconds, INFINITY, ValueError),
    (checks.seconds, -0.1, ValueError),
    (checks.seconds, 10**400, ValueError),
    (checks.seconds, True, TypeError),
    (checks.seconds, "1", TypeError),
    (checks.seconds, 1j, TypeError),
    (checks.positive_s, 0, ValueError),
    (checks.size, 24, TypeError),
    (checks.size, "ab", TypeError),
    (checks.size, (24,), TypeError),
    (checks.size, (24, -1), ValueError),
    (checks.size, (24, 65_536), ValueError),
    (checks.size, (24.0, 80), TypeError),
    (checks.content, None, TypeError),
    (checks.content, 5, TypeError),
    (checks.content, [1, 2], TypeError),
    (checks.content, "\udcff", ValueError),
]


@pytest.mark.parametrize(("check", "value", "kind"), BAD, ids=lambda value: repr(value)[:30])
def test_what_cannot_be_is_pythons_own_kind_of_error(check, value, kind):
    """And ours, so that the command says a sentence and exits with 2."""
    with pytest.raises(kind) as caught:
        check(value, "it")
    if not isinstance(caught.value, UnicodeEncodeError):
        assert isinstance(caught.value, UsageError)
        assert caught.value.exit_code == 2


def test_no_value_is_shown():
    """It may be a secret; a name is none."""
    for call in (
        lambda: checks.env({"TOKEN": "secret\0"}),
        lambda: checks.argv(["x", "secret\0"]),
        lambda: checks.path("secret\0"),
    ):
        with pytest.raises(InvalidValue) as caught:
            call()
        assert "secret" not in str(caught.value) + caught.value.hint


def test_pythons_own_calls_refuse_the_same():
    """The table above is no invention."""
    for words, kind in ((["true", "a\0"], ValueError), (["true", None], TypeError), (["true", "x" * 131_072], OSError)):
        with pytest.raises(kind):
            subprocess.run(words, check=False)
        with pytest.raises(kind):
            checks.argv(words)
    with pytest.raises(ValueError, match="illegal environment variable name"):
        subprocess.run(["true"], env={"A=B": "c"}, check=False)
    with pytest.raises(ValueError, match="illegal environment variable name"):
        checks.env({"A=B": "c"})
    with pytest.raises(ValueError, match="embedded null byte"):
        open("a\0b")  # noqa: SIM115 - it is not opened
    with pytest.raises(ValueError, match="embedded null byte"):
        checks.path("a\0b")


@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name))
def test_bytes_of_a_name_come_through_unchanged(name):
    """However they are given, and whether or not they are UTF-8."""
    for given_as in (name, os.fsdecode(name), pathlib.Path(os.fsdecode(name))):
        made = checks.path(given_as)
        assert made.encode("utf-8", "surrogateescape") == os.fsencode(given_as)
    assert Command([b"cat", name]).argv[1].encode("utf-8", "surrogateescape") == name
    assert checks.is_utf8(os.fsdecode(name)) == (name.decode("utf-8", "replace").encode() == name)


@given(st.binary(max_size=40))
def test_content_is_taken_as_it_is_now(data):
    """What the caller does with the buffer afterwards changes nothing; a view may have gaps."""
    buffer = bytearray(data)
    for value in (data, buffer, memoryview(buffer)):
        taken = checks.content(value)
        assert type(taken) is bytes
        assert taken == data
    del value  # a view keeps its buffer from changing its size
    taken = checks.content(buffer)
    buffer[:] = b"changed"
    assert taken == data
    assert checks.content(memoryview(data)[::2]) == data[::2]


values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.sampled_from(["\0", "\udcff", "\ud800", "A=B", "", b"\0", (), [], {}, {"A": "\0"}, ["a", 1], object(), Fake()])
    | st.lists(st.text(max_size=3), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)
)


@pytest.mark.parametrize(
    "kind", [Command, Mount, Tmpfs, Port, EnvValue, Limits, User, InitStep], ids=lambda it: it.__name__
)
def test_none_of_the_types_can_be_made_with_a_bad_value(kind):
    """Whatever is put in, either it is refused in Python's words or it can be passed on."""

    @given(st.fixed_dictionaries({field.name: values for field in attrs.fields(kind)}))
    def check(fields):
        try:
            made = kind(**fields)
        except (InvalidType, InvalidValue, ArgumentTooLong):
            return
        for field in attrs.fields(kind):
            if field.converter is not None:
                assert passes(getattr(made, field.name)), (field.name, made)

    check()


def passes(value):
    """Whether VALUE can be handed to a program or an engine."""
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, str):
        return "\0" not in value and value.encode("utf-8", "surrogateescape") is not None
    if isinstance(value, int | float):
        return value == value and abs(value) < 2**63  # noqa: PLR0124 - as it is not for NaN
    if isinstance(value, dict):
        return all("=" not in key and key and passes(key) and passes(each) for key, each in value.items())
    return all(map(passes, value))


def test_what_sqlite_does_not_take_is_escaped():
    """A name that is not UTF-8 in a message must not make a state file look broken."""
    assert checks.storable({"a": "x\udcff", "b": 1, "c": None}) == {"a": "x\\udcff", "b": 1, "c": None}
    assert checks.storable(("ä", 1.5)) == ["ä", 1.5]
