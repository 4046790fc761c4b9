"""testcontainers with the engine of `docker:dind`, in gVisor and without: a service starts, is used and is gone."""

from __future__ import annotations

import json
import os
import secrets
import subprocess

import pytest

from moat_core.api import Moat

pytestmark = pytest.mark.slow
DOCKERFILE = b"""
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends redis-server && rm -rf /var/lib/apt/lists/*
USER redis
EXPOSE 6379
CMD ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""]
"""
PROGRAM = """
import json, socket, subprocess, sys

from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.redis import RedisContainer

image = sys.argv[1]
found = {}


def docker(*argv):
    return subprocess.run(["docker", *argv], check=True, capture_output=True, text=True).stdout


docker("load", "-qi", "redis.tar")
with Network() as network:
    service = RedisContainer(image).with_network(network).with_network_aliases("store")
    with service:  # it is entered when PING is answered
        address = service.get_container_host_ip(), int(service.get_exposed_port(6379))
        found["published"] = docker("port", service.get_wrapped_container().id, "6379/tcp").splitlines()
        client = service.get_client()
        client.set("key", "x" * 1_000_000)
        found["length"] = len(client.get("key"))
        found["counted"] = [client.incr("count") for _ in range(100)][-1]
        found["inside"] = service.exec(["redis-cli", "get", "count"]).output.decode().split()
        found["ready"] = b"Ready to accept connections" in service.get_logs()[0]
        other = DockerContainer(image).with_network(network).with_command("redis-cli -h store incr count")
        with other:
            found["other"] = [other.get_wrapped_container().wait()["StatusCode"], other.get_logs()[0].decode().strip()]
        client.close()
    try:
        socket.create_connection(address, timeout=5).close()
        found["after"] = "it still answers"
    except OSError as error:
        found["after"] = type(error).__name__
found["port"] = address[1]
found["left"] = docker("ps", "-aq"), docker("network", "ls", "-q", "--filter", "type=custom")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def saved(engine, tmp_path_factory):
    """An image with Redis, made by this engine from Debian's packages: its name, and a file to load it from."""
    name = f"moat-test/redis:{secrets.token_hex(4)}"
    path = tmp_path_factory.mktemp("images") / "redis.tar"
    built = subprocess.run(["docker", "build", "-t", name, "-"], input=DOCKERFILE, capture_output=True, check=False)
    try:
        assert built.returncode == 0, f"perhaps Debian's mirror cannot be reached: {built.stderr.decode()[-2000:]}"
        subprocess.run(["docker", "save", "-o", path, name], check=True)
        path.chmod(0o644)
        yield name, path
    finally:
        path.unlink(missing_ok=True)
        subprocess.run(["docker", "image", "rm", "-f", name], capture_output=True, check=False)


@pytest.fixture
def redis(saved, workspace):
    """The name of the image; the workspace has its file for as long as the test takes."""
    name, path = saved
    os.link(path, workspace / "redis.tar")
    yield name
    (workspace / "redis.tar").unlink()


@pytest.mark.parametrize("sandbox", [False, True], ids=["runc", "gVisor"])
async def test_a_service_is_started_used_and_stopped(world, workspace, redis, sandbox):
    """By the run's user: ready when it is said to be, reached by its port and by its name; then nothing is left."""
    (workspace / "it.py").write_text(PROGRAM)
    os.chown(workspace, 1234, 5678)
    dependencies = ["docker:dind", "python", "pip:testcontainers", "pip:redis"]
    options = {"dependencies": dependencies, "options": {"buildkit": {"mode": "off"}}}
    async with Moat() as moat, moat.run(workspace, sandbox=sandbox, **options) as run:
        result = await run.exec(["python", "-W", "ignore", "it.py", redis], timeout_s=120)
        assert result.exit_code == 0, result.stderr.decode()
    found = json.loads(result.text.splitlines()[-1])
    port = found.pop("port")
    assert f"0.0.0.0:{port}" in found.pop("published")
    assert found == {
        "length": 1_000_000,
        "counted": 100,
        "inside": ["100"],
        "ready": True,
        "other": [0, "101"],
        "after": "ConnectionRefusedError",
        "left": ["", ""],
    }
    assert world.left() == {}
