"""Names of images: none of moat's own is taken, and none that became somebody's while an image was made."""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import tarfile
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import anyio
import pytest
from attack import attack
from docker_support import FakeUpkeep, get_engine, open_run
from guard_scene import IMAGE, open_scene
from guarded import ask, make_scope, open_guard
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded, StreamReset

from moat_core.errors import HostError
from moat_core.ledger import Connections
from moat_core.runtime.proof import Proof
from moat_core.types import ImageSpec
from moat_plugins.buildkit.client import BuildKit
from moat_plugins.buildkit.fs.source import MemorySource
from moat_plugins.buildkit.outputs import Output
from moat_plugins.docker import built
from moat_plugins.docker.guests import make_marks, remove_guests
from moat_plugins.docker.images import resolve_image
from moat_plugins.docker.leftovers import find_leftovers
from moat_plugins.docker.runtime import DockerRuntime
from moat_plugins.docker_host import images as naming
from moat_plugins.docker_host.policy import fields, images, making, on_images
from moat_plugins.docker_host.policy.builds import check_message
from moat_plugins.docker_host.policy.verdict import Refused
from moat_plugins.docker_host.wire import encode, write_entry

# -- names that moat keeps, however they are written; the engine here only answers ------------------------------------

SPELLINGS = [
    "moat/run:1",
    "moat/guest-0123456789abcdef-run-0000abcd:own-0",
    "docker.io/moat/run:1",
    "index.docker.io/moat/run:1",
    "docker.io/moat/deeper/run:1",
    "MOAT/run:1",
    "Docker.IO/Moat/Run:1",
    "registry.example:5000/moat/run:1",
]
ENDPOINTS = {
    "pull": lambda name: ("/images/create", {"fromImage": name}),
    "pull with a tag beside": lambda name: (
        "/images/create", {"fromImage": name.rpartition(":")[0], "tag": name.rpartition(":")[2]}
    ),
    "pull by digest": lambda name: (
        "/images/create", {"fromImage": f"{name.rpartition(':')[0]}@sha256:{'0' * 64}"}
    ),
    "pull by a digest beside": lambda name: (
        "/images/create", {"fromImage": name.rpartition(":")[0], "tag": f"sha256:{'0' * 64}"}
    ),
    "import": lambda name: ("/images/create", {"fromSrc": "-", "repo": name}),
    "commit": lambda name: ("/commit", {"container": "mine", "repo": name}),
    "classic build": lambda name: ("/build", {"t": name}),
    "tag": lambda name: ("/images/own:1/tag", {"repo": name}),
}  # fmt: skip
NAMES = [(endpoint, SPELLINGS[number % len(SPELLINGS)]) for number, endpoint in enumerate(ENDPOINTS)]
NAMES += [("pull", name) for name in SPELLINGS[1:]] + [("classic build", name) for name in SPELLINGS[1:4]]


@pytest.fixture
def unreserved(monkeypatch, defended):
    """As a control, no name is moat's own."""
    if not defended:
        for module in (fields, images, making):
            monkeypatch.setattr(module, "is_reserved_name", lambda _name: False)


@attack("reserved names", {f"{endpoint}: {name}": (endpoint, name) for endpoint, name in NAMES})
async def test_no_name_of_moats_is_taken(tmp_path, unreserved, defended, row):
    """Worked: the engine was asked for it, or asked what the name means to a registry."""
    endpoint, name = row
    path, query = ENDPOINTS[endpoint](name)
    target = f"/v1.45{path}?" + "&".join(f"{key}={quote(item, safe='')}" for key, item in query.items())
    async with open_guard(make_scope(tmp_path)) as (connect, engine, _):
        engine.answers["GET", "/networks/none"] = (404, {})
        status, _ = await ask(connect(), "POST", target, b"")
        return status != 403 and any(method == "POST" or "/distribution/" in path for method, path, *_ in engine.asked)


@attack(
    "reserved names", {name: name for name in ("moat/run:1", "mine:1,docker.io/moat/run:1", "index.docker.io/moat/x")}
)
async def test_no_exporter_of_buildkit_gives_one(tmp_path, unreserved, defended, row):
    """Names in a list, and of each of several exporters."""
    exporter = encode([(1, 2, b"moby"), write_entry(2, "name", row)])
    async with open_guard(make_scope(tmp_path)) as (_, api, _refusals):
        from moat_plugins.docker_host.engine import Engine

        try:
            _, makings = await check_message(
                "/moby.buildkit.v1.Control/Solve", encode([(13, 2, exporter)]), Engine(api, make_scope())
            )
        except Refused:
            return False
        return "moat/" in str(makings[0].names) or "moat" in str(makings[0].names)


# -- a name that becomes somebody's while an image is made; on the real engine ------------------------------------------


def make_tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


async def build(scene):
    dockerfile = f"FROM {IMAGE}\nENV A={scene.name}\n".encode()
    headers = ["Content-Type: application/x-tar"]
    await ask_text(scene, f"/build?t={scene.name}", make_tar({"Dockerfile": dockerfile}), headers)


async def build_with_buildkit(scene):
    async with BuildKit.connect("docker+tcp://engine:1", connect=scene.connect, version=(1, 45)) as buildkit:
        text = f"FROM {IMAGE}\nENV A={scene.name}\n"
        with suppress(HostError):
            await buildkit.build(MemorySource({}), dockerfile_text=text, tags=[scene.name], outputs=[Output("moby")])


async def import_(scene):
    await ask_text(scene, f"/images/create?fromSrc=-&repo={scene.name}", make_tar({"a": scene.name.encode()}))


async def commit(scene):
    body = {"Image": IMAGE, "Cmd": ["true"]}
    _, made = await ask(await scene.connect(), "POST", "/v1.45/containers/create", body)
    repo, _, tag = scene.name.rpartition(":")
    await ask(await scene.connect(), "POST", f"/v1.45/commit?container={made['Id']}&repo={repo}&tag={tag}", {})


async def ask_text(scene, path, data, headers=()):
    """Send a request with a body that is no JSON; the answer, lines of JSON, is read to its end."""
    stream = await scene.connect()
    lines = [f"POST /v1.45{path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(data)}", *headers]
    await stream.send("\r\n".join([*lines, "", ""]).encode() + data)
    answer = b""
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            answer += await stream.receive()
    return answer


@attack("tags at the end", {each.__name__: each for each in (build, build_with_buildkit, import_, commit)})
async def test_name_that_becomes_a_users_stays_his(engine, tmp_path, monkeypatch, defended, row):
    """He takes it when the image is there and has no name yet: the last moment."""
    adopt = naming.Making.adopt
    async with open_scene(engine, tmp_path) as scene:

        async def adopt_late(self, guard):
            await scene.take()
            return await adopt(self, guard)

        monkeypatch.setattr(naming.Making, "adopt", adopt_late)
        if not defended:

            async def believe(reference, _engine):
                return reference

            monkeypatch.setattr(naming, "check_new_tag", believe)
        await row(scene)
        return not await scene.is_theirs()


@pytest.mark.parametrize("make", [build, build_with_buildkit, import_, commit])
async def test_what_the_run_makes_has_its_name_and_goes_with_it(engine, tmp_path, make):
    """No label of ours says anything in it, and no other name is shown."""
    async with open_scene(engine, tmp_path) as scene:
        await make(scene)
        found = await scene.api.images.inspect(scene.name)
        marks = {key: item for key, item in (found["Config"]["Labels"] or {}).items() if key != "moat.engine-recipe"}
        assert not any(marks.values())
        _, listed = await ask(await scene.connect(), "GET", "/v1.45/images/json")
        assert [item["RepoTags"] for item in listed] == [[scene.name]]
        _, shown = await ask(await scene.connect(), "GET", f"/v1.45/images/{scene.name}/json")
        assert shown["RepoTags"] == [scene.name]
        await scene.run.release_all()
        assert await scene.api.images.find(found["Id"]) is None


@pytest.mark.parametrize("make", [build, commit])
async def test_a_removed_image_leaves_nothing_behind(engine, tmp_path, make):
    """`docker rmi` takes the names along that only tell whose the image is."""
    async with open_scene(engine, tmp_path) as scene:
        await make(scene)
        found = await scene.api.images.inspect(scene.name)
        status, said = await ask(await scene.connect(), "DELETE", f"/v1.45/images/{scene.name}?force=1")
        assert status == 200
        assert {"Untagged": scene.name} in said
        assert "moat/" not in json.dumps(said)
        if make is build:  # the other is still used
            assert await scene.api.images.find(found["Id"]) is None


@attack("labels of images", ["Dockerfile", "build's labels", "import's changes", "commit's changes", "commit's config"])
async def test_no_image_says_whose_it_is(engine, tmp_path, monkeypatch, defended, row):
    """Whoever made something from it would make it moat's. Worked: there is such an image under the run's name."""
    if not defended:
        monkeypatch.setattr(naming, "_check_labels", lambda _found, _engine: None)
        monkeypatch.setattr(images, "is_reserved_label", lambda _key: False)
        monkeypatch.setattr(fields, "is_reserved_label", lambda _key: False)
        monkeypatch.setattr(making, "is_reserved_label", lambda _key: False)
    async with open_scene(engine, tmp_path) as scene:
        label, repo = 'LABEL "moat.run-id"=run-00000001', scene.name
        if row == "Dockerfile":
            tar = make_tar({"Dockerfile": f"FROM {IMAGE}\n{label}\n".encode()})
            await ask_text(scene, f"/build?t={repo}", tar, ["Content-Type: application/x-tar"])
        elif row == "build's labels":
            tar, marks = make_tar({"Dockerfile": f"FROM {IMAGE}\n".encode()}), quote('{"moat.run-id":"run-00000001"}')
            await ask_text(scene, f"/build?t={repo}&labels={marks}", tar, ["Content-Type: application/x-tar"])
        elif row == "import's changes":
            path = f"/images/create?fromSrc=-&repo={repo}&changes={quote(label)}"
            await ask_text(scene, path, make_tar({"a": b"b"}))
        else:
            _, made = await ask(
                await scene.connect(), "POST", "/v1.45/containers/create", {"Image": IMAGE, "Cmd": ["true"]}
            )
            changes = f"&changes={quote(label)}" if row == "commit's changes" else ""
            body = {} if changes else {"Labels": {"moat.workspace": "/"}}
            path = f"/v1.45/commit?container={made['Id']}&repo={repo.rpartition(':')[0]}&tag=1{changes}"
            await ask(await scene.connect(), "POST", path, body)
        found = await scene.api.images.find(repo)
        marks = (found or {"Config": {}})["Config"].get("Labels") or {}
        return any(marks.get(key) for key in ("moat.run-id", "moat.workspace", "moat.proof"))


# -- pulls, from a registry of our own ------------------------------------------------------------------------------


@contextmanager
def serve_registry(on_blob=lambda: None):
    """A registry with one image, whatever is asked for; ON_BLOB is called when its content is."""
    layer = make_tar({"pulled": b"x"})
    digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest]}}
    ).encode()
    kinds = "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.container.image.v1+json"
    blobs = {f"sha256:{hashlib.sha256(data).hexdigest()}": data for data in (layer, config)}

    def describe(data, kind):
        return {"mediaType": kind, "size": len(data), "digest": f"sha256:{hashlib.sha256(data).hexdigest()}"}

    layers = [describe(layer, "application/vnd.docker.image.rootfs.diff.tar")]
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": kinds[0], "config": describe(config, kinds[1]), "layers": layers}
    ).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            data, kind = b"{}", "application/json"
            if "/manifests/" in self.path:
                data, kind = manifest, kinds[0]
            elif "/blobs/" in self.path:
                data, kind = blobs[self.path.rpartition("/")[2]], "application/octet-stream"
                on_blob()
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Docker-Content-Digest", f"sha256:{hashlib.sha256(data).hexdigest()}")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET  # noqa: N815 - the base's name

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@attack("tags at the end", ["taken before the pull", "taken while it goes on"])
async def test_pull_takes_no_name_of_a_users(engine, tmp_path, monkeypatch, defended, row):
    """An image that he made here has the name, which somebody offers in a registry, too."""
    if not defended:

        async def believe(reference, _engine):
            return reference

        monkeypatch.setattr(on_images, "check_pulled", believe)
    asked = threading.Event()
    with serve_registry(asked.set) as place:
        async with open_scene(engine, tmp_path, f"{place}/tool:1") as scene:
            remember = on_images._remember
            if row == "taken before the pull":
                await scene.take()
            else:

                def late(*arguments):
                    end = remember(*arguments)

                    async def act():
                        await scene.take()
                        return await end()

                    return act

                monkeypatch.setattr(on_images, "_remember", late)
            await ask_text(scene, f"/images/create?fromImage={place}/tool&tag=1", b"")
            await anyio.lowlevel.checkpoint()
            assert asked.is_set() or (defended and row == "taken before the pull")
            worked = not await scene.is_theirs()
            for item in await scene.api.images.list_named(f"{place}/tool"):
                if not item.get("RepoTags"):
                    await scene.api.images.remove(item["Id"], force=True)
            return worked


async def test_pull_gives_a_name_that_is_free(engine, tmp_path):
    """And takes it again, when its registry has something else: that is what it means."""
    with serve_registry() as place:
        async with open_scene(engine, tmp_path, f"{place}/tool:1") as scene:
            for _ in range(2):
                answer = await ask_text(scene, f"/images/create?fromImage={place}/tool&tag=1", b"")
                assert b"error" not in answer, answer
                assert await scene.api.images.find(scene.name) is not None
            _, listed = await ask(await scene.connect(), "GET", "/v1.45/images/json")
            assert [scene.name] in [item["RepoTags"] for item in listed]
            with suppress(HostError):
                await scene.api.images.remove((await scene.api.images.inspect(scene.name))["Id"], force=True)


@attack("tags at the end", ["a new name", "a name that is used"])
async def test_loaded_archive_gives_none_of_moats(engine, tmp_path, monkeypatch, defended, row):
    """Though its owner lets the run load images. Worked: the name is another image's than before."""
    if not defended:
        monkeypatch.setattr(making, "is_reserved_name", lambda _name: False)
    async with open_scene(engine, tmp_path, allow=frozenset({"images"})) as scene:
        scene.name = f"moat/run:{scene.run.id}"
        layer = make_tar({"loaded": scene.name.encode()})
        config = json.dumps(
            {"architecture": "amd64", "os": "linux", "config": {},
             "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}}
        ).encode()  # fmt: skip
        manifest = [{"Config": "config.json", "RepoTags": [scene.name], "Layers": ["layer.tar"]}]
        archive = make_tar({"config.json": config, "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()})
        if row == "a name that is used":
            await scene.take()
        await ask_text(scene, "/images/load", archive, ["Content-Type: application/x-tar"])
        found = await scene.api.images.find(scene.name)
        worked = found is not None and not await scene.is_theirs()
        if worked:
            await scene.api.images.remove(found["Id"], force=True)
        return worked


@attack("tags at the end", ["re-tagged", "made under the name first"])
async def test_what_answers_to_a_name_of_moats_is_not_used(engine, tmp_path, monkeypatch, defended, row):
    """A run is made from what was built and written down. Worked: it would be made from the user's image."""
    if not defended:
        monkeypatch.setattr(built, "is_current", lambda *_: True)
    tag = f"moat/test:{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:16]}"
    spec = ImageSpec(IMAGE, f"FROM {IMAGE}\nENV A={tag}\n", tag)
    async with open_run(engine, tmp_path, image=spec) as run:
        api = await get_engine(run)
        base = (await api.images.inspect(IMAGE))["Id"]
        try:
            made = await resolve_image(run) if row == "re-tagged" else ""
            repo, _, word = tag.rpartition(":")
            await api.call("tag", "POST", f"/images/{IMAGE}/tag", params={"repo": repo, "tag": word})
            return await resolve_image(run) == base
        finally:
            await api.images.remove(tag)
            if made and await api.images.find(made) is not None:
                await api.images.remove(made)


@attack("labels", ["inspect", "list", "delete", "the end of the run", "the end of another run"])
async def test_an_image_shows_what_proved_a_container(engine, tmp_path, monkeypatch, defended, row):
    """A commit keeps all of the container's labels. The agent writes them into a file that a user builds from."""
    if not defended:
        monkeypatch.setattr(Proof, "burn", lambda *_: None)
    name = f"theirs-{secrets.token_hex(6)}"
    async with open_scene(engine, tmp_path) as scene:
        _, made = await ask(await scene.connect(), "POST", f"/v1.45/containers/create?name={name}", {"Image": IMAGE})
        shown = (await scene.api.containers.inspect(made["Id"]))["Config"]["Labels"]
        repo, _, tag = scene.name.rpartition(":")
        await ask(await scene.connect(), "POST", f"/v1.45/commit?container={made['Id']}&repo={repo}&tag={tag}", {})
        image = await scene.api.call("look", "GET", f"/../v1.44/images/{scene.name}/json")
        copied = image["ContainerConfig"]["Labels"]
        assert copied == shown, "the engine tells no more; then this row is over"
        before, _ = await ask(await scene.connect(), "GET", f"/v1.45/containers/{made['Id']}/json")
        assert before == 200, "the run's own stays its own"
        await ask(await scene.connect(), "DELETE", f"/v1.45/containers/{made['Id']}")
        identity = await scene.api.containers.create(name, {"Image": IMAGE, "Labels": copied})
        try:
            if row == "inspect":
                return (await ask(await scene.connect(), "GET", f"/v1.45/containers/{name}/json"))[0] == 200
            if row == "list":
                _, listed = await ask(await scene.connect(), "GET", "/v1.45/containers/json?all=1")
                return identity in {item["Id"] for item in listed}
            if row == "delete":
                await ask(await scene.connect(), "DELETE", f"/v1.45/containers/{name}")
            elif row == "the end of the run":
                await remove_guests(DockerRuntime(scene.api, str(tmp_path)), make_marks(scene.run.labels, scene.run.id))
            else:
                async with Connections(tmp_path) as connections:
                    for left in await find_leftovers(FakeUpkeep(connections, address=scene.run.address)):
                        if left.name == name:
                            await left.resource.release(scene.run)
            return identity not in {item["Id"] for item in await scene.api.containers.list_labelled()}
        finally:
            with suppress(HostError):
                await scene.api.containers.remove(identity)


async def test_trailers_where_none_are_expected_end_their_call_alone(engine, tmp_path):
    """Of a call that is held, and of one that was refused: no error of the guard's, and the connection goes on."""
    async with open_scene(engine, tmp_path) as scene:
        stream = await scene.connect()
        await stream.send(b"POST /grpc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive()
        assert b" 101 " in data.split(b"\r\n")[0]
        http = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        http.initiate_connection()
        answered, paths = (
            set(),
            ["/moby.buildkit.v1.Control/Solve", "/no.such/Method", "/moby.buildkit.v1.Control/Info"],
        )
        for number, path in zip((1, 3, 5), paths, strict=True):
            head = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"), ("te", "trailers")]
            http.send_headers(number, [*head, ("content-type", "application/grpc")])
            http.send_headers(number, [("grpc-status", "0")], end_stream=True)
        await stream.send(http.data_to_send())
        events = http.receive_data(data.partition(b"\r\n\r\n")[2])
        with anyio.fail_after(30):
            while answered < {1, 3, 5}:
                answered |= {each.stream_id for each in events if isinstance(each, StreamEnded | StreamReset)}
                if out := http.data_to_send():
                    await stream.send(out)
                events = http.receive_data(await stream.receive()) if answered < {1, 3, 5} else []
