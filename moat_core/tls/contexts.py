"""How a server and a client of ours speak TLS: 1.2 at least, and with whom."""

from __future__ import annotations

import os
import ssl
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from moat_core.tls.authority import Identity

__all__ = ["client_context", "server_context"]


def server_context(identity: Identity | None, *, clients: bytes = b"", protocols: Sequence[str] = ()) -> ssl.SSLContext:
    """Return how a server speaks TLS.

    Args:
        identity: Its own; ``None`` if it is chosen later, by the name that a client asks for.
        clients: The CA, as PEM, whose clients are let in, and nobody else; without it everybody is.
        protocols: What is spoken inside, for ALPN.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=clients.decode("ascii"))
    return _finish(context, identity, protocols)


def client_context(trust: bytes, identity: Identity | None = None, *, protocols: Sequence[str] = ()) -> ssl.SSLContext:
    """Return how a client speaks TLS: with servers that the CA TRUST (PEM) vouches for, and no others.

    Args:
        trust: The CA.
        identity: The client's own, for servers that ask for one.
        protocols: What is spoken inside, for ALPN.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=trust.decode("ascii"))
    return _finish(context, identity, protocols)


def _finish(context: ssl.SSLContext, identity: Identity | None, protocols: Sequence[str]) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if identity is not None:
        with _lend(identity.certificate + identity.key) as path:
            context.load_cert_chain(path)
    return context


@contextmanager
def _lend(secret: bytes) -> Iterator[str]:
    """Yield a path at which SECRET can be read for now: Python takes keys from files only."""
    if hasattr(os, "memfd_create"):  # it is in no folder
        memory = os.memfd_create("moat")
        try:
            os.write(memory, secret)
            yield f"/proc/self/fd/{memory}"
        finally:
            os.close(memory)
        return
    with tempfile.NamedTemporaryFile() as file:  # mode 0600
        file.write(secret)
        file.flush()
        yield file.name
