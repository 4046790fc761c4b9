"""Certificates as bytes: finding them in PEM text, and telling which belong to a CA. RFC 7468, RFC 5280 §4.2.1.9.

Only certificates are ever looked for, so that a private key in the same file goes nowhere.
"""

from __future__ import annotations

import base64
import binascii

__all__ = ["find_bodies", "is_ca", "is_for_localhost", "to_der", "to_pem"]

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_BASIC_CONSTRAINTS = bytes.fromhex("0603551d13")
"""The object identifier 2.5.29.19, as DER has it."""
_NAME_CONSTRAINTS = bytes.fromhex("0603551d1e")
"""2.5.29.30."""
_PERMITTED, _DNS_NAME = 0xA0, 0x82
_SEQUENCE, _OCTETS, _BOOLEAN, _EXTENSIONS = 0x30, 0x04, 0x01, 0xA3
_HEADER, _INDEFINITE = 2, 0x80


def find_bodies(data: bytes) -> list[bytes]:
    """Return the base64 of every certificate in the PEM text DATA, without white space: equal if the same."""
    pieces = data.split(_BEGIN)[1:]
    return [b"".join(piece.partition(_END)[0].split()) for piece in pieces if _END in piece]


def to_pem(body: bytes) -> bytes:
    """Return BODY as a PEM block that ends in a newline."""
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    return b"\n".join([_BEGIN, *lines, _END, b""])


def to_der(body: bytes) -> bytes:
    """Return what BODY encodes.

    Raises:
        ValueError: It is no base64.
    """
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ValueError("it is no base64") from error


def is_ca(der: bytes) -> bool:
    """Whether a certificate may sign others: its basicConstraints say CA.

    Raises:
        ValueError: DER is no X.509 certificate.
    """
    constraints = _extension(der, _BASIC_CONSTRAINTS)
    return any(kind == _BOOLEAN and value == b"\xff" for kind, value in constraints)


def is_for_localhost(der: bytes) -> bool:
    """Whether a CA may sign for names of this machine alone, which mean another one inside (RFC 5280, 4.2.1.10).

    Raises:
        ValueError: DER is no X.509 certificate.
    """
    for kind, subtrees in _extension(der, _NAME_CONSTRAINTS):
        if kind == _PERMITTED:
            bases = [_items(subtree)[0] for _, subtree in _items(subtrees)]
            return bool(bases) and all(base == (_DNS_NAME, b"localhost") for base in bases)
    return False


def _extension(der: bytes, identifier: bytes) -> list[tuple[int, bytes]]:
    """Return the items of the extension IDENTIFIER, which is a sequence; none if it is not there."""
    certificate, rest = _enter(der, _SEQUENCE)
    if rest:
        raise ValueError("something follows the certificate")
    to_be_signed, _ = _enter(certificate, _SEQUENCE)
    for tag, content in _items(to_be_signed):
        if tag != _EXTENSIONS:
            continue
        extensions, _ = _enter(content, _SEQUENCE)
        for _, extension in _items(extensions):
            if extension.startswith(identifier):
                # Before it may be the BOOLEAN "critical".
                values = [value for kind, value in _items(extension[len(identifier) :]) if kind == _OCTETS]
                return _items(_enter(values[0], _SEQUENCE)[0]) if values else []
    return []


def _enter(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """Return the content of the item of kind TAG that DATA begins with, and what follows it."""
    found, content, rest = _next(data)
    if found != tag:
        raise ValueError(f"tag {found:#x} where {tag:#x} should be")
    return content, rest


def _items(data: bytes) -> list[tuple[int, bytes]]:
    items: list[tuple[int, bytes]] = []
    while data:
        tag, content, data = _next(data)
        items.append((tag, content))
    return items


def _next(data: bytes) -> tuple[int, bytes, bytes]:
    """Split off the first item: its tag, its content, the rest. X.690 §8.1, with definite lengths only, as DER."""
    if len(data) < _HEADER or data[1] == _INDEFINITE:
        raise ValueError("it is no DER")
    length, start = data[1], _HEADER
    if length > _INDEFINITE:
        start += length - _INDEFINITE
        length = int.from_bytes(data[_HEADER:start], "big")
    if len(data) < start + length:
        raise ValueError("it ends too early")
    return data[0], data[start : start + length], data[start + length :]
