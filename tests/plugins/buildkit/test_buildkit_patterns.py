"""The matcher of ignore patterns: that it says what Python's `re` would, where that comes to an end; and what it costs."""

from __future__ import annotations

import re

import pytest
from backtracking import old_glob, old_pattern
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from moat_plugins.buildkit.fs import compiled
from moat_plugins.buildkit.fs.compiled import compile_pattern, to_go
from moat_plugins.buildkit.fs.expression import parse
from moat_plugins.buildkit.fs.glob import compile_glob
from moat_plugins.buildkit.fs.machine import Machine

MALFORMED = object()
WORDS = ["a", "b", "ab", "/", "/", "*", "**", "**/", "/**/", "*a", "?", ".", "\n"]
ODD = [
    "[ab]", "[^a]", "[a-c]*", "[", "]", "{2}", "{1,2}", "{1,}", "{", "}", "|", "^", "\\b", "\\B", "\\z", "\\pL", "\\*", "\\d", "\\/",
    "ä", "_", "[[:alpha:]]", "-", "!", "(", ")", "$", "+", "\\",
]  # fmt: skip
PATHS = st.text(st.sampled_from("aabb//.c\nä_*"), min_size=1, max_size=14)


def texts(words, size):
    return st.lists(st.sampled_from(words), min_size=1, max_size=size).map("".join)


def outcome(make, text):
    """The matcher, or that there is none."""
    try:
        return make(text)
    except ValueError:
        return MALFORMED


def machine(text):
    """What is used for few patterns, for all of them."""
    kind, expression = to_go(text)
    return Machine(parse(f"^{expression}$", text)).matches if kind == "regexp" else compile_pattern(text)


def same(text, paths):
    old = outcome(old_pattern, text)
    for make in (compile_pattern, machine):
        new = outcome(make, text)
        assert (old is MALFORMED) == (new is MALFORMED)
        for path in paths:
            assert new is MALFORMED or new(path) == old(path), (make, path)


@settings(max_examples=300)
@given(texts(WORDS, 9), st.lists(PATHS, min_size=1, max_size=8))
@example("**/a/**/b", ["a/\nx/a/b", "a/b", "xa/b", "a/a/b", "a/x/b\n"])
@example("**/a/**", ["a/a/\n", "a/\na/x", "\na/x"])
@example("a***/b", ["aa/b", "ab", "a/a/b"])
@example("**/a**/b", ["ab", "a/ab", "a/b", "a/a/b"])
@example("*a*/**/*b*b", ["a/bb", "xax/y/abcb", "a/b", "a/b/b"])
def test_ordinary_patterns_match_as_they_did(text, paths):
    """Whichever way is taken."""
    same(text, paths)


@settings(max_examples=300)
@given(texts([*WORDS, *ODD], 7), st.lists(PATHS, min_size=1, max_size=8))
@example("*\\ba{2}|b", ["aa", "baa", "b/b", "a/aa", "ab"])
@example("a|*^b", ["xb", "b", "a/a"])
@example("*[^b]a/b", ["a/a/b", "ca/b", "c/a/b", "/a/b"])
def test_odd_patterns_match_as_they_did(text, paths):
    """What moby's own way makes of them, counts, alternatives and places between characters included."""
    assume(not re.search(r"\{[0,]|(\^|\\[bBz])\{", text))  # Python and Go read them differently, see below
    assume(outcome(compile_glob, text) is not MALFORMED)  # moby asks that first
    same(text, paths)


@pytest.mark.parametrize(
    ("text", "path", "wanted"),
    [
        ("*{,2}", "a{,2}", True), ("*a{,2}", "aa", False), ("*a{01}", "ba{01}", True), ("*a{01}", "a", False),
        ("*a^{2}", "a", False), ("?*^{0}a", "ba", True), ("{0}*b", "c/b", True), ("{1}*b", "c/b", False),
        ("*b{0}", "b", True), ("*b{0}c", "bc", True), ("*/b{0}c", "a/bc", False), ("*/b{0,}c", "a/bbc", True),
    ],
)  # fmt: skip
def test_counts_are_read_as_go_reads_them(text, path, wanted):
    """Python takes some for counts that are none for Go, and the other way round. A place that need not be is nothing."""
    assert compile_pattern(text)(path) is wanted


@pytest.mark.parametrize(
    "text", ["*{2}", "**/{2}a?", "?|{2}", "?a{1001}", "?a{2,1}", "?a{2}{2}", "?a{99999999999}", "?" + "a{1000}" * 11]
)
def test_counts_that_cannot_be_are_told(text):
    """Too large, too many, or of nothing."""
    with pytest.raises(ValueError, match="pattern"):
        compile_pattern(text)


@settings(max_examples=300)
@given(texts(["a", "b", "*", "*", "?", "[ab]", "[^a]", "[b-a]", "\\*", "ä", "[", "-"], 9), st.text("abä*", max_size=12))
def test_a_glob_matches_names_as_it_did(pattern, name):
    """Its star takes as little as it can, and what it then takes is enough."""
    old, new = outcome(old_glob, pattern), outcome(compile_glob, pattern)
    assert (old is MALFORMED) == (new is MALFORMED)
    assert new is MALFORMED or bool(new.fullmatch(name)) == bool(old.fullmatch(name))


ORDINARY = [
    ".git/*", "**/*.pyc", "**/__pycache__/**", "*.egg-info*", "**/*.min.*", "**/.*.sw?", "src/**/test_*_*.py", "**/a/**/*.js", "**/*.py[cod]",
    "docs/*/build/*", "a**/*.txt", "**/**/*.log",
]  # fmt: skip


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_patterns_are_quick(text, monkeypatch):
    """No machine is made for them: `re` is a hundred times as quick."""
    monkeypatch.setattr(compiled, "Machine", None)
    compile_pattern(text)("some/where/else.txt")


HOSTILE = {
    "folders": ("**/" * 30 + "z?", "a/" * 400),
    "folders and names": ("**/a/" * 30 + "z?", "a/" * 400),
    "folders in names": ("**/a**" * 30 + "z?", "a/" * 400),
    "stars": ("*a" * 60 + "z", "a" * 250),
    "stars in many names": ("**/" + "*a*a*a*a/" * 10 + "z", ("a" * 250 + "/") * 20),
    "stars before folders": ("*a**/" * 20 + "z", ("a" * 20 + "/") * 100),
    "what may be a slash": ("*[^b]" * 40 + "z", "a/" * 400),
    "counts": ("a{0,100}" * 20 + "?z", "a" * 2000),
    "alternatives": ("*x|" * 40 + "z", "a" * 2000),
    "lines": ("**/a/**/b/**", "a/b/" * 400 + "\n"),
    "words": ("*\\b*\\B" * 20 + "z", "a " * 500),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("row", HOSTILE.values(), ids=HOSTILE)
def test_no_pattern_takes_for_ever(row):
    """Each would with `re` alone, or almost; the limit is generous, all of them take a second together."""
    text, path = row
    assert compile_pattern(text)(path + "zbb") is False  # all that must be in it is


def test_a_machine_keeps_little(monkeypatch):
    """However many characters there are in the paths."""
    matcher = Machine(parse("^[^/]*a{2}$", ""))
    assert not any(matcher.matches(chr(number)) for number in range(0x4E00, 0x5E00))
    assert len(matcher._masks) <= 256
    assert matcher.matches("一aa")
