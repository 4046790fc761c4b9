"""The BuildKit beside a run with an engine of its own, on a real engine, in gVisor and without.

Its image is the stand-in that ``scripts/engine buildkit-image`` makes: Moby's BuildKit on BuildKit's port.
"""

from __future__ import annotations

import json
import os
import subprocess
import time

import anyio
import pytest
from docker_support import open_run
from world import BUILDKIT_IMAGE, MOAT, World, remove_volumes

from moat_core.types import ImageSpec
from moat_plugins.buildkit.cache import FOLDER
from moat_plugins.buildkit.client import BuildKit
from moat_plugins.buildkit.images import build_image

BUILD = r"""
cd /workspace
mkdir -p out context
check() { name=$1; shift; timeout 60 bash -c "$*" >"out/$name" 2>&1; echo $? >"out/$name.code"; }
tar -chf context/rootfs.tar /bin/sh /bin/cat /bin/mkdir \
  $(ldd /bin/sh /bin/cat /bin/mkdir | grep -o '/lib[^ ]*' | sort -u) 2>/dev/null
printf 'FROM scratch\nADD rootfs.tar /\nRUN ["/bin/sh", "-c", "echo built; cat /proc/version /etc/resolv.conf"]\n' >context/Dockerfile
check name 'while read -r address names; do case $names in buildkit) echo $address ;; esac; done </etc/hosts'
check host 'echo $BUILDKIT_HOST'
check build docker build -t made context
check image docker image inspect made
check again docker build -t made context
check inner docker run --rm made /bin/sh -c "'echo runs'"
check default docker buildx build --builder default -t other context
touch out/done
limit=$((SECONDS + 60))
until [ -e go-on ] || [ $SECONDS -ge $limit ]; do sleep 0.1; done
"""


class Run:
    """A run of `BUILD`, and what the engine said of its sidecar meanwhile."""

    def __init__(self, folder, home, engine, sandbox, *, image=BUILDKIT_IMAGE, mode="on"):
        self.folder, self.said = folder, ""
        folder.mkdir(exist_ok=True)
        (folder / "agent.yaml").write_text(
            f"name: built-{sandbox.strip('-')}\ndependencies: [docker:dind]\n"
            f"buildkit: {{image: {image}, mode: '{mode}', cache_limit: 1g}}\ndocker: {{pull: never}}\n"
        )
        (folder / "build.sh").write_text(BUILD)
        environ = {**os.environ, "MOAT_HOME": str(home), "DOCKER_HOST": engine}
        with (folder / "stderr").open("wb") as log:
            process = subprocess.Popen(
                [*MOAT, "run", "--trust", sandbox, "--", "bash", "build.sh"],
                cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
            try:
                deadline = time.monotonic() + 180
                while not (folder / "out/done").exists():
                    assert process.poll() is None, self.stderr
                    assert time.monotonic() < deadline, self.stderr
                    time.sleep(0.1)
                world = World(home, engine)
                self.containers = {
                    data["Config"]["Labels"]["moat.role"]: data
                    for data in (inspect(name) for name in world.containers())
                }
                (folder / "go-on").touch()
                assert process.wait(60) == 0, self.stderr
                self.left = world.wait_until_empty(10)
            finally:
                process.kill()
                process.wait()

    @property
    def stderr(self):
        return (self.folder / "stderr").read_text(errors="replace")

    def text(self, name):
        text = (self.folder / "out" / name).read_text(errors="replace")
        assert (self.folder / "out" / f"{name}.code").read_text() == "0\n", text
        return text


def inspect(name):
    answer = subprocess.run(["docker", "container", "inspect", name], capture_output=True, check=True)
    return json.loads(answer.stdout)[0]


@pytest.fixture(scope="module", params=["--sandbox", "--no-sandbox"])
def built(request, tmp_path_factory, engine, stand_in):
    """A run with the sidecar."""
    folder, home = tmp_path_factory.mktemp("workspace"), tmp_path_factory.mktemp("home")
    run = Run(folder / "first", home, engine, request.param, image=stand_in)
    run.sandboxed, run.home = request.param == "--sandbox", home
    return run


@pytest.fixture(scope="module", autouse=True)
def no_caches(engine):
    """What is kept for the agents of these tests goes with them."""
    yield
    for name in ("built-sandbox", "built-no-sandbox", "without-sidecar"):
        remove_volumes(f"{name}-[0-9a-f]*-buildkit")


def test_it_has_nothing_of_the_hosts(built):
    """No socket, no folder; in gVisor in the run's gVisor and without privilege; on the run's network alone."""
    host = built.containers["buildkit"]["HostConfig"]
    assert host["Privileged"] is not built.sandboxed
    assert host["Runtime"] == ("runsc-dind" if built.sandboxed else "runc")
    assert [mount for mount in built.containers["buildkit"]["Mounts"] if mount["Type"] == "bind"] == []
    assert host["PortBindings"] in (None, {})
    networks = [set(data["NetworkSettings"]["Networks"]) for data in built.containers.values()]
    assert networks[0] == networks[1]
    assert len(networks[0]) == 1


def test_its_name_resolves(built):
    """Where gVisor has no resolver of the engine's, too."""
    (address,) = built.text("name").split()
    (network,) = built.containers["buildkit"]["NetworkSettings"]["Networks"].values()
    assert address == network["IPAddress"]
    assert built.text("host") == "tcp://buildkit:1234\n"


def test_a_plain_build_uses_it_and_the_image_is_in_the_engine(built):
    """`docker build` without a word about builders; its steps run in the sidecar, with names that resolve."""
    text = built.text("build")
    assert 'with "moat" instance using remote driver' in text
    assert ("PST 2016" in text) is built.sandboxed
    assert json.loads(built.text("image"))[0]["RepoTags"] == ["made:latest"]
    assert built.text("inner") == "runs\n"
    if built.sandboxed:
        assert "nameserver 127.0.0.11" not in text


def test_a_build_again_is_cached(built):
    """Within a run, nothing is built twice."""
    assert built.text("again").count("CACHED") == 2


def test_the_inner_engines_own_builder_is_there_too(built):
    """Asked for by name."""
    assert "using docker driver" in built.text("default")


def test_nothing_is_left_but_the_cache(built, engine):
    """The sidecar, its volume or scratch space and the network go with the run."""
    assert not built.left


def test_the_cache_outlives_the_run(built, engine):
    """The next run of name and folder finds what the first one built; in gVisor the sidecar itself has no volume."""
    if built.sandboxed:
        mounts = {role: data["Mounts"] for role, data in built.containers.items()}
        assert [mount for mount in mounts["buildkit"] if mount["Type"] == "volume"] == []
        assert [mount["Destination"] for mount in mounts["main"] if mount["Type"] == "volume"] == [FOLDER]
    for path in ("out/done", "go-on"):
        (built.folder / path).unlink(missing_ok=True)
    again = Run(built.folder, built.home, engine, "--sandbox" if built.sandboxed else "--no-sandbox")
    assert again.text("build").count("CACHED") == 2
    assert again.text("inner") == "runs\n"


def test_without_its_image_auto_goes_on(tmp_path, engine):
    """The user is told, and the inner engine builds by itself."""
    run = Run(tmp_path / "auto", tmp_path / "home", engine, "--sandbox", image="moat-test/there-is-none", mode="auto")
    assert "the inner engine builds by itself" in run.stderr
    assert "using docker driver" in run.text("build")
    assert json.loads(run.text("image"))[0]["RepoTags"] == ["made:latest"]


def test_without_its_image_on_fails(tmp_path, engine):
    """Else the run fails, and says how to go without."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    (folder / "agent.yaml").write_text(
        "name: without-sidecar\ndependencies: [docker:dind]\nbuildkit: {image: moat-test/there-is-none}\ndocker: {pull: never}\n"
    )
    environ = {**os.environ, "MOAT_HOME": str(tmp_path / "home"), "DOCKER_HOST": engine}
    done = subprocess.run(
        [*MOAT, "run", "--trust", "--", "true"],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 125
    assert "moat-test/there-is-none" in done.stderr
    assert "`buildkit: off`" in done.stderr
    assert not World(tmp_path / "home", engine).wait_until_empty(10)


async def test_moats_images_are_built_where_buildkit_host_says(engine, stand_in, tmp_path, monkeypatch):
    """By a daemon that the engine knows nothing of; the image is loaded into the engine, and no file of it stays."""
    command = ["--addr", "tcp://0.0.0.0:1234"]
    started = subprocess.run(
        ["docker", "run", "-d", "--privileged", "-v", "/var/lib/buildkit", stand_in, *command],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    container, tag = started.stdout.strip(), f"moat-test/elsewhere:{tmp_path.name.replace('_', '-')}"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    try:
        address = f"tcp://{inspect(container)['NetworkSettings']['IPAddress']}:1234"
        monkeypatch.setenv("BUILDKIT_HOST", address)
        await BuildKit.wait_until_ready(address)
        spec = ImageSpec("scratch", dockerfile="FROM scratch\nCOPY a /a\n", files={"a": b"content"}, tag=tag)
        with anyio.fail_after(60):
            async with open_run(engine, tmp_path) as run:
                assert await build_image(run, spec, {"moat.test": "true"}) == tag
        found = json.loads(subprocess.check_output(["docker", "image", "inspect", tag]))[0]
        assert found["Config"]["Labels"] == {"moat.test": "true"}
        assert [path.name for path in tmp_path.iterdir() if path.name != "locks"] == []
        monkeypatch.setenv("BUILDKIT_HOST", "tcp://127.0.0.1:1")
        async with open_run(engine, tmp_path) as run:
            assert await build_image(run, spec, {}) is None
    finally:
        subprocess.run(["docker", "rm", "-f", "-v", container], check=False, capture_output=True)
        subprocess.run(["docker", "image", "rm", "-f", tag], check=False, capture_output=True)
