"""Routing on a real engine: runs are reached by name, and by nobody else's, however they and the proxy end."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from world import MOAT

from moat_core.api import Moat
from moat_core.errors import MoatError

pytestmark = pytest.mark.slow
SANDBOX = pytest.mark.parametrize("sandbox", [False, True], ids=["runc", "gVisor"])

# Answers with the run that it is, and the endpoint's port; every response ends its connection.
SERVE = (
    "use IO::Socket::INET; my $s = IO::Socket::INET->new(Listen=>50, LocalPort=>$ARGV[0], ReuseAddr=>1) or die;"
    'while (my $c = $s->accept) { my $l; while ($l = <$c>) { last if $l eq "\\r\\n" }'
    ' my $b = "$ENV{MOAT_NAME} $ARGV[0]"; print $c "HTTP/1.1 200 OK\\r\\nContent-Length: ".length($b)."\\r\\n\\r\\n$b";'
    " close $c }"
)
PORTS = {"web": 3000, "api": 8000}
COMMAND = ["sh", "-c", f"perl -e '{SERVE}' 3000 & exec perl -e '{SERVE}' 8000"]


def status(world):
    answer = subprocess.run([*MOAT, "proxy", "status", "--json"], capture_output=True, check=False)
    return json.loads(answer.stdout)


def ask(port, host, path="/", accept="application/json"):
    """Status and body of one request to the proxy."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers={"Host": f"{host}:{port}", "Accept": accept})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def code(answer):
    return json.loads(answer[1])["error"]["code"]


def wait_for(port, host, expected):
    """The answer when it is EXPECTED at last: servers take a moment to listen."""
    deadline = time.monotonic() + 20
    while (answer := ask(port, host)) != expected and time.monotonic() < deadline:
        assert code(answer) in {"not-listening", "starting"}
    return answer


@SANDBOX
async def test_a_run_is_reached_by_name_while_it_lives(world, workspace, sandbox, moat):
    """Each endpoint by its own, the run knows them, and afterwards it is said that it has ended."""
    options = {"name": "fox", "sandbox": sandbox, "ports": PORTS, "command": COMMAND}
    async with Moat() as library, library.run(workspace, **options) as run:
        port = status(world)["port"]
        for endpoint, number in PORTS.items():
            assert run.url(endpoint) == f"http://{endpoint}.fox.localhost:{port}"
            found = await asyncio.to_thread(wait_for, port, f"{endpoint}.fox.localhost", (200, f"fox {number}"))
            assert found == (200, f"fox {number}")
        told = (await run.exec(["env"], check=True)).text.splitlines()
        assert f"MOAT_URL=http://fox.localhost:{port}" in told
        assert f"MOAT_HOST_API=api.fox.localhost:{port}" in told
        assert f"MOAT_URL_WEB=http://web.fox.localhost:{port}" in told
        assert f"AGENTOPS_URL_WEB=http://web.fox.localhost:{port}" in told
        assert code(await asyncio.to_thread(ask, port, "ap.fox.localhost")) == "unknown-endpoint"
        assert "api.fox.localhost" in (await asyncio.to_thread(ask, port, "fox.localhost"))[1]
        index = json.loads((await asyncio.to_thread(ask, port, "localhost"))[1])
        assert [(each["name"], each["isolation"]) for each in index["runs"]] == [
            ("fox", "gvisor" if sandbox else "none")
        ]
        listed = (await asyncio.to_thread(moat, "list")).stdout.decode()
        assert f"web: http://web.fox.localhost:{port}" in listed
        opened = await asyncio.to_thread(moat, "open", "fox", "api", "--print")
        assert opened.stdout.decode() == f"http://api.fox.localhost:{port}\n"
    ended = await asyncio.to_thread(ask, port, "web.fox.localhost")
    assert code(ended) == "run-ended"
    assert code(await asyncio.to_thread(ask, port, "web.owl.localhost")) == "unknown-agent"
    assert [row for row in world.rows() if row[1].startswith("routing.")] == []


async def test_a_name_in_use_is_told_with_the_run_that_has_it(world, workspace):
    """Before anything of the second run is made; another name is fine."""
    options = {"sandbox": False, "ports": {"web": 3000}}
    async with Moat() as moat, moat.run(workspace, name="fox", **options) as run:
        with pytest.raises(MoatError, match=f"in use by the run {run.id}") as caught:
            async with moat.run(workspace, name="fox", **options):
                pytest.fail("it has the name")
        assert "--name" in caught.value.hint
        async with moat.run(workspace, name="owl", **options):
            assert len(world.containers()) == 2
        async with moat.run(workspace, name="fox", sandbox=False):
            assert len(world.containers()) == 2


OWNER = """
import asyncio, sys
from moat_core import Moat

async def main():
    async with Moat() as moat:
        async with moat.run({workspace!r}, name={name!r}, sandbox={sandbox}, ports={ports!r}, command={command!r}) as run:
            print(run.id, flush=True)
            await asyncio.sleep(100)

asyncio.run(main())
"""


@SANDBOX
def test_a_killed_owner_is_followed_by_nobody(world, workspace, sandbox):
    """Its name is never answered by another run, whose container may get its port at once; and is free soon."""
    values = {"workspace": str(workspace), "sandbox": sandbox, "ports": {"web": 3000}, "command": COMMAND}
    program = OWNER.format(name="fox", **values)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout.readline().startswith("run-")
            port = status(world)["port"]
            assert wait_for(port, "web.fox.localhost", (200, "fox 3000"))[0] == 200
        finally:
            owner.send_signal(signal.SIGKILL)
    with subprocess.Popen(
        [sys.executable, "-c", OWNER.format(name="owl", **values)], stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            seen = set()
            deadline = time.monotonic() + 6
            while time.monotonic() < deadline:
                answer = ask(port, "web.fox.localhost")
                seen.add(answer[1] if answer[0] == 200 else code(answer))
            assert seen <= {"fox 3000", "run-ended"}
            assert "run-ended" in seen
            assert wait_for(port, "web.owl.localhost", (200, "owl 3000"))[0] == 200
        finally:
            other.send_signal(signal.SIGTERM)
    assert [row for row in world.rows() if row[1].startswith("routing.") and row[0] in world.rows()] == []


async def test_a_killed_proxy_is_started_again_where_it_was(world, workspace, moat):
    """Routes are the store's: whoever starts it next serves the runs that live."""
    async with Moat() as library, library.run(workspace, name="fox", sandbox=False, ports=PORTS, command=COMMAND):
        before = status(world)
        assert await asyncio.to_thread(wait_for, before["port"], "web.fox.localhost", (200, "fox 3000"))
        os.kill(before["pid"], signal.SIGKILL)
        while status(world)["running"]:
            await asyncio.sleep(0.01)
        done = await asyncio.to_thread(moat, "proxy", "start", "--port", str(before["port"]))
        assert done.returncode == 0, done.stderr
        after = status(world)
        assert after["pid"] != before["pid"]
        assert await asyncio.to_thread(ask, after["port"], "api.fox.localhost") == (200, "fox 8000")


@SANDBOX
async def test_a_container_that_is_started_anew_is_found_where_it_is_now(world, workspace, sandbox):
    """Its engine gives it other ports; nobody has to ask."""
    options = {"name": "fox", "sandbox": sandbox, "ports": PORTS, "command": COMMAND}
    async with Moat() as library, library.run(workspace, **options) as run:
        port = status(world)["port"]
        address = run.address("web")
        assert await asyncio.to_thread(wait_for, port, "web.fox.localhost", (200, "fox 3000"))
        await asyncio.to_thread(
            subprocess.run, ["docker", "restart", "-t", "0", f"moat-{run.id}"], check=True, capture_output=True
        )
        for endpoint, number in PORTS.items():
            found = await asyncio.to_thread(wait_for, port, f"{endpoint}.fox.localhost", (200, f"fox {number}"))
            assert found == (200, f"fox {number}")
        assert run.address("web") != address


async def test_what_another_machines_engine_publishes_is_not_looked_for_here(world, workspace, engine, monkeypatch):
    """Somebody else may be at that port of this machine: nobody is reached, and the user is told why."""
    network = json.loads(subprocess.check_output(["docker", "network", "inspect", "bridge"]))
    gateway = network[0]["IPAM"]["Config"][0]["Gateway"]
    writers = []

    async def carry(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def forward(reader, writer):
        there_reader, there = await asyncio.open_unix_connection(engine.removeprefix("unix://"))
        writers.extend((writer, there))
        await asyncio.gather(carry(reader, there), carry(there_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(forward, gateway, 0)
    monkeypatch.setenv("DOCKER_HOST", f"tcp://{gateway}:{server.sockets[0].getsockname()[1]}")
    warned = []
    options = {"name": "fox", "sandbox": False, "ports": PORTS, "command": COMMAND}
    async with Moat() as library, library.run(workspace, on_event=warned.append, **options) as run:
        assert "on another machine" in "".join(str(event) for event in warned)
        with pytest.raises(MoatError):
            run.address("web")
        assert code(await asyncio.to_thread(ask, status(world)["port"], "web.fox.localhost")) == "starting"
    server.close()
    for writer in writers:
        writer.close()


async def test_a_detached_run_keeps_its_routes(world, workspace, moat):
    """Handed over by the library, or begun by -d: it is reached until it ends."""
    async with (
        Moat() as library,
        library.run(workspace, name="fox", sandbox=False, ports=PORTS, command=COMMAND) as run,
    ):
        await run.detach()
    port = status(world)["port"]
    assert await asyncio.to_thread(wait_for, port, "web.fox.localhost", (200, "fox 3000")) == (200, "fox 3000")
    restart = ["docker", "restart", "-t", "0", f"moat-{run.id}"]
    await asyncio.to_thread(subprocess.run, restart, check=True, capture_output=True)
    for endpoint, number in PORTS.items():  # it is where it was not before, and nobody has the run but its supervisor
        answer = await asyncio.to_thread(wait_for, port, f"{endpoint}.fox.localhost", (200, f"fox {number}"))
        assert answer == (200, f"fox {number}")
    assert (await asyncio.to_thread(moat, "stop", "fox")).returncode == 0
    begun = await asyncio.to_thread(
        moat, "run", "-d", "--no-sandbox", "--name", "owl", "--port", "web=3000", "--", *COMMAND
    )
    assert f"web: http://web.owl.localhost:{port}" in begun.stderr.decode()
    assert await asyncio.to_thread(wait_for, port, "owl.localhost", (200, "owl 3000")) == (200, "owl 3000")
    assert (await asyncio.to_thread(moat, "stop", "owl")).returncode == 0
    assert not world.wait_until_empty(8).get("rows")
