"""Whose a connection is: the kernel knows, of TCP within one machine and of Unix sockets."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys

import pytest

from moat_core.listen import peers
from moat_core.listen.peers import find_peer, find_uid

OTHER = 65534
CONNECT = """
import os, socket
os.setgid({uid}); os.setuid({uid})
client = socket.socket(socket.AF_INET6 if ":" in {address!r} else socket.AF_INET)
client.connect(({address!r}, {port}))
client.recv(1)
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user, too")


@needs_root
@pytest.mark.parametrize(("family", "listen", "connect"), [
    (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
    (socket.AF_INET6, "::1", "::1"),
    (socket.AF_INET, "127.0.0.1", "::ffff:127.0.0.1"),
])  # fmt: skip
def test_the_kernel_knows_the_other_end(family, listen, connect):
    """Over IPv4, IPv6, and IPv4 as an IPv6 socket has it."""
    with socket.socket(family) as listener:
        listener.bind((listen, 0))
        listener.listen()
        port = listener.getsockname()[1]
        program = CONNECT.format(uid=OTHER, address=connect, port=port)
        asking = subprocess.Popen([sys.executable, "-c", program])
        accepted, peer = listener.accept()
        with accepted:
            assert find_uid(peer, accepted.getsockname()) == OTHER
        asking.wait(20)


def test_who_listens_there_is_not_the_other_end():
    """The kernel would tell of a listening socket, where there is no connection."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        assert find_uid(one.getsockname(), other.getsockname()) is None


def test_who_cannot_be_looked_up_is_a_stranger(monkeypatch):
    """No descriptor is left, say: whoever has used them up would be told everything."""

    class Transport:
        def get_extra_info(self, name):
            return ("127.0.0.1", {"peername": 1, "sockname": 2}[name])

    def fail(error):
        def open_socket(*_):
            raise OSError(error, os.strerror(error))

        monkeypatch.setattr(peers.socket, "socket", open_socket)

    fail(errno.EMFILE)
    assert not peers.is_ours(Transport())
    fail(errno.EPROTONOSUPPORT)  # gVisor: it never tells, and there is one user
    assert peers.is_ours(Transport())


def test_ones_own_connection_is_ones_own():
    """Else nobody would see their page."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()):
            accepted, peer = listener.accept()
            with accepted:
                assert find_uid(peer, accepted.getsockname()) == os.geteuid()


def test_a_peer_is_an_address_or_a_process(tmp_path):
    """What connections are counted by."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        accepted, address = listener.accept()
        with accepted:
            assert find_peer(accepted, address) == "127.0.0.1"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        client.connect(str(tmp_path / "s"))
        accepted, address = listener.accept()
        with accepted:
            assert find_peer(accepted, address) == (os.geteuid(), os.getpid())
