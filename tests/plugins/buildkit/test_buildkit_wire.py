"""Protobuf's wire format: fixed bytes, round trips, and garbage."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moat_plugins.buildkit.wire import control, session
from moat_plugins.buildkit.wire.codec import Message, WireError, field, read_varint, varint

TEXT = st.text(max_size=20)
MAPS = st.dictionaries(TEXT, TEXT, max_size=3)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
STATS = st.builds(
    session.Stat, path=st.binary(max_size=30), mode=st.integers(0, 2**32 - 1), size=st.integers(0, 2**62),
    mod_time=NUMBERS, linkname=st.binary(max_size=9), xattrs=st.dictionaries(TEXT, st.binary(max_size=9), max_size=2),
)  # fmt: skip


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (control.BytesMessage(b"ab"), b"\x0a\x02ab"),
        (session.Packet(type=1, id=300), b"\x08\x01\x18\xac\x02"),
        (session.Packet(), b""),
        (session.Packet(stat=session.Stat()), b"\x12\x00"),
        (session.HealthCheckResponse(1), b"\x08\x01"),
        (session.Stat(mod_time=-1), b"\x30" + b"\xff" * 9 + b"\x01"),
        (control.Exporter("moby", {"name": "a"}), b"\x0a\x04moby\x12\x09\x0a\x04name\x12\x01a"),
        (control.Vertex(started=1_500_000_000), b"\x2a\x08\x08\x01\x10\x80\xca\xb5\xee\x01"),
        (control.SolveRequest(entitlements=["a", ""]), b"\x4a\x01a\x4a\x00"),
    ],
)
def test_messages_are_these_bytes(message, data):
    """As the reference implementation writes them."""
    assert message.encode() == data
    assert type(message).decode(data) == message


@given(NUMBERS)
def test_numbers_survive(value):
    """Negative ones as two's complement."""
    data = varint(value)
    assert read_varint(data, 0) == (value % 2**64, len(data))
    assert session.Stat.decode(session.Stat(size=value).encode()).size == value


@given(STATS, st.binary(max_size=50), st.integers(0, 4))
def test_packets_survive(stat, data, kind):
    """File names that are not UTF-8, too."""
    packet = session.Packet(kind, stat, 7, data)
    assert session.Packet.decode(packet.encode()) == packet


@given(TEXT, MAPS, st.lists(TEXT, max_size=3), st.lists(st.builds(control.Exporter, TEXT, MAPS), max_size=2))
def test_requests_survive(text, attributes, texts, exporters):
    """Maps, lists and messages in messages."""
    request = control.SolveRequest(ref=text, frontend_attrs=attributes, entitlements=texts, exporters=exporters)
    assert control.SolveRequest.decode(request.encode()) == request


@given(st.binary(max_size=200))
def test_garbage_is_read_or_refused(data):
    """With the one error, whatever the bytes."""
    for kind in (control.StatusResponse, session.Packet, session.RpcStatus, control.DiskUsageResponse):
        try:
            kind.decode(data)
        except WireError:
            pass
        except UnicodeDecodeError:
            pytest.fail("text that is not UTF-8 is kept")


def test_what_is_not_known_is_skipped():
    """Newer daemons say more, in every wire type."""

    @attrs.define
    class Newer(Message):
        data: bytes = field(1, "bytes")
        number: int = field(90, "int")
        text: str = field(91, "str")

    fixed = b"\xe1\x05" + b"\0" * 8 + b"\xe5\x05" + b"\0" * 4
    assert control.BytesMessage.decode(Newer(b"x", 3, "y").encode() + fixed) == control.BytesMessage(b"x")


@pytest.mark.parametrize("data", [b"\x0a\x05ab", b"\x0a", b"\x0b", b"\xff" * 11, b"\x08\x01", b"\x09\0"])
def test_malformed_is_refused(data):
    """Cut off, groups, endless numbers, a number where bytes belong."""
    with pytest.raises(WireError):
        control.BytesMessage.decode(data)


@given(
    path=st.binary(max_size=300),
    mode=st.integers(0, (1 << 32) - 1),
    size=st.integers(0, (1 << 63) - 1),
    mod_time=st.integers(-(1 << 63), (1 << 63) - 1),
    linkname=st.binary(max_size=300),
)
@example(path=b"a", mode=0o644, size=1 << 33, mod_time=1 << 56, linkname=b"")
@example(path=b"a", mode=0o644, size=1 << 33, mod_time=(1 << 56) - 1, linkname=b"")
@example(path=b"a", mode=0o644, size=1 << 33, mod_time=(1 << 63) - 1, linkname=b"")
def test_a_stat_made_quickly_is_the_same(path, mode, size, mod_time, linkname):
    """What is sent for each file of a context reads as the message that it stands for."""
    stat = session.Stat(path=path, mode=mode, size=size, mod_time=mod_time, linkname=linkname)
    made = session.stat_packet(path, mode, size, mod_time, linkname)
    assert session.Packet.decode(made) == session.Packet(type=session.PacketType.STAT, stat=stat)
