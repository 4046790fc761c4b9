"""How the run reaches the guard: a socket in its private folder, or, in gVisor, mutual TLS on its network's gateway."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import anyio

from moat_core.errors import HostError
from moat_core.listen import BACKLOG, serve
from moat_plugins.docker_host.contribute import HOST, PORT
from moat_plugins.docker_host.folder import listen_in, write_private

if TYPE_CHECKING:
    import ssl

    from anyio.abc import TaskStatus

    from moat_plugins.docker_host.guard import Guard

__all__ = ["serve_guard"]

"""Who connects in a crowd waits in the kernel's queue, and does not have to try again a second later."""


async def serve_guard(guard: Guard, folder: str, *, task_status: TaskStatus[None]) -> None:
    """Listen, and serve every connection in a task of its own, until cancelled.

    Args:
        guard: What serves them.
        folder: The run's private one.
        task_status: Told when it listens.
    """
    plan = guard.scope.plan
    context = None
    if plan.sandboxed:
        listener, context = await _listen_tls(guard, folder)
    else:
        listener = listen_in(folder, "docker.sock", plan.user.uid, plan.user.gid)
    with listener:
        task_status.started()
        await serve(listener, guard.serve, tls=context)


async def _listen_tls(guard: Guard, folder: str) -> tuple[socket.socket, ssl.SSLContext]:
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
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _explain(error, address) from error
    return listener, context


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
