"""The router's own CA, and which hosts it mints certificates for.

The CA is good for names under ``localhost`` and for TLS servers, and says so itself: whoever steals its key can play
this machine to its own user, and nobody else. Browsers, OpenSSL, GnuTLS and Node heed that; Java does not, of a CA that
it trusts. Every host has a certificate of its own: ``*.localhost`` would not cover ``web.agent.localhost`` (RFC 9525,
6.3), and browsers take no wildcard beside a top-level name.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import logging
import os
import shlex
from typing import TYPE_CHECKING

from cryptography import x509

from moat_core.errors import StoreError
from moat_core.tls.authority import ONLY_LEAVES, Authority
from moat_core.tls.kept import KEY, keep
from moat_core.tls.leaves import LEAF_LIFE, Leaves
from moat_core.types import is_name

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["is_constrained", "open_ca", "to_host"]

_MOST_LABELS = 4
"""One more than is ever routed: who mistypes a name shall read our page, not the browser's about certificates."""
_CA_LIFE = dt.timedelta(days=3650)
_CONSTRAINTS = x509.NameConstraints(
    permitted_subtrees=[x509.DNSName("localhost")],
    # A kind of name that is not spoken of is free (RFC 5280, 4.2.1.10): the key could sign for any address.
    excluded_subtrees=[x509.IPAddress(ipaddress.ip_network(each)) for each in ("0.0.0.0/0", "::/0")],
)
_LOG = logging.getLogger("moat.routing")


def open_ca(folder: str, *, clock: Callable[[], dt.datetime] | None = None) -> Leaves:
    """Return the CA that lies in FOLDER, which mints for hosts under localhost; make it if there is none of any use.

    Blocks: for milliseconds, or for as long as another process takes to make it.

    Raises:
        StoreError: The folder or a file in it cannot be used, or is not the user's alone.
    """
    clock = clock or (lambda: dt.datetime.now(dt.UTC))

    def warn() -> None:
        _LOG.warning("The CA in %s was of no use any more: run `moat proxy ca trust` for the new one.", folder)

    def make() -> Authority:
        # Told from others by its key: every service that a browser shows sees the name, and need not learn the user's.
        name, now = "moat local CA {key}", clock()
        return Authority.make(
            name, organization="moat", life=_CA_LIFE, now=now, servers_only=True, constraints=_CONSTRAINTS
        )

    try:
        authority = keep(folder, make=make, accepts=is_constrained, now=clock(), spare=LEAF_LIFE, on_replace=warn)
    except OSError as error:
        raise _unusable(folder, error) from error
    return Leaves(authority, to_host, clock=clock)


def to_host(name: str | None) -> str | None:
    """Return the host whose certificate answers the server name NAME; ``None`` if it is not ours to have one.

    Args:
        name: As the client sent it; ``None`` from those that were given an address (RFC 6066, 3), and some send that.
    """
    if name is None or _is_address(name):
        return "localhost"
    host = name.lower().removesuffix(".") if name.isascii() else ""
    labels = host.split(".")
    if len(labels) > _MOST_LABELS or labels[-1] != "localhost":
        return None
    return host if all(map(is_name, labels)) else None


def is_constrained(certificate: x509.Certificate) -> bool:
    """Tell whether CERTIFICATE is a CA's that can vouch for names under ``localhost`` and for nothing else."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.NameConstraints)
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False
    return names.critical and names.value == _CONSTRAINTS and basic.critical and basic.value == ONLY_LEAVES


def _unusable(folder: str, error: OSError) -> StoreError:
    place = folder if error.filename in {None, ".", folder} else os.path.join(folder, str(error.filename))
    own = f"chmod 700 {shlex.quote(folder)}; chmod 600 {shlex.quote(os.path.join(folder, KEY))}"
    return StoreError(
        f"The router's CA cannot be used: {place}: {error.strerror or error}.",
        hint=f"If nobody else had it, make it yours alone ({own}). Else `moat proxy ca untrust` and remove the folder: "
        "a new one is made.",
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
