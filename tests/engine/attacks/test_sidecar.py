"""Attacks on the BuildKit beside a run, by another program of the machine: its address is within everybody's reach.

As a control the same BuildKit without certificates, which is what stood there before.
"""

from __future__ import annotations

import json
import subprocess

import pytest
from anyio.from_thread import start_blocking_portal
from attack import attack
from beside import open_beside
from world import BUILDKIT_IMAGE

from moat_core.tls import Authority, client_context
from moat_core.types import User
from moat_plugins.buildkit.certificates import make_certificates
from moat_plugins.buildkit.client import BuildKit
from moat_plugins.buildkit.errors import BuildKitUnavailable

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bare(stand_in):
    """Address of one that lets everybody in."""
    command = ["docker", "run", "-d", "--privileged", BUILDKIT_IMAGE]
    container = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    found = subprocess.run(["docker", "inspect", container], capture_output=True, check=True).stdout
    yield json.loads(found)[0]["NetworkSettings"]["IPAddress"]
    subprocess.run(["docker", "rm", "-f", "-v", container], capture_output=True, check=True)


@pytest.fixture(scope="module", params=["runc", "gVisor"])
def beside(request, engine, stand_in, tmp_path_factory):
    """Address of a run's."""
    folder = tmp_path_factory.mktemp("beside")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_beside(engine, folder, request.param)) as address,
    ):
        yield address


def strangers(_address):
    """A certificate of the same names, by an authority of one's own."""
    authority = Authority.make("moat run-0000abcd buildkit")
    return client_context(authority.pem, authority.issue_client("moat"))


def any_server(context):
    context.check_hostname = False
    context.verify_mode = 0
    return context


def another_runs(_address):
    """What another run was given."""
    return make_certificates("run-0000abcd", "buildkit", "/x", User()).ours


def pinned(address):
    """Whatever certificate the server shows, taken for an authority that one trusts: as a client without any."""
    import ssl

    return client_context(ssl.get_server_certificate((address, 1234), timeout=20).encode())


ROWS = {
    "without TLS": None,
    "with TLS and no certificate": lambda _: client_context(Authority.make("x").pem),
    "with a certificate of one's own": strangers,
    "with another run's certificate": another_runs,
    "with the server's own for an authority": pinned,
}


@attack("the sidecar", ROWS)
async def test_the_sidecar(row, defended, beside, bare):
    """Whoever is told of its workers can build there; in the plain way, too, whatever else is tried."""
    address = beside if defended else bare
    tries = [None]
    if row is not None:
        try:
            tries.append(any_server(row(address)))
        except OSError:
            pass  # a server that shows none
    for tls in tries:
        try:
            wait = 30 if not defended and tls is None else 1.5
            await BuildKit.wait_until_ready(f"tcp://{address}:1234", timeout_s=wait, tls=tls, server_name="buildkit")
        except BuildKitUnavailable:
            continue
        return "it tells of its workers"
    return ""
