"""JSON lists that come apart into their items, whatever the pieces they arrive in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moat_core.errors import EngineError
from moat_core.json_lists import Splitter

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(), st.lists(JSON, max_size=4) | JSON.filter(lambda each: not isinstance(each, list)))


def split(text, size, most=1 << 20):
    splitter, found = Splitter(most), []
    for at in range(0, len(text), size):
        found += [(name, json.loads(item)) for name, item in splitter.feed(text[at : at + size])]
    return found


@given(st.lists(JSON, max_size=5), st.integers(1, 40), st.booleans())
@settings(deadline=None, max_examples=40)
def test_a_list_comes_apart_into_its_items(items, size, ascii_only):
    """Whatever they are, and wherever the pieces end."""
    text = json.dumps(items, ensure_ascii=ascii_only, indent=size % 3 or None).encode()
    assert split(text, size) == [("", item) for item in items]


@given(OBJECTS, st.integers(1, 40))
@settings(deadline=None, max_examples=40)
def test_an_object_of_lists_comes_apart_into_theirs(fields, size):
    """Only lists that are its own fields count, not those that are deeper, and what is no list is left out."""
    found = split(json.dumps(fields, ensure_ascii=False).encode(), size)
    plain = [(json.dumps(key)[1:-1], value) for key, value in fields.items() if isinstance(value, list)]
    assert [item for _, item in found] == [item for _, value in plain for item in value]


def test_an_endless_item_is_given_up():
    """One that is too long, or a text outside of lists that does not end."""
    for text in (b'["' + bytes(100), b'{"' + bytes(100), b"[[" + b"1," * 50):
        with pytest.raises(EngineError, match="too long"):
            split(text, 10, most=50)
