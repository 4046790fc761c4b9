"""The multiplexed stream, split anywhere and lying."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moat_core.errors import EngineError
from moat_core.types import Output
from moat_plugins.docker.frames import Demultiplexer

FRAMES = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300)), max_size=20)


def encode(frames):
    return b"".join(bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data for stream, data in frames)


@given(FRAMES, st.lists(st.integers(0, 7000), max_size=30))
def test_any_split_gives_the_same_streams(frames, cuts):
    """However the bytes are cut into pieces, each stream is what was framed, in order, and nothing is empty."""
    data = encode(frames)
    demultiplexer, pieces, before = Demultiplexer(), [], 0
    for cut in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
        pieces += demultiplexer.feed(data[before:cut])
        before = cut
    assert not demultiplexer.is_inside
    assert all(piece.data for piece in pieces)
    for number, name in ((1, "stdout"), (2, "stderr")):
        assert b"".join(piece.data for piece in pieces if piece.stream == name) == b"".join(
            data for stream, data in frames if stream == number
        )


@given(st.binary(min_size=1, max_size=300))
def test_terminal_is_passed_on_as_it_is(data):
    """With a terminal there are no frames."""
    assert Demultiplexer(raw=True).feed(data) == [Output("stdout", data)]


def test_claimed_length_reserves_nothing():
    """A frame that claims 4 GB costs what has arrived of it."""
    demultiplexer = Demultiplexer()
    tracemalloc.start()
    try:
        assert demultiplexer.feed(b"\1\0\0\0\xff\xff\xff\xff" + b"x" * 1000) == [Output("stdout", b"x" * 1000)]
        for _ in range(100):
            assert len(demultiplexer.feed(b"x" * 65536)[0].data) == 65536
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert demultiplexer.is_inside


@pytest.mark.parametrize("header", [b"\4\0\0\0\0\0\0\1", b"\1\0\0\1\0\0\0\1", b"HTTP/1.1", b"\xff" * 8])
def test_garbage_is_refused(header):
    """What is no frame is an error, not data."""
    with pytest.raises(EngineError, match="garbled"):
        Demultiplexer().feed(header + b"x")


@given(st.binary(max_size=2000))
def test_no_input_breaks_it(data):
    """Any bytes at all are either frames or an error of ours."""
    try:
        Demultiplexer().feed(data)
    except EngineError:
        pass
