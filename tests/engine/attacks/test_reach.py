"""The reach matrix of docs/security.md, cell by cell: who reaches what, tried by connecting.

One world is made for each kind of isolation: a run with ``docker:host`` and a guest that publishes a port, another run,
a BuildKit sidecar, a container of somebody else's on the engine's default bridge, the proxy, a service of the host's on
all addresses, and another user of the machine. The table in the docs is what is expected, so that it is what is true.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest
from beside import open_beside
from world import MOAT

from moat_core.api import Moat

pytestmark = pytest.mark.slow
IMAGE = "debian:bookworm-slim"
DOCS = Path(__file__).parents[3] / "docs/security.md"
KINDS = ("runc", "gVisor")
ACTORS = ("the run", "its guests", "its build steps", "another run", "another user")
TARGETS = (
    "guard", "guest ports", "guests' own addresses", "sidecar", "default bridge", "page", "proxy", "host services",
)  # fmt: skip
NOBODY = "65534"

SERVE = (
    "use IO::Socket::INET; my $s = IO::Socket::INET->new(Listen => 20, LocalPort => $ARGV[0], ReuseAddr => 1) or die;"
    # Closed with something unread it would be reset, and its answer lost.
    'while (my $c = $s->accept) { while (<$c>) { last if /^\\r?$/ } print $c "HTTP/1.0 200 OK\\r\\n\\r\\nserved\\n"; close $c }'
)
# Says of each NAME=ADDRESS=HOST whether it is open (something is served), refused (it listens, and serves nothing) or
# has no way. A slow machine makes no cell: whoever is there answers within seconds.
PROBE = r"""
use strict; use Socket; use IO::Socket::INET; use IO::Socket::UNIX;
$SIG{PIPE} = 'IGNORE';
for (@ARGV) {
  my ($name, $address, $host) = split /=/;
  my $to = $address =~ m{^/} ? IO::Socket::UNIX->new(Peer => $address)
    : IO::Socket::INET->new(PeerAddr => $address, Timeout => 4);
  my $found = 'no way';
  if ($to) {
    $found = 'refused';
    syswrite $to, "GET /_ping HTTP/1.1\r\nHost: $host\r\nConnection: close\r\n\r\n";
    my $said = '';
    eval { local $SIG{ALRM} = sub { die }; alarm 20; 1 while sysread $to, $said, 4096, length $said; };
    alarm 0;
    $found = 'open' if $said =~ m{^HTTP/1.. 200};
  }
  print "$name=$found\n";
}
"""


def read_table():
    """The cells of the docs: ``(actor, target) -> {kind: word}``."""
    cells, names = {}, None
    for line in DOCS.read_text().splitlines():
        words = [word.strip() for word in line.strip("|").split("|")]
        if words[0] == "who reaches":
            names = words[1:]
        elif names and words[0] in ACTORS:
            for name, cell in zip(names, words[1:], strict=True):
                both = re.fullmatch(r"runc: (no way|refused|open)\b.*; gVisor: (no way|refused|open)\b.*", cell)
                one = re.match(r"(no way|refused|open)\b", cell)
                assert both or one, cell
                cells[words[0], name] = dict(zip(KINDS, both.groups() if both else [one[1]] * 2, strict=True))
        elif names and words == [""]:
            break
    return cells


def docker(*argv):
    return subprocess.run(["docker", *argv], capture_output=True, text=True, check=True).stdout.strip()


def address_of(container, network=""):
    networks = json.loads(docker("container", "inspect", container))[0]["NetworkSettings"]["Networks"]
    return next(end["IPAddress"] for name, end in networks.items() if not network or name == network)


def serve_host():
    """A service of the host's on all addresses: its port."""
    listener = socket.create_server(("0.0.0.0", 0), backlog=50)

    def serve():
        while True:
            try:
                connected, _ = listener.accept()
            except OSError:
                return
            connected.recv(4096)
            connected.sendall(b"HTTP/1.0 200 OK\r\n\r\nserved\n")
            connected.close()

    threading.Thread(target=serve, daemon=True).start()
    return listener


@asynccontextmanager
async def on_default_bridge():
    container = docker("run", "-d", IMAGE, "perl", "-e", SERVE, "8000")
    try:
        yield address_of(container)
    finally:
        docker("rm", "-f", container)


async def measure(engine, folder, home, kind):
    """Make the world, and let everybody try everything: ``(actor, target) -> word``."""
    spaces = [folder / name for name in ("first", "second")]
    for space in spaces:
        space.mkdir()
        (space / "probe.pl").write_text(PROBE)
    options = {"sandbox": kind == "gVisor"}
    async with AsyncExitStack() as stack:
        host = serve_host()
        stack.callback(host.close)
        bridge = await stack.enter_async_context(on_default_bridge())
        beside = await stack.enter_async_context(open_beside(engine, folder, kind))
        moat = await stack.enter_async_context(Moat())
        other = await stack.enter_async_context(moat.run(spaces[1], name="other", **options))
        run = await stack.enter_async_context(
            moat.run(spaces[0], name="reached", dependencies=["docker:host"], ports={"web": 3000}, **options)
        )
        serving = await stack.enter_async_context(run.start(["perl", "-e", SERVE, "3000"]))
        assert serving
        guest = ["docker", "run", "-d", "--name", "guest", "-p", "18000:8000", IMAGE, "perl", "-e", SERVE, "8000"]
        await run.exec(guest, check=True, timeout_s=60)
        gateway = (await run.exec(["sh", "-c", "grep docker.moat.internal /etc/hosts"], check=True)).text.split()[0]
        proxy = json.loads(subprocess.run([*MOAT, "proxy", "status", "--json"], capture_output=True, check=True).stdout)
        address, port = address_of("guest"), proxy["port"]
        await anyio.to_thread.run_sync(wait_for_web, port)
        inside = "/run/moat/docker/docker.sock" if kind == "runc" else f"{gateway}:2376"
        outside = f"{home}/runs/{run.id}/docker-host/docker.sock" if kind == "runc" else inside
        targets = {
            "guest ports": f"{gateway}:18000=x",
            "guests' own addresses": f"{address}:8000=x",
            "sidecar": f"{beside}:1234=x",
            "default bridge": f"{bridge}:8000=x",
            "host services": f"{gateway}:{host.getsockname()[1]}=x",
        }
        here = [f"page=127.0.0.1:{port}=localhost:{port}", f"proxy=127.0.0.1:{port}=web.reached.localhost:{port}"]
        there = [each.replace("=127.0.0.1", f"={gateway}") for each in here]
        words = [f"{name}={target}" for name, target in targets.items()]
        within = [f"guard={inside}=docker", *words, *here, *there]
        probe = ["perl", "/workspace/probe.pl", *within]
        found = {}
        client = await run.exec(["docker", "version"], timeout_s=60)
        found["the run"] = {**parse((await run.exec(probe, timeout_s=120)).text), "guard": client.exit_code == 0}
        found["its guests"] = parse(
            (
                await run.exec(
                    [
                        "docker",
                        "run",
                        "--rm",
                        "-v",
                        "/workspace/probe.pl:/probe.pl:ro",
                        IMAGE,
                        "perl",
                        "/probe.pl",
                        *within,
                    ],
                    timeout_s=120,
                )
            ).text
        )
        found["its build steps"] = parse(await build(run, within))
        found["another run"] = parse((await other.exec(probe, timeout_s=120)).text)
        user = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "perl", "-e", PROBE]
        user += [f"guard={outside}=docker", *words, *here, *here]
        found["another user"] = parse(await anyio.to_thread.run_sync(subprocess.check_output, user))
    return found


async def build(run, words):
    """What a step of a build finds."""
    arguments = shlex.join(words)
    dockerfile = (
        f"FROM {IMAGE} AS probe\nCOPY probe.pl /\nRUN perl /probe.pl {arguments} >/found\n"
        "FROM scratch\nCOPY --from=probe /found /\n"
    )
    await run.write("Dockerfile", dockerfile.encode())
    await run.exec(
        ["docker", "build", "--no-cache", "-q", "-o", "/workspace/out", "/workspace"], check=True, timeout_s=240
    )
    return await run.read("out/found")


def wait_for_web(port):
    """Until the run's own service is there, so that a cell does not depend on how quick it was."""
    for _ in range(200):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request("GET", "/", headers={"Host": f"web.reached.localhost:{port}"})
            if connection.getresponse().status == 200:
                return
        finally:
            connection.close()
    pytest.fail("the proxy does not lead to the run")


def parse(text):
    """The best of each target: the page and the proxy are tried at two addresses."""
    text = text.decode() if isinstance(text, bytes) else text
    rank, found = ["no way", "refused", "open"], {}
    for line in text.splitlines():
        name, _, word = line.partition("=")
        found[name] = max(found.get(name, "no way"), word, key=rank.index)
    return found


@pytest.fixture(scope="module", params=KINDS)
def reach(request, engine, stand_in, tmp_path_factory):
    """What everybody found, in a world of this kind."""
    folder, home = tmp_path_factory.mktemp("reach"), tmp_path_factory.mktemp("home")
    folder.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOAT_HOME", str(home))
        patch.setenv("MOAT_PROXY_PORT", "0")
        try:
            found = asyncio.run(measure(engine, folder, home, request.param))
        finally:
            subprocess.run([*MOAT, "proxy", "stop"], capture_output=True, check=False)
    return request.param, found


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("actor", ACTORS)
def test_cell(reach, actor, target):
    """It is what the table says."""
    kind, found = reach
    word = found[actor][target]
    assert {True: "open", False: "no way"}.get(word, word) == read_table()[actor, target][kind]


def test_the_table_is_whole():
    """Every cell has a test, and every test a cell."""
    assert set(read_table()) == {(actor, target) for actor in ACTORS for target in TARGETS}
    assert sys.platform == "linux"
    assert os.geteuid() == 0
