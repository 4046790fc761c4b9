"""The proxy's listening sockets: this machine's own addresses, and nothing else ever."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack

from moat_core.errors import HostError
from moat_core.listen import BACKLOG

__all__ = ["PortTaken", "bind", "find_holder"]

_TRIES = 16
_LISTEN = "0A"  # TCP_LISTEN, as /proc/net/tcp has it


class PortTaken(HostError):
    """Another program listens on the port that was asked for."""

    code = "port-taken"


def bind(port: int) -> list[socket.socket]:
    """Return sockets that listen on PORT of 127.0.0.1 and, where there is IPv6, of ``::1``.

    Args:
        port: 0 picks one that is free on both.

    Raises:
        PortTaken: Somebody listens there.
        HostError: It may not be listened on.
    """
    for attempt in range(_TRIES):
        try:
            return _bind(port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and port == 0 and attempt < _TRIES - 1:
                continue
            raise _explain(port, error) from error
    raise AssertionError


def _bind(port: int) -> list[socket.socket]:
    with ExitStack() as stack:
        first = stack.enter_context(_listen(socket.AF_INET, "127.0.0.1", port))
        found = [first]
        try:
            found.append(stack.enter_context(_listen(socket.AF_INET6, "::1", first.getsockname()[1])))
        except OSError as error:
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                raise
        stack.pop_all()
        return found


def _listen(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _explain(port: int, error: OSError) -> HostError:
    if error.errno == errno.EADDRINUSE:
        holder = find_holder(port)
        by = f" by {holder}" if holder else ""
        return PortTaken(
            f"Port {port} of this machine is taken{by}.",
            hint="End that program, or choose another port: `moat proxy start --port N`, MOAT_PROXY_PORT=N, or "
            "`proxy: {port: N}` in agent.yaml.",
        )
    if error.errno == errno.EACCES:
        return HostError(
            f"Port {port} may only be listened on by root.",
            hint=f"sudo moat proxy start --port {port} binds it and goes on as you; or choose a port above 1023.",
        )
    return HostError(f"Port {port} of this machine cannot be listened on: {error.strerror}.", hint="Choose another.")


def find_holder(port: int) -> str:
    """Return who listens on PORT of this machine, ``python3 (pid 123)``, if we may know (proc(5), net/tcp)."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                lines = [line.split() for line in file][1:]
        except OSError:
            continue
        inodes |= {line[9] for line in lines if line[3] == _LISTEN and line[1].endswith(f":{port:04X}")}
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for pid in filter(str.isdecimal, os.listdir("/proc") if wanted and os.path.isdir("/proc") else ()):
        try:
            if any(os.readlink(f"/proc/{pid}/fd/{fd}") in wanted for fd in os.listdir(f"/proc/{pid}/fd")):
                with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                    return f"{file.read().strip()} (pid {pid})"
        except OSError:
            continue  # another user's, or gone
    return ""
