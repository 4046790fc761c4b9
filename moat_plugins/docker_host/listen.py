"""How the run reaches the guard: a socket in its private folder, or, in gVisor, mutual TLS on its network's gateway."""

from __future__ import annotations

import errno
import logging
import socket
from typing import TYPE_CHECKING

import anyio
from anyio.abc import SocketListener
from anyio.streams.tls import TLSListener

from moat_core.errors import HostError
from moat_plugins.docker_host.contribute import HOST, PORT
from moat_plugins.docker_host.folder import listen_in, write_private
from moat_plugins.docker_host.local import serve_local

if TYPE_CHECKING:
    import ssl

    from anyio.abc import AnyByteStream, Listener, TaskStatus

    from moat_plugins.docker_host.guard import Guard

__all__ = ["serve_guard"]

_HANDSHAKE_S = 10.0
_BACKLOG = 128
_LOG = logging.getLogger("moat.docker_host")


async def serve_guard(guard: Guard, folder: str, *, task_status: TaskStatus[None]) -> None:
    """Listen, and serve every connection in a task of its own, until cancelled.

    Args:
        guard: What serves them.
        folder: The run's private one.
        task_status: Told when it listens.
    """
    plan = guard.scope.plan
    if plan.sandboxed:
        async with await _listen_tls(guard, folder) as listener:
            task_status.started()
            await listener.serve(guard.serve)  # type: ignore[arg-type]
    with listen_in(folder, "docker.sock", plan.user.uid, plan.user.gid) as local:
        task_status.started()
        await serve_local(local, guard.serve)


async def _listen_tls(guard: Guard, folder: str) -> Listener[AnyByteStream]:
    """Listen on the gateway; only who holds this run's certificate gets any further than the handshake.

    Raises:
        HostError: The address is not this machine's.
    """
    address, user = guard.scope.gateway, guard.scope.plan.user
    context, files = await anyio.to_thread.run_sync(_certify, guard.scope.run_id, address)
    for name, data in files.items():
        write_private(folder, name, data, user.uid, user.gid)
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, PORT))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _explain(error, address) from error
    return _Quiet(await SocketListener.from_socket(listener), context, handshake_timeout=_HANDSHAKE_S)


def _certify(run_id: str, address: str) -> tuple[ssl.SSLContext, dict[str, bytes]]:
    """Return how the guard at ADDRESS speaks TLS, with the run alone, and the files that the run needs for that.

    The CA is the run's own and is forgotten at once: nobody else's certificate is any good, and these two are good for
    nothing else.
    """
    from moat_core.tls import Authority, server_context  # `cryptography` takes a while to import

    authority = Authority.make(f"moat {run_id}", organization="moat")
    server, client = authority.issue_server([HOST], [address]), authority.issue_client(run_id)
    context = server_context(server, clients=authority.pem)
    return context, {"ca.pem": authority.pem, "cert.pem": client.certificate, "key.pem": client.key}


def _explain(error: OSError, address: str) -> HostError:
    if error.errno == errno.EADDRNOTAVAIL:
        return HostError(
            f"The run's gateway {address} is no address of this machine: the engine is somewhere else.",
            hint="Use docker:dind, which needs nothing of the machine, or run moat on the engine's own.",
        )
    return HostError(
        f"The guard cannot listen on {address}, port {PORT}: {error.strerror}.",
        hint=f"See what does: ss -ltn 'sport = :{PORT}'",
    )


class _Quiet(TLSListener):
    """Strangers whose handshake fails are no news: anybody who reaches the address can try."""

    @staticmethod
    async def handle_handshake_error(exc: BaseException, stream: AnyByteStream) -> None:
        """Close the connection; nothing is logged but the kind of error, for debugging."""
        await anyio.aclose_forcefully(stream)
        if not isinstance(exc, Exception):
            raise  # noqa: PLE0704 - anyio calls this from its `except`
        _LOG.debug("A TLS handshake failed: %s", type(exc).__name__)
