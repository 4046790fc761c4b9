"""A server of many names: each has a certificate of its own, minted in the handshake that asks for it first."""

from __future__ import annotations

import datetime as dt
import logging
import ssl
from collections import OrderedDict
from typing import TYPE_CHECKING

import attrs

from moat_core.tls.authority import BEFORE
from moat_core.tls.contexts import server_context

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography import x509

    from moat_core.tls.authority import Authority

__all__ = ["MOST_LEAVES", "Leaves"]

MOST_LEAVES = 256
"""Each takes some 20 KB; minting one again costs a millisecond."""
LEAF_LIFE = dt.timedelta(days=30)
_RENEW = dt.timedelta(days=10)
"""A leaf with less than this left is given to nobody any more: connections last."""
_LOG = logging.getLogger("moat.tls")


@attrs.frozen
class _Leaf:
    """What connections for one host are given, and between when."""

    context: ssl.SSLContext
    since: dt.datetime
    until: dt.datetime


class Leaves:
    """The certificates that an authority has minted: they are in memory only.

    Args:
        authority: Signs them.
        to_host: Returns the host whose certificate answers the server name that a client sent (``None``: it sent
            none), and ``None`` where there shall be none.
        protocols: What is spoken inside, for ALPN.
        clock: Tells the time, in UTC.
    """

    def __init__(
        self,
        authority: Authority,
        to_host: Callable[[str | None], str | None],
        *,
        protocols: Sequence[str] = ("http/1.1",),
        clock: Callable[[], dt.datetime] | None = None,
    ) -> None:
        self._authority, self._to_host, self._protocols = authority, to_host, protocols
        self._clock = clock or (lambda: dt.datetime.now(dt.UTC))
        self._leaves: OrderedDict[str, _Leaf] = OrderedDict()

    @property
    def certificate(self) -> x509.Certificate:
        """The authority's own."""
        return self._authority.certificate

    def context(self) -> ssl.SSLContext:
        """Return how a server speaks TLS, with a certificate for the host that is asked for.

        Minting one blocks for about a millisecond. To be used in one thread.
        """
        context = server_context(None, protocols=self._protocols)
        context.sni_callback = self._choose
        return context

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext
    ) -> int | None:
        """Give CONNECTION the certificate for NAME; nobody could catch what is raised here."""
        host = self._to_host(name)
        if host is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        try:
            connection.context = self._find(host).context
        except (OSError, ValueError) as error:  # no descriptor is left; the CA has expired in the meantime
            _LOG.warning("No certificate can be made for %s: %s", host, error)
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        return None

    def _find(self, host: str) -> _Leaf:
        now = self._clock()
        leaf = self._leaves.get(host)
        if leaf is None or not leaf.since <= now <= leaf.until - _RENEW:
            leaf = self._leaves[host] = self._mint(host, now)
        self._leaves.move_to_end(host)
        if len(self._leaves) > MOST_LEAVES:
            self._leaves.popitem(last=False)
        return leaf

    def _mint(self, host: str, now: dt.datetime) -> _Leaf:
        identity = self._authority.issue_server([host], now=now, life=LEAF_LIFE)
        until = min(now + LEAF_LIFE, self.certificate.not_valid_after_utc)
        return _Leaf(server_context(identity, protocols=self._protocols), now - BEFORE, until)
