"""Whose a connection is: within one machine the kernel knows which user is at the other end of it.

Ports of ``127.0.0.1`` are every local user's to connect to. What runs do there is not every user's to read.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable

__all__ = ["find_peer", "find_uid", "is_ours"]

_SOCK_DIAG, _BY_FAMILY, _REQUEST = 4, 20, 1  # NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST
_ALL_STATES, _NO_COOKIE = 0xFFFFFFFF, 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_QUESTION = struct.Struct("=BBBxI2s2s16s16sIII")  # inet_diag_req_v2 with inet_diag_sockid
_ANSWER = struct.Struct("=BBBB2s2s16s16sIIIIIIII")  # inet_diag_msg
_PORTS, _UID = slice(4, 6), 14
_WAIT_S = 0.5
_NEVER = {errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}


def find_peer(connected: socket.socket, address: Any) -> Hashable:
    """Return whose the connection is: an IP address; or of a Unix socket user and process (unix(7), SO_PEERCRED).

    Args:
        connected: The socket.
        address: What accept(2) said.
    """
    if connected.family in {socket.AF_INET, socket.AF_INET6}:
        return address[0] if address else None
    if hasattr(socket, "SO_PEERCRED"):
        try:
            pid, uid, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except OSError:
            return None
        return uid, pid
    return None


def is_ours(transport: asyncio.Transport) -> bool:
    """Tell whether the client of TRANSPORT is this process's user, or root; also on a system that never tells."""
    peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    if not peer or not own:
        return False  # it has gone
    try:
        return find_uid(peer, own) in {None, 0, os.geteuid()}
    except OSError:
        return False


def find_uid(peer: tuple[Any, ...], own: tuple[Any, ...]) -> int | None:
    """Return whose the socket at PEER is that is connected to OWN (sock_diag(7)).

    Args:
        peer: Its address and port, on this machine.
        own: The other end's.

    Returns:
        A user id; ``None`` if this kernel does not tell (gVisor, macOS), or the socket is gone.

    Raises:
        OSError: It could not be asked this time.
    """
    if not hasattr(socket, "AF_NETLINK"):
        return None
    family = socket.AF_INET6 if ":" in peer[0] else socket.AF_INET
    places = [
        struct.pack("!H", peer[1]),
        struct.pack("!H", own[1]),
        socket.inet_pton(family, peer[0]).ljust(16, b"\0"),
        socket.inet_pton(family, own[0]).ljust(16, b"\0"),
    ]
    question = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, _ALL_STATES, *places, 0, _NO_COOKIE, _NO_COOKIE)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _SOCK_DIAG) as kernel:
            kernel.settimeout(_WAIT_S)
            kernel.send(_HEADER.pack(_HEADER.size + len(question), _BY_FAMILY, _REQUEST, 0, 0) + question)
            answer = kernel.recv(4096)
    except OSError as error:
        if error.errno in _NEVER:
            return None
        raise
    _, kind, _, _, _ = _HEADER.unpack_from(answer)
    if kind != _BY_FAMILY or len(answer) < _HEADER.size + _ANSWER.size:
        return None
    fields = _ANSWER.unpack_from(answer, _HEADER.size)
    # Where there is no such connection the kernel tells of a socket that listens there, which has no other end.
    return int(fields[_UID]) if list(fields[_PORTS]) == places[:2] else None
