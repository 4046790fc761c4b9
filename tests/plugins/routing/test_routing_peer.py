"""Another user of the machine is told nothing of runs: the attack is made by a process of another user id."""

import asyncio
import os
import subprocess
import sys

import pytest
from routing_world import Backend

OTHER = 65534
ASK = """
import os, socket, sys
os.setgid({uid}); os.setuid({uid})
family = socket.AF_INET6 if ":" in {address!r} else socket.AF_INET
client = socket.socket(family)
client.connect(({address!r}, {port}))
client.sendall(b"GET {path} HTTP/1.1\\r\\nHost: {host}\\r\\nAccept: {accept}\\r\\nConnection: close\\r\\n\\r\\n")
while data := client.recv(65536):
    sys.stdout.buffer.write(data)
"""

pytestmark = pytest.mark.moat(plugins=["routing"])


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user, too")


async def ask_as_other(port, host, path="/", *, address="127.0.0.1", accept="application/json"):
    """What another user of this machine is told."""
    program = ASK.format(uid=OTHER, address=address, port=port, host=host, path=path, accept=accept)
    asking = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=subprocess.PIPE)
    async with asyncio.timeout(20):
        said, _ = await asking.communicate()
    return said.decode("latin-1")


@needs_root
@pytest.mark.parametrize("path", ["/", "/events", "/runs/run-00000001/log", "/style.css"])
@pytest.mark.parametrize("host", ["localhost", "moat.localhost", "127.0.0.1"])
async def test_the_page_and_logs_are_their_users(world, net, host, path):
    """At each name of the page, and each path."""
    world.run("fox", run_id="run-00000001").remember(command=["serve", "--secret"])
    said = await ask_as_other(net.port, f"{host}:{net.port}", path)
    assert said.startswith("HTTP/1.1 403 ")
    assert "other-user" in said
    assert "secret" not in said
    assert "fox" not in said.replace(host, "")


@needs_root
async def test_names_are_not_told_to_others(world, net):
    """Not even the nearest to a mistyped one."""
    world.run("fox").remember()
    assert "fox" not in await ask_as_other(net.port, "fix.localhost")
    assert "fox" in (await net.ask("fix.localhost")).body.decode()


@needs_root
@pytest.mark.parametrize("host", ["fox.localhost", "apl.fox.localhost", "web.owl.localhost"])
async def test_nor_are_endpoints_and_ends(world, net, host):
    """The agent's page; an endpoint that it does not have; a run that is over."""
    world.run("fox", web=3000, api=8000).remember()
    world.run("owl").remember(error="at /home/me").die()
    said = await ask_as_other(net.port, host)
    assert "other-user" in said
    assert not [secret for secret in ("api", "/home/me", "run-") if secret in said.replace(host, "")]


@needs_root
async def test_services_are_everybodys(world, net):
    """As what an engine publishes on 127.0.0.1 is."""
    async with Backend("fox") as fox:
        world.run("fox").route(web=fox.port)
        assert (await ask_as_other(net.port, "web.fox.localhost")).endswith("\r\n\r\nfox")
