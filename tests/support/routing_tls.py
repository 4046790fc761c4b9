"""TLS clients that take, and send, what no browser does."""

from __future__ import annotations

import ssl

import pytest


def blind():
    """A client that takes any certificate, and any name for the SNI."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def hello(name):
    """A ClientHello with NAME, any bytes, as its server name."""
    there, marker = ssl.MemoryBIO(), b"m" * len(name)
    connection = blind().wrap_bio(ssl.MemoryBIO(), there, server_hostname=marker.decode())
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    sent = there.read()
    assert sent.count(marker) == 1
    return sent.replace(marker, name)
