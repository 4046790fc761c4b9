"""Who may speak to the sidecar: the run's user and moat itself, by certificates that are made for the run.

The container's address is on a bridge of the engine's machine, and every local user and program reaches it there. So
both sides show a certificate of the run's own authority, whose key is forgotten as soon as it has signed the three.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from moat_core.runtime.facets import PrivateFile

if TYPE_CHECKING:
    import ssl

    from moat_core.tls import Identity
    from moat_core.types import User

__all__ = ["SERVER_FOLDER", "Certificates", "make_certificates"]

SERVER_FOLDER = "/run/moat-tls"
"""In the sidecar."""


@attrs.frozen
class Certificates:
    """What each side is given.

    Args:
        server: The sidecar's files, root's.
        client: The run's files, its user's.
        ours: How moat itself speaks to it; in memory only.
    """

    server: tuple[PrivateFile, ...] = attrs.field(repr=False)
    client: tuple[PrivateFile, ...] = attrs.field(repr=False)
    ours: ssl.SSLContext


def make_certificates(run_id: str, host: str, folder: str, user: User) -> Certificates:
    """Make them. It takes some milliseconds, and 40 more the first time, so it is to be called in a thread.

    Args:
        run_id: Whose they are.
        host: The sidecar's name.
        folder: Where the run has its own.
        user: Who builds in it.
    """
    from moat_core.tls import Authority, client_context

    authority = Authority.make(f"moat {run_id} {host}")

    def pack(where: str, identity: Identity, uid: int = 0, gid: int = 0) -> tuple[PrivateFile, ...]:
        parts = {"ca.pem": authority.pem, "cert.pem": identity.certificate, "key.pem": identity.key}
        return tuple(PrivateFile(path=f"{where}/{name}", data=data, uid=uid, gid=gid) for name, data in parts.items())

    return Certificates(
        pack(SERVER_FOLDER, authority.issue_server([host])),
        pack(folder, authority.issue_client(run_id), user.uid, user.gid),
        client_context(authority.pem, authority.issue_client("moat"), protocols=("h2",)),
    )
