"""The key that tells our things: made once, by whoever is first, and never by a look."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moat_core.errors import StoreError
from moat_core.runtime.proof import Proof

WORDS = st.lists(st.text(max_size=5), max_size=4)


@given(WORDS, WORDS)
def test_no_two_lists_of_words_have_one_tag(tmp_path_factory, first, second):
    """However they are cut: the tag holds for the words that it was made for, and for no others."""
    proof = Proof(tmp_path_factory.getbasetemp() / "proof")
    assert proof.holds(proof.make(*first), *second) is (first == second)


def test_several_make_one_key(tmp_path):
    """Whoever is first has made it for all; it is whole, and nobody else's to read."""
    home = tmp_path / "home"
    with ThreadPoolExecutor(8) as pool:
        tags = set(pool.map(lambda _: Proof(home).make("a"), range(32)))
    assert len(tags) == 1
    assert (home / "key").stat().st_mode & 0o777 == 0o600
    assert len((home / "key").read_bytes()) == 32
    assert os.listdir(home) == ["key"]


def test_a_look_makes_nothing(tmp_path):
    """A home that has signed nothing proves nothing, and is not made."""
    assert Proof(tmp_path / "home").holds("", "a") is False
    assert Proof(tmp_path / "home").holds(Proof(tmp_path / "other").make("a"), "a") is False
    assert not (tmp_path / "home").exists()


def test_no_home_proves_nothing(tmp_path, monkeypatch):
    """Least of all by a file of that name where one happens to be."""
    tag = Proof(tmp_path).make("a")
    monkeypatch.chdir(tmp_path)
    assert Proof("").holds(tag, "a") is False
    with pytest.raises(StoreError):
        Proof("").make("a")


def test_homes_have_keys_of_their_own(tmp_path):
    """What one signed is not another's."""
    first, second = Proof(tmp_path / "a"), Proof(tmp_path / "b")
    assert first.make("x") != second.make("x")
    assert Proof(tmp_path / "a").holds(first.make("x"), "x")


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_broken_key_is_told(tmp_path, content):
    """It is not replaced: what it proved would be nobody's."""
    (tmp_path / "key").write_bytes(content)
    for ask in (lambda proof: proof.make("a"), lambda proof: proof.holds("b", "a")):
        with pytest.raises(StoreError, match="key"):
            ask(Proof(tmp_path))
    assert (tmp_path / "key").read_bytes() == content


def test_what_was_burned_holds_nothing(tmp_path):
    """For every process that has the key, and for no other tag."""
    home = tmp_path / "home"
    one, other = Proof(home), Proof(home)
    tags = {word: one.make(word) for word in "abc"}
    assert all(other.holds(tag, word) for word, tag in tags.items())
    one.burn(tags["a"])
    one.burn(tags["b"])
    for proof in (one, other, Proof(home)):
        assert [proof.holds(tag, word) for word, tag in tags.items()] == [False, False, True]
    assert (home / "burned").stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_burned_is_an_error(tmp_path):
    """Whoever wanted it burned must not go on."""
    with pytest.raises(StoreError, match="cannot be written down"):
        Proof(tmp_path / "nowhere").burn("a")
