"""Protocol Buffers' wire format, as far as BuildKit's messages need it: declared by attrs fields, coded by hand.

Own code rather than generated: that would demand a runtime as new as its generator, and register BuildKit's package
names for the whole process, where they clash with any other package that does so. A message costs 2 µs.
Source: protobuf's "Encoding" guide. Unknown fields are skipped; what is malformed raises `WireError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Self, TypeVar

import attrs

__all__ = ["Message", "WireError", "field", "read_varint", "varint"]

M = TypeVar("M", bound="Message")
_NUMBER = "moat_wire"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}
_MOST_BITS = 70
_MASK = (1 << 64) - 1
_SIGN = 1 << 63
_NANOS = 1_000_000_000
_SMALL = [bytes((number,)) for number in range(0x80)]

Kind = str | type["Message"]
"""``str``, ``bytes``, ``int``, ``bool``, ``time`` (nanoseconds since 1970), ``map`` (str to str), ``bytes-map`` (str
to bytes), or a message class."""

_DEFAULTS: Mapping[str, Any] = {"str": "", "bytes": b"", "int": 0, "bool": False}


class WireError(ValueError):
    """A message is not what the wire format allows."""


def varint(value: int) -> bytes:
    """Encode VALUE; a negative one as its 64-bit two's complement."""
    if 0 <= value < 0x80:  # noqa: PLR2004 - seven bits
        return _SMALL[value]
    value &= _MASK
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at AT (unsigned) and where it ends."""
    result = shift = 0
    while True:
        if at >= len(data) or shift >= _MOST_BITS:
            raise WireError("A number does not end.")
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last one has no continuation bit
            return result & _MASK, at
        shift += 7


def field(number: int, kind: Kind, *, repeated: bool = False) -> Any:
    """Declare a field of a `Message`."""
    if repeated:
        default: Any = attrs.Factory(list)
    elif kind in {"map", "bytes-map"}:
        default = attrs.Factory(dict)
    else:
        default = _DEFAULTS.get(kind) if isinstance(kind, str) else None
    return attrs.field(default=default, metadata={_NUMBER: (number, kind, repeated)})


@attrs.define
class Message:
    """Base of all messages; fields that have their default are not sent (proto3)."""

    _plan: ClassVar[dict[type[Message], dict[int, tuple[str, Kind, bool]]]] = {}
    _write_plan: ClassVar[dict[type[Message], tuple[tuple[str, Writer, bytes, bool], ...]]] = {}

    @classmethod
    def _fields(cls) -> dict[int, tuple[str, Kind, bool]]:
        plan = Message._plan.get(cls)
        if plan is None:
            found = ((each.name, each.metadata[_NUMBER]) for each in attrs.fields(cls))
            plan = {number: (name, kind, repeated) for name, (number, kind, repeated) in found}
            Message._plan[cls] = plan
        return plan

    @classmethod
    def _writers(cls) -> tuple[tuple[str, Writer, bytes, bool], ...]:
        writers = Message._write_plan.get(cls)
        if writers is None:
            writers = tuple(
                (name, _writer(kind), varint(number << 3 | (_VARINT if kind in {"int", "bool"} else _BYTES)), repeated)
                for number, (name, kind, repeated) in cls._fields().items()
            )
            Message._write_plan[cls] = writers
        return writers

    def encode(self) -> bytes:
        """Return the message's bytes."""
        out = bytearray()
        for name, write, tag, repeated in self._writers():
            value = getattr(self, name)
            if repeated:
                for each in value:
                    write(out, tag, each)
            elif value or isinstance(value, Message):  # a message that is there is sent, even if it is empty
                write(out, tag, value)
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a message.

        Raises:
            WireError: It is malformed.
        """
        self = cls()
        plan = cls._fields()
        for number, wire, value in _split(data):
            known = plan.get(number)
            if known is None:
                continue
            name, kind, repeated = known
            if repeated:
                if wire == _BYTES and kind in {"int", "bool"}:
                    getattr(self, name).extend(_unpack(_as_bytes(value)))
                else:
                    getattr(self, name).append(_get(kind, wire, value))
            elif kind in {"map", "bytes-map"}:
                key, each = _entry(_as_bytes(value), text=kind == "map")
                getattr(self, name)[key] = each
            else:
                setattr(self, name, _get(kind, wire, value))
        return self


def _write_bytes(out: bytearray, tag: bytes, value: bytes) -> None:
    size = len(value)
    out += tag
    out += _SMALL[size] if size < 0x80 else varint(size)  # noqa: PLR2004 - one byte
    out += value


def _write_text(out: bytearray, tag: bytes, value: str) -> None:
    _write_bytes(out, tag, value.encode("utf-8", "surrogateescape"))


def _write_int(out: bytearray, tag: bytes, value: int) -> None:
    out += tag
    out += varint(value)


def _write_time(out: bytearray, tag: bytes, value: int) -> None:
    seconds, nanos = divmod(value, _NANOS)
    _write_bytes(out, tag, b"\x08" + varint(seconds) + b"\x10" + varint(nanos))


def _write_message(out: bytearray, tag: bytes, value: Message) -> None:
    _write_bytes(out, tag, value.encode())


def _write_map(out: bytearray, tag: bytes, value: Mapping[str, str | bytes]) -> None:
    for key, each in value.items():
        entry = bytearray()
        _write_text(entry, b"\x0a", key)
        _write_bytes(entry, b"\x12", each.encode("utf-8", "surrogateescape") if isinstance(each, str) else each)
        _write_bytes(out, tag, bytes(entry))


def _writer(kind: Kind) -> Writer:
    return _WRITERS[kind] if isinstance(kind, str) else _write_message


Writer = Callable[[bytearray, bytes, Any], None]
_WRITERS: Mapping[str, Writer] = {
    "bytes": _write_bytes,
    "str": _write_text,
    "int": _write_int,
    "bool": _write_int,
    "time": _write_time,
    "map": _write_map,
    "bytes-map": _write_map,
}


def _split(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    at, end = 0, len(data)
    while at < end:
        tag, at = read_varint(data, at)
        wire = tag & 7
        value: int | bytes
        if wire == _VARINT:
            value, at = read_varint(data, at)
        elif wire == _BYTES:
            size, at = read_varint(data, at)
            if size > end - at:
                raise WireError("A field is longer than its message.")
            value = data[at : at + size]
            at += size
        elif wire in _WIDTHS:
            value = data[at : at + _WIDTHS[wire]]
            at += _WIDTHS[wire]
            if at > end:
                raise WireError("A field is longer than its message.")
        else:
            raise WireError(f"There is no wire type {wire}.")
        yield tag >> 3, wire, value


def _get(kind: Kind, wire: int, value: int | bytes) -> Any:
    if not isinstance(kind, str):
        return kind.decode(_as_bytes(value))
    return _READERS[kind](wire, value)


def _as_bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise WireError("A number stands where bytes belong.")
    return value


def _as_int(_wire: int, value: int | bytes) -> int:
    if not isinstance(value, int):
        raise WireError("Bytes stand where a number belongs.")
    return value - (1 << 64) if value & _SIGN else value


def _as_text(_wire: int, value: int | bytes) -> str:
    return _as_bytes(value).decode("utf-8", "surrogateescape")


def _as_time(_wire: int, value: int | bytes) -> int:
    parts = {number: _as_int(wire, each) for number, wire, each in _split(_as_bytes(value)) if number in {1, 2}}
    return parts.get(1, 0) * _NANOS + parts.get(2, 0)


_READERS: Mapping[str, Callable[[int, int | bytes], Any]] = {
    "bytes": lambda _wire, value: _as_bytes(value),
    "str": _as_text,
    "int": _as_int,
    "bool": lambda wire, value: bool(_as_int(wire, value)),
    "time": _as_time,
}


def _entry(data: bytes, *, text: bool) -> tuple[str, str | bytes]:
    key: str = ""
    value: str | bytes = "" if text else b""
    for number, wire, each in _split(data):
        if number == 1:
            key = _as_text(wire, each)
        elif number == 2:  # noqa: PLR2004 - a map's entry has key 1 and value 2
            value = _as_text(wire, each) if text else _as_bytes(each)
    return key, value


def _unpack(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = read_varint(data, at)
        yield value - (1 << 64) if value & _SIGN else value
