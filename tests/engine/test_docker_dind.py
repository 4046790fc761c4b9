"""`docker:dind` on a real engine: what somebody does with an engine of his own, in gVisor and without."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from world import MOAT, REPO, World

IMAGE = "debian:bookworm-slim"
BIG = bytes(range(256)) * 20_000
CHECKS = (Path(__file__).parent / "dind_checks.sh").read_text()
DEADLINE_S = 240


class Inside:
    """What one run had to say: outputs and exit codes of its checks, and what the engine said of its container."""

    def __init__(self, folder, container, answer, sandboxed, stderr):
        self.folder, self.container, self.answer, self.sandboxed = folder, container, answer, sandboxed
        self.stderr = stderr

    def text(self, name, code=0):
        text = (self.folder / "out" / name).read_text(errors="replace")
        assert (self.folder / "out" / f"{name}.code").read_text().strip() == str(code), text
        return text


@pytest.fixture(scope="module")
def host_server():
    """A server of this machine with a large answer; what comes from there is joined into large packets."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(BIG)

        def log_message(self, *_):
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def base_tar(tmp_path_factory, engine):
    """The default base, for inner engines: no registry is needed."""
    path = tmp_path_factory.mktemp("images") / "base.tar"
    subprocess.run(["docker", "save", "-o", path, IMAGE], check=True, env={**os.environ, "DOCKER_HOST": engine})
    path.chmod(0o644)
    return path


def wait_for(condition, what, seconds=DEADLINE_S):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.1)
    return value


def docker(*argv):
    return subprocess.run(["docker", *argv], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module", params=["--sandbox", "--no-sandbox"])
def inside(request, tmp_path_factory, engine, base_tar, host_server):
    """One run of every check; the run's user is not root."""
    folder = tmp_path_factory.mktemp("workspace")
    home = tmp_path_factory.mktemp("home")
    (folder / "agent.yaml").write_text("dependencies: [docker:dind, python]\nbuildkit: {mode: 'off'}\n")
    (folder / "checks.sh").write_text(CHECKS)
    os.link(base_tar, folder / "base.tar")
    os.chown(folder, 1234, 1234)
    site = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    command = [
        *MOAT, "run", request.param, "--port", "web=8080",
        "--mount", f"{REPO}:/moat/source:ro", "--mount", f"{site}:/moat/site:ro",
        "--env", f"IMAGE={IMAGE}", "--env", f"HOST_PORT={host_server}", "--", "bash", "checks.sh",
    ]  # fmt: skip
    log = (home / "stderr").open("w+b")
    environ = {**os.environ, "MOAT_HOME": str(home), "MOAT_PROXY_PORT": "0", "DOCKER_HOST": engine}
    process = subprocess.Popen(command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_for(lambda: (folder / "out/done").exists() or process.poll() is not None, "the checks end")
        said = (home / "stderr").read_text(errors="replace")
        assert process.poll() is None, said
        world = World(home, engine)
        (name,) = world.containers()
        container = json.loads(docker("container", "inspect", name))[0]
        port = container["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostPort"]
        answer = subprocess.run(
            ["bash", "-c", 'exec 3<>/dev/tcp/127.0.0.1/$0; printf "GET / HTTP/1.0\\r\\n\\r\\n" >&3; cat <&3', port],
            capture_output=True, text=True, timeout=20, check=False,
        ).stdout  # fmt: skip
        (folder / "go-on").touch()
        assert process.wait(60) == 0, (home / "stderr").read_text(errors="replace")
        world.stop_proxy()
        left = world.wait_until_empty(10)
        assert not left, left
        yield Inside(folder, container, answer, request.param == "--sandbox", said)
    finally:
        process.kill()
        process.wait()
        log.close()


def test_gvisor_takes_no_privilege_on_the_host(inside):
    """In gVisor the real container is not privileged; without it, it is, and the user was warned."""
    host = inside.container["HostConfig"]
    assert host["Privileged"] is not inside.sandboxed
    assert ("privileged" in inside.stderr) is not inside.sandboxed
    if inside.sandboxed:
        assert host["CapAdd"] == ["ALL"]
        assert host["Runtime"] == "runsc-dind"
        assert host["Binds"] is None
        assert not any("docker.sock" in mount["Source"] for mount in inside.container["Mounts"])
        assert host["Devices"] in (None, [])
        assert host["NetworkMode"].startswith("moat-run-")
        assert host["PidMode"] == host["UTSMode"] == ""


def test_the_engine_is_the_runs_users(inside):
    """Who is not root may use it, by the socket's group; nobody else may."""
    assert inside.text("whoami") == "1234\n"
    assert inside.text("socket") == "1234:660\n"


def test_storage_is_overlay2(inside):
    """The best driver is taken where it works, and no word of vfs is said."""
    assert "Storage Driver: overlay2" in inside.text("info")
    assert "vfs" not in inside.stderr


def test_containers_run(inside):
    """`docker run` works, in the kernel that the run has; with an init, and with privilege inside."""
    inside.text("load")
    assert ("PST 2016" in inside.text("run")) is inside.sandboxed
    assert inside.text("init") == "reaped\n"
    assert inside.text("inner_privileged") == "mounted\n"


def test_volumes_and_binds(inside):
    """A volume keeps what one container wrote for the next, and the workspace can be bound."""
    assert inside.text("volume") == "written\n"
    assert inside.text("bind") == "bound\n"


def test_no_preemption_breaks_what_opens_a_fifo(inside):
    """In gVisor a signal of Go's runtime would now and then make runc fail, so it is swallowed; others are not."""
    seen = 0 if inside.sandboxed else 1
    assert inside.text("signals") == f"by tgkill: {seen}\nby kill: {seen + 1}\n"


def test_containers_need_no_keys(inside):
    """A session keyring for each container would use up all that gVisor has; without any left, they still start."""
    text = inside.text("keys")
    assert text.endswith("runs\nruns too\n")
    assert text.startswith("no more keys\n") or not inside.sandboxed  # the host's kernel takes them back, at leisure


@pytest.mark.parametrize("check", ["names", "port"])
def test_containers_are_reached(inside, check):
    """By name from their network, by a published port from the run."""
    inside.text("serve")
    assert "hello from inside" in inside.text(check)


def test_a_published_port_is_reached_from_the_host(inside):
    """A port that the run publishes leads to an inner container's."""
    inside.text("serve_again")
    assert "hello from inside" in inside.answer


@pytest.mark.parametrize("check", ["outbound", "outbound_private"])
def test_the_world_is_reached(inside, check):
    """From either kind of network inside, with large answers, whose packets are larger than a link's."""
    assert int(inside.text(check)) > len(BIG)


def test_exec(inside):
    """`docker exec` has exit codes and standard input; `docker top` lists."""
    assert inside.text("exec", 7) == "executed\n"
    assert inside.text("exec_stdin") == "through\n"
    assert "perl" in inside.text("top")


def test_compose(inside):
    """Two services, the second of which waits for the first's health check and finds it by name."""
    assert "hello from inside" in inside.text("compose")
    inside.text("compose_down")


def test_build(inside):
    """`docker build` with a cache mount; the image runs."""
    inside.text("build")
    assert inside.text("built") == "built\n"


def test_a_run_inside_a_run(inside):
    """moat works with the inner engine."""
    assert inside.text("nested").endswith("nested\n")


def test_an_engine_that_dies_comes_back(inside):
    """Killed, dockerd is started again, with the images that were there; new networks can be made."""
    assert inside.text("restart").endswith("again\nand again\n")


FIRST = """
set -e
docker load -qi base.tar
docker run -d --restart always --name still $IMAGE sleep 1000
docker volume create gone
[ ! -d /var/lib/moat-docker ] || until [ -e /var/lib/moat-docker/images.tar ]; do sleep 0.1; done
"""
SECOND = """
docker image ls --format '{{.Repository}}:{{.Tag}}'
docker ps -aq
docker volume ls -q
docker run --rm $IMAGE echo it runs
"""


@pytest.mark.parametrize("sandbox", ["--sandbox", "--no-sandbox"])
def test_images_are_kept_if_asked_for(tmp_path, engine, base_tar, sandbox):
    """Between runs of a name: images, but no containers and no volumes."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    os.link(base_tar, folder / "base.tar")
    name = "kept-in-gvisor" if sandbox == "--sandbox" else "kept-without"
    (folder / "agent.yaml").write_text(
        f"name: {name}\ndependencies: [docker:dind]\ndocker_dind: {{cache: true}}\nbuildkit: {{mode: 'off'}}\n"
    )
    environ = {**os.environ, "MOAT_HOME": str(tmp_path / "home"), "DOCKER_HOST": engine}

    def run(script):
        command = [*MOAT, "run", sandbox, "--env", f"IMAGE={IMAGE}", "--", "bash", "-c", script]
        return subprocess.run(
            command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False
        )

    try:
        first = run(FIRST)
        assert first.returncode == 0, first.stderr
        second = run(SECOND)
        assert second.stdout == f"{IMAGE}\nit runs\n", second.stderr
        assert not World(tmp_path / "home", engine).wait_until_empty(10)
    finally:
        for volume in docker("volume", "ls", "-q", "--filter", f"name={name}-[0-9a-f]*-docker").split():
            docker("volume", "rm", volume)
