"""Certificates as bytes: finding them in PEM text, and telling which belong to a CA. RFC 7468, RFC 5280 §4.2.1.9.

Only certificates are ever looked for, so that a private key in the same file goes nowhere.
"""

from __future__ import annotations

import base64
import binascii

__all__ = ["find_bodies", "is_ca", "to_der", "to_pem"]

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_BASIC_CONSTRAINTS = bytes.fromhex("0603551d13")
"""The object identifier 2.5.29.19, as DER has it."""
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
    certificate, rest = _enter(der, _SEQUENCE)
    if rest:
        raise ValueError("something follows the certificate")
    to_be_signed, _ = _enter(certificate, _SEQUENCE)
    for tag, content in _items(to_be_signed):
        if tag == _EXTENSIONS:
            extensions, _ = _enter(content, _SEQUENCE)
            return any(_says_ca(extension) for _, extension in _items(extensions))
    return False


def _says_ca(extension: bytes) -> bool:
    if not extension.startswith(_BASIC_CONSTRAINTS):
        return False
    for tag, content in _items(extension[len(_BASIC_CONSTRAINTS) :]):
        if tag == _OCTETS:  # before it may be the BOOLEAN "critical"
            constraints, _ = _enter(content, _SEQUENCE)
            return any(kind == _BOOLEAN and value == b"\xff" for kind, value in _items(constraints))
    return False


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
