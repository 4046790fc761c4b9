"""Who is let in, and who makes room."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moat_core.listen import Limits, Room


@attrs.define(eq=False)
class Guest:
    peer: str
    is_idle: bool = True
    is_gone: bool = False

    def hang_up(self):
        self.is_gone = True


def crowd(room, peer, count, *, is_idle=True):
    guests = [Guest(peer, is_idle) for _ in range(count)]
    return guests, [room.let_in(each) for each in guests]


def test_a_flood_displaces_itself():
    """The oldest of its own go; who came before it stays."""
    room = Room(10, 8)
    friend = Guest("friend")
    assert room.let_in(friend)
    guests, let_in = crowd(room, "flood", 100)
    assert all(let_in)
    assert [each.is_gone for each in guests] == [True] * 92 + [False] * 8
    assert not friend.is_gone
    assert room.count == 9


def test_who_comes_into_a_crowd_is_let_in():
    """Whoever has the most makes room, be they under their own limit."""
    room = Room(10, 8)
    one, _ = crowd(room, "one", 4)
    two, _ = crowd(room, "two", 6)
    assert room.let_in(Guest("friend"))
    assert [each.is_gone for each in two] == [True, False, False, False, False, False]
    assert not any(each.is_gone for each in one)


def test_who_is_busy_stays():
    """A peer whose connections are all at work gets no more of them, and takes none of another's."""
    room = Room(10, 6)
    friends, _ = crowd(room, "friend", 3)
    busy, let_in = crowd(room, "flood", 20, is_idle=False)
    assert let_in == [True] * 6 + [False] * 14
    assert not any(each.is_gone for each in [*friends, *busy])
    assert room.let_in(Guest("another"))
    assert not room.let_in(Guest("third")) or any(each.is_gone for each in friends)


def test_leaving_is_idempotent():
    """Who was displaced leaves once more when its task ends."""
    room = Room(1, 1)
    one, two = Guest("a"), Guest("a")
    assert room.let_in(one)
    assert room.let_in(two)
    room.leave(one)
    room.leave(two)
    room.leave(two)
    assert room.count == 0
    assert room.let_in(one)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.booleans()), max_size=200))
def test_there_are_never_too_many(steps):
    """Whatever comes and goes: no more than the limits, and the count is right."""
    room, present = Room(6, 4), []
    for peer, is_idle, leaves in steps:
        if leaves and present:
            room.leave(present.pop(0))
            continue
        guest = Guest(peer, is_idle)
        if room.let_in(guest):
            present.append(guest)
        present = [each for each in present if not each.is_gone]
        assert room.count == len(present) <= 6
        assert all(sum(each.peer == peer for each in present) <= 4 for peer in "abcd")


@pytest.mark.parametrize("files", [16, 64, 256, 1024, 4096, 1 << 20])
def test_limits_fit_the_process(files):
    """One listener takes a quarter of the descriptors at most, counting what is behind it, and always somebody."""
    fit = Limits().fit(files)
    assert fit.door >= fit.door_of_peer >= 1
    assert fit.inside >= fit.inside_of_peer >= 1
    if files >= 64:
        assert fit.door + 2 * fit.inside <= files / 4
    if files >= 4096:
        assert fit == Limits()
