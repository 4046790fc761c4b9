"""The client's libraries come without the machine's CAs, and have them when they are needed."""

from __future__ import annotations

import ssl
import subprocess
import sys

import pytest

_SEE = """
import asyncio, ssl
from moat_plugins.docker import client
from aiohttp import connector

context = connector._SSL_CONTEXT_VERIFIED
assert context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname
print(context.cert_store_stats()["x509"], ssl.create_default_context().cert_store_stats()["x509"])
{use}
print(context.cert_store_stats()["x509"])
unverified = connector._SSL_CONTEXT_UNVERIFIED
assert unverified.verify_mode == ssl.CERT_NONE and not unverified.cert_store_stats()["x509"]
unverified.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="b")
print(unverified.cert_store_stats()["x509"])
context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="b")
"""
USES = {
    "by a loop": 'context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="a")',
    "by a socket": 'context.wrap_socket(__import__("socket").socket(), server_hostname="a", do_handshake_on_connect=False)',
}


@pytest.mark.parametrize("use", USES)
def test_aiohttps_context_reads_the_cas_when_it_is_used(use):
    """And no sooner; everybody else's contexts are as ever."""
    machine = ssl.create_default_context().cert_store_stats()["x509"]
    assert machine > 0, "without any CA this proves nothing"
    program = _SEE.replace("{use}", USES[use])
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["0", *[str(machine)] * 3], done.stderr
