"""docker:host on a real engine: what works inside, what is refused, and that nothing is left."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time

import anyio
import pytest

from moat_core.api import Moat
from moat_core.errors import MoatError

pytestmark = pytest.mark.slow
SANDBOX = pytest.mark.parametrize("sandbox", [False, True], ids=["runc", "gVisor"])
IMAGE = "debian:bookworm-slim"

SERVE = (
    "use IO::Socket::INET; my $s = IO::Socket::INET->new(Listen=>5, LocalPort=>8000, ReuseAddr=>1) or die; "
    'while (my $c = $s->accept) { print $c "served\\n"; close $c }'
)
FETCH = 'use IO::Socket::INET; my $c = IO::Socket::INET->new(PeerAddr=>$ARGV[0]) or die "no: $@"; print <$c>'

WORKS = {
    "run": ("docker run --rm {image} echo out", "out\n"),
    "the exit code": ("docker run --rm {image} sh -c 'exit 37'; echo $?", "37\n"),
    "stdin, and its end": ("printf 'a\\nb\\n' | docker run --rm -i {image} wc -l", "2\n"),
    "a lot, both ways": ("head -c 5000000 /dev/zero | docker run --rm -i {image} cat | wc -c", "5000000\n"),
    "the folder one is in": ('docker run --rm -v "$PWD":/src {image} cat /src/here', "here\n"),
    "a part of it, and writing": (
        "docker run --rm -v /workspace/part/new:/x {image} sh -c 'echo made >/x/f'; cat part/new/f",
        "made\n",
    ),
    "a read-only one": (
        "docker run --rm -v /workspace:/x:ro {image} sh -c 'echo >/x/f' 2>&1 | grep -c Read-only",
        "1\n",
    ),
    "exec": ("docker run -d --name box {image} sleep 300 >/dev/null; docker exec box echo in", "in\n"),
    "exec with stdin": ("echo x | docker exec -i box cat", "x\n"),
    "exec's code": ("docker exec box sh -c 'exit 7'; echo $?", "7\n"),
    "logs that follow": (
        "docker run -d --name log {image} sh -c 'echo 1; sleep 1; echo 2' >/dev/null; docker logs -f log",
        "1\n2\n",
    ),
    "copy in": (
        "docker create --name cc {image} cat /here >/dev/null; docker cp here cc:/here; docker start -a cc",
        "here\n",
    ),
    "copy out": ("docker cp cc:/here - | tar -xO", "here\n"),
    "the list": ("docker ps -a --format '{{{{.Names}}}}' | sort | tr '\\n' ' '", "box cc log "),
    "a volume": (
        "docker run --rm -v data:/d {image} sh -c 'echo kept >/d/f'; docker run --rm -v data:/d {image} cat /d/f",
        "kept\n",
    ),
    "the volumes": ("docker volume ls -q", "data\n"),
    "build": (
        (
            "printf 'FROM {image}\\nCOPY here /b\\nRUN --mount=type=cache,target=/c echo built >>/b\\n' >Dockerfile; "
            "docker build -q -t built:1 . >/dev/null && docker run --rm built:1 cat /b"
        ),
        "here\nbuilt\n",
    ),
    "the classic builder": (
        "DOCKER_BUILDKIT=0 docker build -q -t built:2 -f Classic . 2>/dev/null | cut -c 1-7; docker run --rm built:2 cat /b",
        "sha256:\nclassic\n",
    ),
    "the images": (
        "docker images --format '{{{{.Repository}}}}:{{{{.Tag}}}}' | grep built | sort | tr '\\n' ' '",
        "built:1 built:2 ",
    ),
    "compose": (
        # Followed, compose's own logs may end before the last line when the container does.
        (
            "docker compose up -d 2>&1 | grep -c Started; docker wait $(docker compose ps -aq asks) >/dev/null;"
            " docker compose --ansi never logs --no-log-prefix asks | grep -o served"
        ),
        "2\nserved\n",
    ),
    "a published port": ("perl fetch.pl docker.moat.internal:18000", "served\n"),
    "compose's end": ("docker compose down -v 2>&1 | grep -c Removed", "3\n"),
    "prune": ("docker rm -f box >/dev/null; docker container prune -f | grep -c '^[0-9a-f]\\{{64\\}}$'", "2\n"),
}

COMPOSE = f"""
services:
  serves:
    image: {IMAGE}
    command: ["perl", "/src/serve.pl"]
    stop_grace_period: 0s
    volumes: ["./:/src"]
    ports: ["18000:8000"]
  asks:
    image: {IMAGE}
    command: ["sh", "-c", "until perl /src/fetch.pl serves:8000; do sleep 0.2; done"]
    volumes: ["./:/src:ro"]
    depends_on: [serves]
"""

REFUSED = {
    "privileged": "docker run --privileged {image}",
    "the host's processes": "docker run --pid host {image}",
    "the host's network": "docker run --network host {image}",
    "a device": "docker run --device /dev/null:/dev/x {image}",
    "a capability": "docker run --cap-add SYS_ADMIN {image}",
    "no seccomp": "docker run --security-opt seccomp=unconfined {image}",
    "a bind of root": "docker run -v /:/host {image}",
    "a link that leads out": "ln -sfn / out; docker run -v /workspace/out/etc:/x {image}",
    "the socket": "docker run -v /var/run/docker.sock:/s {image}",
    "a volume that binds": "docker volume create -o type=none -o o=bind -o device=/ vv",
    "another runtime": "docker run --runtime other {image}",
    "a privileged exec": "docker run -d --name pp {image} sleep 60 >/dev/null; docker exec --privileged pp id",
    "a macvlan": "docker network create -d macvlan nn",
    "a swarm": "docker swarm init",
    "a plugin": "docker plugin install x/y",
    "a build on the host's network": "docker build --network host - </dev/null",
    "an insecure build": "printf 'FROM {image}\\nRUN true' >D; docker build --allow security.insecure -f D .",
    "an image's name": "docker build -t {image} -f Classic .",
    "an image's end": "docker rmi {image}",
    "a cache of one's own making": "docker buildx build --cache-from type=registry,ref=localhost/cache -f Classic .",
    "a control group": "docker buildx build --cgroup-parent /x -f Classic .",
    "everybody's old containers": "docker container prune -f --filter until=1h",
    "addresses of the machine": "docker network create --subnet 192.168.7.0/24 nn",
}


def fill(workspace):
    os.chown(workspace, 1234, 5678)
    (workspace / "here").write_text("here\n")
    (workspace / "Classic").write_text(f"FROM {IMAGE}\nRUN echo classic >/b\n")
    (workspace / "part").mkdir()
    os.chown(workspace / "part", 1234, 5678)
    (workspace / "serve.pl").write_text(SERVE)
    (workspace / "fetch.pl").write_text(FETCH)
    (workspace / "compose.yaml").write_text(COMPOSE)


def docker(*argv):
    return subprocess.run(["docker", *argv], capture_output=True, text=True, check=False)


@pytest.fixture
def foreign():
    """A container, a network and a volume that are somebody else's."""
    made = [
        docker("run", "-d", "--name", "foreign-box", IMAGE, "sleep", "300"),
        docker("network", "create", "foreign-net"),
    ]
    made.append(docker("volume", "create", "foreign-data"))
    assert all(each.returncode == 0 for each in made), made
    yield made[0].stdout.strip()
    docker("rm", "-f", "foreign-box")
    docker("network", "rm", "foreign-net")
    docker("volume", "rm", "foreign-data")


def images_of(world):
    """Images that a run of this home has made: by the repository that tells whose they are."""
    listed = docker("images", "--format", "{{.Repository}}", "--filter", "reference=moat/guest-*").stdout.split()
    return [each for each in listed if each[-len("run-12345678") :] in world.run_ids()]


@SANDBOX
async def test_docker_just_works(world, workspace, sandbox):
    """Run, streams, folders, exec, logs, copies, builds, compose, ports: and all of it is gone afterwards."""
    fill(workspace)
    async with Moat() as moat, moat.run(workspace, sandbox=sandbox, dependencies=["docker:host"]) as run:
        for what, (command, expected) in WORKS.items():
            script = command.format(image=IMAGE)
            result = await run.exec(["sh", "-c", script], timeout_s=90)
            assert result.text == expected, (what, result.text, result.stderr)
        runtime = docker("inspect", "-f", "{{.HostConfig.Runtime}}", f"moat-{run.id}").stdout
        await run.exec(["sh", "-c", f"docker run -d --restart always --name last {IMAGE} sleep 300"], check=True)
        guest = docker("inspect", "-f", "{{.HostConfig.Runtime}} {{.HostConfig.RestartPolicy.Name}}", "last").stdout
        assert guest.split()[0] == runtime.strip()
        assert guest.split()[1] == "on-failure"
        assert images_of(world)
    assert world.left() == {}
    assert images_of(world) == []


@SANDBOX
async def test_what_would_break_out_is_refused(world, workspace, foreign, sandbox):
    """With a reason each, and others' things do not exist."""
    fill(workspace)
    events = []
    options = {"sandbox": sandbox, "dependencies": ["docker:host"], "on_event": events.append}
    async with Moat() as moat, moat.run(workspace, **options) as run:
        for what, command in REFUSED.items():
            result = await run.exec(["sh", "-c", command.format(image=IMAGE)], timeout_s=60)
            assert result.exit_code != 0, what
            assert b"moat:" in result.stderr, (what, result.stderr)
        for command, said in (
            ("docker inspect foreign-box", "No such"),
            (f"docker exec {foreign} id", "No such container"),
            (f"docker logs {foreign[:12]}", "No such container"),
            ("docker rm -f foreign-box; docker ps -a", "No such container"),
            (f"docker run --pid container:foreign-box {IMAGE}", "No such container"),
            (f"docker run --network foreign-net {IMAGE}", "not found"),
            ("docker network inspect foreign-net", "not found"),
            (f"docker run -v foreign-data:/d {IMAGE}", "taken"),
            ("docker volume rm foreign-data", "no such volume"),
            ("docker cp foreign-box:/etc/passwd -", "No such container"),
            (f"docker cp here {foreign}:/", "no such directory"),  # as the command says without a guard
        ):
            result = await run.exec(["sh", "-c", command], timeout_s=60)
            assert said in result.stderr.decode(), (command, result.stderr)
            assert "foreign-box" not in result.text
        for listing in ("docker ps -aq --no-trunc", "docker network ls -q", "docker volume ls -q"):
            listed = (await run.exec(["sh", "-c", listing], check=True)).text
            assert "foreign" not in listed
            assert foreign not in listed
    assert docker("inspect", "-f", "{{.State.Running}}", "foreign-box").stdout == "true\n"
    assert [each for each in events if type(each).__name__ == "Refusal" and each.option == "privileged"]
    assert world.left() == {}


@SANDBOX
async def test_nobody_else_builds_with_what_a_run_built(world, workspace, sandbox):
    """What a step may see besides its line (a proxy, a secret) is not in its cache key: the run is."""
    fill(workspace)
    (workspace / "Poison").write_text(f'FROM {IMAGE}\nRUN echo "{secrets.token_hex(8)} $HTTP_PROXY" >/made\n')
    async with Moat() as moat, moat.run(workspace, sandbox=sandbox, dependencies=["docker:host"]) as run:
        build = "docker build -q -f Poison --build-arg HTTP_PROXY=evil"
        inside = f"{build} -t mine:1 . && docker run --rm mine:1 cat /made"
        assert "evil" in (await run.exec(["sh", "-c", inside], check=True, timeout_s=60)).text
        script = ["-f", str(workspace / "Poison"), "-o", f"type=local,dest={workspace / 'theirs'}", str(workspace)]
        outside = await anyio.to_thread.run_sync(docker, "buildx", "build", *script)
        assert outside.returncode == 0, outside.stderr
        assert "evil" not in (workspace / "theirs" / "made").read_text()
    assert world.left() == {}


@SANDBOX
async def test_processes_of_a_container_are_listed_where_that_is_safe(world, workspace, sandbox):
    """The engine runs the machine's own ps on what gVisor names, which are other processes' numbers."""
    fill(workspace)
    async with Moat() as moat, moat.run(workspace, sandbox=sandbox, dependencies=["docker:host"]) as run:
        await run.exec(["docker", "run", "-d", "--name", "box", IMAGE, "sleep", "300"], check=True)
        result = await run.exec(["docker", "top", "box"])
        if sandbox:
            assert b"moat:" in result.stderr
        else:
            assert "sleep 300" in result.text
    assert world.left() == {}


@SANDBOX
async def test_a_folder_that_becomes_a_link_leads_nowhere(world, workspace, sandbox):
    """What is swapped after the guard has looked is seen by the engine, which starts nothing."""
    fill(workspace)
    script = (
        f"mkdir swap; docker create --name swapped -v /workspace/swap:/x {IMAGE} cat /x/passwd >/dev/null;"
        " rmdir swap; ln -s /etc swap; docker start -a swapped"
    )
    async with Moat() as moat, moat.run(workspace, sandbox=sandbox, dependencies=["docker:host"]) as run:
        result = await run.exec(["sh", "-c", script], timeout_s=60)
        assert result.text == ""
        assert b"escapes" in result.stderr
        assert result.exit_code != 0
    assert world.left() == {}


TESTCONTAINERS = f"""
import socket, time
from testcontainers.core.container import DockerContainer

with DockerContainer("{IMAGE}").with_command(["perl", "/src/serve.pl"]).with_exposed_ports(8000).with_volume_mapping(
    "/workspace", "/src", "ro"
) as container:
    address = (container.get_container_host_ip(), int(container.get_exposed_port(8000)))
    data = b""
    while not data:
        try:
            with socket.create_connection(address) as connection:
                data = connection.recv(100)
        except OSError:
            time.sleep(0.05)
    print(data.decode(), container.exec(["echo", "x"]).output.decode(), end="")
"""


@SANDBOX
async def test_testcontainers_just_work(world, workspace, sandbox):
    """Ports are found where they are, commands run, nothing has to clean up."""
    fill(workspace)
    (workspace / "it.py").write_text(TESTCONTAINERS)
    options = {"sandbox": sandbox, "dependencies": ["docker:host", "python", "pip:testcontainers"]}
    async with Moat() as moat, moat.run(workspace, **options) as run:
        result = await run.exec(["python", "-W", "ignore", "it.py"], timeout_s=60)
        assert result.text.split() == ["served", "x"], result.stderr
    assert world.left() == {}


@SANDBOX
async def test_only_the_run_may_use_the_guard(world, workspace, sandbox):
    """The socket and the key are in a private folder; without a certificate there is no answer."""
    fill(workspace)
    async with Moat() as moat, moat.run(workspace, sandbox=sandbox, dependencies=["docker:host"]) as run:
        folder = world.home / "runs" / run.id / "docker-host"
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.stat().st_uid == 1234
        assert all(each.stat().st_mode & 0o077 == 0 and each.stat().st_uid == 1234 for each in folder.iterdir())
        if sandbox:
            gateway = docker(
                "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", f"moat-{run.id}"
            ).stdout.strip()
            for options in (["--tls"], ["--tlsverify=false", "--tls=false"]):
                refused = docker("-H", f"tcp://{gateway}:2376", *options, "version", "--format", "{{.Server.Version}}")
                assert refused.returncode != 0
        inspected = docker("inspect", f"moat-{run.id}").stdout
        assert "PRIVATE KEY" not in inspected
    assert not folder.exists()


@SANDBOX
def test_nothing_is_left_when_the_owner_is_killed(world, workspace, sandbox):
    """Containers that restart, networks, volumes and images go with the run, by the reaper."""
    fill(workspace)
    program = f"""
import asyncio
from moat_core import Moat

async def main():
    async with Moat() as moat, moat.run({str(workspace)!r}, sandbox={sandbox}, dependencies=["docker:host"]) as run:
        script = (
            "docker run -d --restart always -v kept:/d {IMAGE} sleep 1000 && docker network create inner"
            " && docker build -q -t mine:1 -f Classic ."
        )
        await run.exec(["sh", "-c", script], check=True)
        print("ready", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout.readline() == "ready\n"
            assert len(world.containers()) == 2
            assert len(world.networks()) == 2
            assert world.volumes()
            assert images_of(world)
        finally:
            owner.send_signal(signal.SIGKILL)
    assert world.wait_until_empty(15) == {}
    deadline = time.monotonic() + 5
    while images_of(world) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert images_of(world) == []


async def test_raw_is_the_engines_own_socket(world, workspace):
    """With a warning; the run's user is in its group."""
    fill(workspace)
    events = []
    options = {"sandbox": False, "dependencies": ["docker:host"], "options": {"docker_host": {"access": "raw"}}}
    async with Moat() as moat, moat.run(workspace, on_event=events.append, **options) as run:
        assert "26." in (await run.exec(["docker", "version", "--format", "{{.Server.Version}}"], check=True)).text
        assert f"moat-{run.id}" in (await run.exec(["docker", "ps", "--format", "{{.Names}}"], check=True)).text
    assert [each for each in events if "as good as root" in str(each)]
    assert world.left() == {}


async def test_raw_is_refused_in_gvisor(world, workspace):
    """Before anything is made."""
    options = {"sandbox": True, "dependencies": ["docker:host"], "options": {"docker_host": {"access": "raw"}}}
    with pytest.raises(MoatError, match="gVisor"):
        async with Moat() as moat, moat.run(workspace, **options):
            pass
    assert world.left() == {}
