"""Protocol buffers on the wire, as much as a filter needs: fields in and out, nothing of their meaning.

Source: https://protobuf.dev/programming-guides/encoding/. Groups, which nobody uses, are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_plugins.docker_host.policy.verdict import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Field", "check_once", "decode", "encode", "read_map", "text_of", "write_entry"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_BITS = 70

Field = tuple[int, int, bytes]
"""Number, wire type, and the value: raw bytes of a varint or a fixed, the content of what has a length."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift >= _MOST_BITS:
            raise Refused("moat: the message is no protocol buffer.", status=400)
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the mark of the last byte
            return value, at
        shift += 7


def _make_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:  # noqa: PLR2004 - more than a byte holds
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(data: bytes) -> list[Field]:
    """Return the fields of a message, in order.

    Raises:
        Refused: It is none.
    """
    fields: list[Field] = []
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            end = _varint(data, at)[1]
        elif kind == _BYTES:
            length, at = _varint(data, at)
            end = at + length
        elif kind in {_FIXED64, _FIXED32}:
            end = at + (8 if kind == _FIXED64 else 4)
        else:
            raise Refused("moat: the message is no protocol buffer.", status=400)
        if end > len(data) or number == 0:
            raise Refused("moat: the message is no protocol buffer.", status=400)
        fields.append((number, kind, data[at:end]))
        at = end
    return fields


def encode(fields: Iterable[Field]) -> bytes:
    """Return the message of FIELDS."""
    out = bytearray()
    for number, kind, value in fields:
        out += _make_varint(number << 3 | kind)
        if kind == _BYTES:
            out += _make_varint(len(value))
        out += value
    return bytes(out)


def check_once(fields: Iterable[Field], texts: Iterable[int], several: Iterable[int] = ()) -> None:
    """See that FIELDS can be read in one way only.

    Of a field that comes twice each reader may take another one, and one of an unexpected wire type is skipped by some.

    Args:
        texts: Those with a length: texts, messages, maps.
        several: Those of them that may come more than once.

    Raises:
        Refused: A field comes twice, or is not of its kind.
    """
    texts, seen = set(texts), set()
    for number, kind, _ in fields:
        if (kind == _BYTES) is not (number in texts):
            raise Refused(f"moat: field {number} of the message is not of its kind.", status=400)
        if number in seen and number not in set(several):
            raise Refused(f"moat: field {number} of the message comes twice.", status=400)
        seen.add(number)


def text_of(value: bytes) -> str:
    """Return a text field's value.

    Raises:
        Refused: It is no UTF-8.
    """
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise Refused("moat: the message has a text that is no UTF-8.", status=400) from error


def read_map(fields: list[Field], number: int) -> dict[str, str]:
    """Return a ``map<string, string>``.

    Raises:
        Refused: A key comes twice, or an entry is more than a key and its value.
    """
    made: dict[str, str] = {}
    for each, kind, value in fields:
        if each == number:
            if kind != _BYTES:
                raise Refused("moat: the message is no protocol buffer.", status=400)
            parts = decode(value)
            check_once(parts, (1, 2))
            entry = {key: item for key, _, item in parts}
            key = text_of(entry.get(1, b""))
            if key in made or not entry.keys() <= {1, 2}:
                raise Refused("moat: a map of the message has a key twice, or more than keys and values.", status=400)
            made[key] = text_of(entry.get(2, b""))
    return made


def write_entry(number: int, key: str, value: str) -> Field:
    """Return an entry of a ``map<string, string>``."""
    return (number, _BYTES, encode([(1, _BYTES, key.encode()), (2, _BYTES, value.encode())]))
