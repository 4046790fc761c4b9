"""What a real daemon sends us as a result, and what it takes from us when that is much: of all exporters and caches.

The daemon is the stand-in that ``scripts/engine buildkit-image`` makes, with the containerd store: it has them all.
"""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import os
import secrets
import shutil
import subprocess
import tarfile
import threading
from typing import ClassVar

import anyio
import pytest

from moat_plugins.buildkit.api import BuildError, BuildKit, Cache, DiskSource, ExportError, Output, StepChanged

IMAGE = "debian:bookworm-slim"
PROGRAMS = "sh cat dd find sha256sum stat xargs"
# No registry is there for FROM: a few programs and their libraries are what steps run with.
COLLECT = f'PATH=/bin; tar -ch $(type -p {PROGRAMS}) $(ldd $(type -p {PROGRAMS}) | grep -o "/lib[^ ]*" | sort -u)'
DOCKERFILE = """
FROM scratch
ADD rootfs.tar /
COPY --chown=12:34 --chmod=750 src /src
RUN cat /src/a >/b && echo of the step >>/b
LABEL in.file=yes
ENV WORD=given
WORKDIR /src
USER 12:34
EXPOSE 80
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["cat a; echo $WORD $PWD; cat /b"]
"""
SAID = "content\ngiven /src\ncontent\nof the step\n"
CONFIG = {
    "User": "12:34",
    "WorkingDir": "/src",
    "Entrypoint": ["/bin/sh", "-c"],
    "Cmd": ["cat a; echo $WORD $PWD; cat /b"],
    "ExposedPorts": {"80/tcp": {}},
    "Labels": {"in.file": "yes", "of.build": "too"},
}
MADE = "FROM scratch AS made\nADD rootfs.tar /\nRUN {}\nFROM scratch\nCOPY --from=made /out /\n"


def docker(*argv):
    return subprocess.run(["docker", *argv], capture_output=True, text=True, timeout=120, check=True).stdout


def digest_of(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture(scope="module")
def rootfs(engine):
    """An archive of the programs that steps need."""
    made = subprocess.run(["docker", "run", "--rm", IMAGE, "bash", "-c", COLLECT], capture_output=True, check=True)
    return made.stdout


@pytest.fixture(scope="module")
def daemon(stand_in):
    """The network settings of a daemon of this module's own, which begins with nothing."""
    options = ["-d", "--privileged", "-v", "/var/lib/buildkit"]
    container = docker("run", *options, stand_in, "--addr", "tcp://0.0.0.0:1234").strip()
    try:
        (data,) = json.loads(docker("container", "inspect", container))
        yield data["NetworkSettings"]
    finally:
        docker("rm", "-f", "-v", container)


@pytest.fixture
async def buildkit(daemon):
    """A connection to it."""
    address = f"tcp://{daemon['IPAddress']}:1234"
    await BuildKit.wait_until_ready(address)
    async with BuildKit.connect(address) as connected:
        yield connected


@pytest.fixture
def tag(engine):
    """A name for an image, which is removed."""
    name = f"moat-test/exported:{secrets.token_hex(4)}"
    yield name
    subprocess.run(["docker", "image", "rm", "-f", name], capture_output=True, check=False)


@pytest.fixture
def build_image(buildkit, rootfs, tag):
    """Build the image with OUTPUTS."""

    async def build(*outputs):
        files, labels = {"rootfs.tar": rootfs, "src/a": b"content\n"}, {"of.build": "too"}
        with anyio.fail_after(60):
            return await buildkit.build(files, dockerfile_text=DOCKERFILE, tags=[tag], labels=labels, outputs=outputs)

    return build


def check_config(config):
    """Is CONFIG what the Dockerfile and the build said?"""
    assert {key: config.get(key) for key in CONFIG} == CONFIG
    assert "WORD=given" in config["Env"]


def check_in_engine(archive, tag, image_id):
    """Does the engine take ARCHIVE for the image that was built, and run it?"""
    assert docker("load", "-i", archive) == f"Loaded image: {tag}\n"
    (found,) = json.loads(docker("image", "inspect", tag))
    assert found["Id"] == image_id
    check_config(found["Config"])
    assert docker("run", "--rm", tag) == SAID


def check_layout(archive, tag, response):
    """Is ARCHIVE an OCI layout with the image that was built, all of it and nothing else?"""
    with tarfile.open(archive) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
    blobs = {digest_of(data): data for name, data in files.items() if name.startswith("blobs/")}
    assert {f"blobs/{digest.replace(':', '/')}" for digest in blobs} | {"index.json", "oci-layout"} <= set(files)
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}

    def blob(descriptor):
        data = blobs[descriptor["digest"]]
        assert len(data) == descriptor["size"]
        return data

    (listed,) = json.loads(files["index.json"])["manifests"]
    assert listed["digest"] == response["containerimage.digest"]
    assert listed["annotations"]["io.containerd.image.name"] == f"docker.io/{tag}"
    assert listed["annotations"]["org.opencontainers.image.ref.name"] == tag.rpartition(":")[2]
    manifest = json.loads(blob(listed))
    assert manifest["config"]["digest"] == response["containerimage.config.digest"]
    config = json.loads(blob(manifest["config"]))
    check_config(config["config"])
    layers = [gzip.decompress(blob(layer)) for layer in manifest["layers"]]
    assert [digest_of(layer) for layer in layers] == config["rootfs"]["diff_ids"]
    assert len(blobs) == len(layers) + 2
    with tarfile.open(fileobj=io.BytesIO(layers[2])) as last:
        assert last.extractfile("b").read() == b"content\nof the step\n"


def check_files(root, tar):
    """Are the folder ROOT and the open archive TAR the file system that was built?"""
    member = tar.getmember("src/a")
    assert (member.uid, member.gid, member.mode, tar.extractfile("src/a").read()) == (12, 34, 0o750, b"content\n")
    assert (root / "src/a").stat().st_mode & 0o7777 == 0o750
    assert (root / "b").read_text() == tar.extractfile("b").read().decode() == "content\nof the step\n"
    in_tar = {each.name.removeprefix("./").rstrip("/") for each in tar} - {"", "."}
    assert {str(path.relative_to(root)) for path in root.rglob("*")} == in_tar


async def test_docker_is_loaded_and_runs(build_image, tmp_path, tag):
    """The archive is an image of the engine's: tag, labels, config, ID, files."""
    result = await build_image(Output("docker", tmp_path / "image.tar"))
    await anyio.to_thread.run_sync(check_in_engine, tmp_path / "image.tar", tag, result.image_id)
    assert [path.name for path in tmp_path.iterdir()] == ["image.tar"]


async def test_oci_is_a_layout(build_image, tmp_path, tag):
    """Every blob is named by its hash and is needed; manifest, config and layers belong together."""
    result = await build_image(Output("oci", tmp_path / "layout.tar"))
    check_layout(tmp_path / "layout.tar", tag, result.response)
    assert result.image_id == result.response["containerimage.config.digest"]


async def test_tar_and_local_hold_the_same(build_image, tmp_path):
    """The files with modes; the archive has owners, too. A function gets the pieces of the very same archive."""
    pieces = []

    async def take(data):
        pieces.append(data)

    await build_image(Output("tar", tmp_path / "files.tar"))
    await build_image(Output("local", tmp_path / "files"))
    await build_image(Output("tar", take))
    assert b"".join(pieces) == (tmp_path / "files.tar").read_bytes()
    with tarfile.open(tmp_path / "files.tar") as tar:
        check_files(tmp_path / "files", tar)


async def test_one_build_has_several_results(build_image, tmp_path, tag):
    """Each goes where it belongs, two of one type too, and is the same image."""
    again = []

    async def take(data):
        again.append(data)

    result = await build_image(
        Output("docker", tmp_path / "image.tar"),
        Output("local", tmp_path / "files"),
        Output("oci", tmp_path / "layout.tar"),
        Output("tar", tmp_path / "files.tar"),
        Output("local", tmp_path / "files-again"),
        Output("tar", take),
    )
    await anyio.to_thread.run_sync(check_in_engine, tmp_path / "image.tar", tag, result.image_id)
    check_layout(tmp_path / "layout.tar", tag, result.response)
    for root in ("files", "files-again"):
        with tarfile.open(tmp_path / "files.tar") as tar:
            check_files(tmp_path / root, tar)
    assert b"".join(again) == (tmp_path / "files.tar").read_bytes()


async def test_a_result_that_cannot_be_written_ends_the_build(build_image, tmp_path):
    """With the reason; of the other results nothing looks complete."""
    (tmp_path / "in-the-way").touch()
    with pytest.raises(ExportError, match="in-the-way"):
        await build_image(Output("local", tmp_path / "in-the-way"), Output("tar", tmp_path / "files.tar"))
    assert [path.name for path in tmp_path.iterdir()] == ["in-the-way"]


@pytest.fixture
def context(tmp_path, rootfs):
    """A folder to build from, which does not outlive the test: it becomes large."""
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "rootfs.tar").write_bytes(rootfs)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
async def test_a_file_of_more_than_4_gib_arrives(buildkit, context, tmp_path):
    """Its size, and what is where a number of 31 or of 32 bits would end. On our side it is a hole."""
    size = 2**32 + 4096 + 3
    marks = {offset: secrets.token_hex(4) for offset in (0, 2**31 - 4, 2**32 - 4, 2**32 + 100, size - 8)}
    with (context / "large").open("wb") as file:
        file.truncate(size)
        for offset, mark in marks.items():
            file.seek(offset)
            file.write(mark.encode())
    marks[3 * 2**30] = "\0" * 8
    # Mounted and not copied, so that the daemon has it once.
    step = (
        "--mount=type=bind,source=large,target=/large stat -c %s /large >/out;"
        f" for at in {' '.join(map(str, marks))}; do"
        " dd if=/large bs=8 count=1 skip=$at iflag=skip_bytes status=none >>/out; echo >>/out; done"
    )
    try:
        with anyio.fail_after(400):
            await buildkit.build(context, dockerfile_text=MADE.format(step), outputs=[Output("local", tmp_path)])
        assert (tmp_path / "out").read_text().split() == [str(size), *marks.values()]
    finally:
        removed = await buildkit.prune(everything=True)
    assert sum(record.size for record in removed) > size


def tell_states_of_run(states):
    """Return a listener that adds those of the one RUN to STATES."""

    def listen(event):
        if isinstance(event, StepChanged) and " RUN " in event.name:
            states.append(event.state)

    return listen


@pytest.mark.slow
async def test_100_000_files_arrive_and_are_not_sent_twice(buildkit, context, tmp_path):
    """Once all of them, with their contents; then none; then the one that changed."""
    sums = {}
    for number in range(100_000):
        path = context / f"tree/{number % 10}/{number % 50}/{number % 1000}/{number}"
        if number < 1000:
            path.parent.mkdir(parents=True)
        data = b"%d\n" % number
        path.write_bytes(data)
        sums[os.fspath(path.relative_to(context / "tree"))] = hashlib.sha256(data).hexdigest()
    step = "--mount=type=bind,source=tree,target=/tree cd /tree && find * -type f -print0 | xargs -0 sha256sum >/out"

    async def build():
        opened, states = [], []

        class Watched(DiskSource):
            def open(self, path):
                opened.append(os.fsdecode(path))
                return super().open(path)

        with anyio.fail_after(400):
            await buildkit.build(
                Watched(context), dockerfile_text=MADE.format(step), outputs=[Output("local", tmp_path)],
                on_event=tell_states_of_run(states),
            )  # fmt: skip
        lines = (line.split() for line in (tmp_path / "out").read_text().splitlines())
        return {name: digest for digest, name in lines}, sorted(opened), states[-1]

    every = sorted(["rootfs.tar", *(f"tree/{name}" for name in sums)])
    assert await build() == (sums, every, "done")
    assert await build() == (sums, [], "cached")
    changed = next(reversed(sums))
    (context / "tree" / changed).write_bytes(b"changed")
    sums[changed] = hashlib.sha256(b"changed").hexdigest()
    assert await build() == (sums, [f"tree/{changed}"], "done")


class Registry(http.server.BaseHTTPRequestHandler):
    """As much of a registry as a cache or one image needs, in memory. Source: OCI's distribution specification."""

    # Spoken to who tries TLS, too: by that the daemon sees that there is none.
    protocol_version = default_request_version = "HTTP/1.1"
    stored: ClassVar[dict[str, tuple[str, bytes]]] = {}

    def do_GET(self):
        kind, data = self.stored.get(self.path, ("", b""))
        self.answer(200 if kind else 404, data, {"Content-Type": kind, "Docker-Content-Digest": digest_of(data)})

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        self.answer(202, headers={"Location": f"{self.path}one"})

    def do_PUT(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        path, _, query = self.path.partition("?")
        folder = path.removesuffix("/uploads/one") if query else path.rpartition("/")[0]
        for name in (path, f"{folder}/{digest_of(data)}"):
            self.stored[name] = self.headers["Content-Type"] or "application/octet-stream", data
        self.answer(201, headers={"Docker-Content-Digest": digest_of(data)})

    def answer(self, status, data=b"", headers=None):
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": len(data)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def registry(daemon):
    """A registry of this machine, as the daemon reaches it."""
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Registry)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"{daemon['Gateway']}:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()
    Registry.stored.clear()


@pytest.mark.parametrize("kind", ["registry", "inline"])
async def test_a_cache_is_imported(buildkit, registry, rootfs, tmp_path, kind):
    """A daemon that has forgotten everything does no step again, whose result would be another."""
    place = {"registry.insecure": "true"}
    cache = Cache("registry", {**place, "ref": f"{registry}/cache:one"})
    image = Output("image", attrs={**place, "name": f"{registry}/cache:one", "push": "true"})
    exported, outputs = (cache, []) if kind == "registry" else (Cache("inline"), [image])
    text = MADE.format("cat /proc/sys/kernel/random/uuid >/out")
    states = []

    async def build(name, *outputs, **caches):
        await buildkit.prune(everything=True)
        await buildkit.build(
            {"rootfs.tar": rootfs}, dockerfile_text=text, outputs=[Output("local", tmp_path / name), *outputs],
            on_event=tell_states_of_run(states), **caches,
        )  # fmt: skip
        return (tmp_path / name / "out").read_text()

    first = await build("first", *outputs, cache_to=[exported])
    assert await build("without") != first
    states.clear()
    assert await build("with", cache_from=[cache]) == first
    assert states == ["known", "cached"]


async def test_a_local_cache_is_refused(buildkit, tmp_path):
    """We serve neither its writing, without which the build fails, nor its reading, without which it goes on."""
    files, text = {"a": secrets.token_bytes(8)}, "FROM scratch\nCOPY a /\n"
    written = Cache("local", {"dest": str(tmp_path / "cache")})
    read = Cache("local", {"src": str(tmp_path / "cache"), "digest": digest_of(b"")})
    out = [Output("local", tmp_path / "made")]
    with anyio.fail_after(20), pytest.raises(BuildError, match="not served"):
        await buildkit.build(files, dockerfile_text=text, cache_to=[written])
    with anyio.fail_after(20):
        await buildkit.build(files, dockerfile_text=text, cache_from=[read], outputs=out)
    assert (tmp_path / "made/a").read_bytes() == files["a"]
