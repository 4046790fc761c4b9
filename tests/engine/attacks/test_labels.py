"""Labels are copied and written by anybody: what has ours and is not ours is neither seen, nor entered, nor removed."""

from __future__ import annotations

import io
import tarfile
from contextlib import asynccontextmanager, suppress

import attrs
import pytest
from attack import attack
from docker_support import OWNER, FakeUpkeep, get_engine, open_run

from moat_core.errors import HostError, SandboxGone
from moat_core.ledger import Connections
from moat_core.runtime.base import SandboxInfo
from moat_core.types import RunState
from moat_plugins.docker import labels, probe
from moat_plugins.docker.guests import DockerGuestBook, make_marks, remove_guests
from moat_plugins.docker.leftovers import find_leftovers
from moat_plugins.docker.resources import DockerContainer, DockerGuests
from moat_plugins.docker.runtime import DockerRuntime
from moat_plugins.docker.upkeep import add_to_status, find_faults

IMAGE = "debian:bookworm-slim"


@pytest.fixture
def believe(monkeypatch, defended):
    """As a control, labels are believed as they were: whose they name is whose it is."""
    if not defended:
        monkeypatch.setattr(labels, "is_ours", lambda _proof, _kind, _name, found: labels.RUN_ID in (found or {}))


@attrs.define
class Scene:
    """A run's own container, and an engine where a user makes things with labels like its."""

    run: object
    api: object
    connections: object
    ours: dict

    @property
    def name(self):
        return f"theirs-{self.run.id}"

    async def create(self, image=IMAGE, marks=None):
        body = {"Image": image, "Cmd": ["sleep", "300"], "HostConfig": {"NetworkMode": "none"}, "Labels": marks or {}}
        return await self.api.containers.create(self.name, body)

    async def commit(self):
        params = {"container": f"moat-{self.run.id}", "repo": f"theirs/{self.run.id}"}
        await self.api.call("commit", "POST", "/commit", params=params, body={})
        return params["repo"]


@asynccontextmanager
async def open_scene(engine, tmp_path, role="main"):
    async with open_run(engine, tmp_path) as run, Connections(tmp_path) as connections:
        api = await get_engine(run)
        marks = {**run.labels, labels.ROLE: role}
        body = {"Image": IMAGE, "Cmd": ["sleep", "300"], "HostConfig": {"NetworkMode": "none"}, "Labels": marks}
        await run.acquire(DockerContainer(engine, f"moat-{run.id}", body))
        found = await api.containers.inspect(f"moat-{run.id}")
        scene = Scene(run, api, connections, found["Config"]["Labels"])
        try:
            yield scene
        finally:
            with suppress(HostError):
                await api.containers.remove(scene.name)
            with suppress(HostError):
                await api.images.remove(f"theirs/{run.id}")


# -- how the labels got there ---------------------------------------------------------------------------------------


async def by_commit(scene):
    """From an image that somebody committed of the run's container."""
    return await scene.create(await scene.commit())


async def by_build(scene):
    """From an image that was built from such an image."""
    base, tag = await scene.commit(), f"theirs/{scene.run.id}"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        data = f"FROM {base}\nENV A=b\n".encode()
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    async for _ in scene.api.images.build(tag, buffer.getvalue(), labels={}, build_args={}):
        pass
    return await scene.create(tag)


async def by_hand(scene):
    """With all of them, the tag included: the proof of another object."""
    return await scene.create(marks=scene.ours)


async def without_proof(scene):
    """With the right owner, and no tag."""
    return await scene.create(marks={key: item for key, item in scene.ours.items() if key != labels.PROOF})


async def with_invented_proof(scene):
    """With a tag of somebody else's making."""
    return await scene.create(marks={**scene.ours, labels.PROOF: "0" * 32})


async def by_rename(scene):
    """The user's own container, made under another name and then called as it likes."""
    identity = await scene.create(marks=scene.ours)
    await scene.api.call("rename", "POST", f"/containers/{identity}/rename", params={"name": f"x-{scene.name}"})
    await scene.api.call("rename", "POST", f"/containers/{identity}/rename", params={"name": scene.name})
    return identity


# -- what is done to it ---------------------------------------------------------------------------------------------


async def sweep(scene, identity):
    """The reaper's sweep, and `moat clean`, of a home where nobody remembers the run."""
    upkeep = FakeUpkeep(scene.connections, address=scene.run.address, automatic=False)
    for left in await find_leftovers(upkeep):
        if left.run_id == scene.run.id:
            await left.resource.release(scene.run)
    return not await is_there(scene, identity)


async def is_there(scene, identity):
    return identity in {item["Id"] for item in await scene.api.containers.list_labelled()}


async def runtime_of(scene):
    return await scene.run.connection(DockerRuntime, scene.run.address)


async def find(scene, identity):
    """`moat list`, `exec`, `stop`: the container of that run."""
    return identity in {info.id for info in await (await runtime_of(scene)).find_sandboxes(scene.run.id)}


async def look_quickly(scene, identity):
    """`moat list`'s quick way."""
    home = (await runtime_of(scene)).home
    return identity in {each["id"] for each in probe.states(scene.run.address, 10, home)}


async def enter(scene, identity):
    """`moat exec` with what a listing of a while ago said."""
    info = SandboxInfo(identity, scene.run.id, "main", RunState.RUNNING, "fox", "")
    try:
        await (await runtime_of(scene)).get_sandbox(info)
    except SandboxGone:
        return False
    return True


async def release(scene, identity):
    """`moat destroy`, and the reaper: a row of the ledger whose name somebody has taken."""
    await DockerContainer(scene.run.address, scene.name, owner=OWNER).release(scene.run)
    return not await is_there(scene, identity)


WAYS = (by_commit, by_build, by_hand, without_proof, with_invented_proof, by_rename)
DONE = (sweep, find, look_quickly, enter, release)
# Each way with what is worst, and each thing that is done with the way that it is most often met.
ROWS = (
    [(way, sweep) for way in WAYS] + [(by_commit, done) for done in DONE[1:]] + [(by_hand, release), (by_build, find)]
)


@attack("labels", {f"{way.__name__} {done.__name__}": (way, done) for way, done in ROWS})
async def test_users_container_is_not_the_runs(engine, tmp_path, believe, defended, row):
    """It carries what the run's own carries; judged by whether it is still there, or was shown."""
    way, done = row
    async with open_scene(engine, tmp_path) as scene:
        return await done(scene, await way(scene))


@attack("labels", ["by_commit", "by_hand", "without_proof"])
async def test_users_container_is_no_guest(engine, tmp_path, believe, defended, row):
    """The end of a run that was let make things does not take it along, though it says that it is such a thing."""
    async with open_scene(engine, tmp_path, role=labels.GUEST) as scene:
        identity = await globals()[row](scene)
        marks = make_marks(scene.run.labels, scene.run.id)
        await remove_guests(await runtime_of(scene), marks)
        assert not [
            item for item in await scene.api.containers.list_labelled() if f"/moat-{scene.run.id}" in item["Names"]
        ]
        return not await is_there(scene, identity)


@attack("labels", ["sweep", "status", "guests"])
async def test_users_network_is_not_the_runs(engine, tmp_path, believe, defended, row):
    """Labels of a network are written by hand only, and are believed no more for that."""
    async with open_scene(engine, tmp_path, role=labels.GUEST) as scene:
        await scene.api.networks.create(scene.name, {"Labels": scene.ours})
        try:
            if row == "sweep":
                await sweep(scene, "")
            elif row == "guests":
                await remove_guests(await runtime_of(scene), make_marks(scene.run.labels, scene.run.id))
            else:
                lines = await add_to_status(FakeUpkeep(ByAddress(scene)))
                return scene.name in {line.name for line in lines if line.text == "of one run"}
            return scene.name not in {item["Name"] for item in await scene.api.networks.list_labelled()}
        finally:
            if scene.name in {item["Name"] for item in await scene.api.networks.list_labelled()}:
                await scene.api.networks.remove(scene.name)


class ByAddress:
    """Connections that find the engine under test where the default one is asked for."""

    def __init__(self, scene):
        self._scene = scene

    async def get(self, kind, address):
        return await self._scene.connections.get(kind, address or self._scene.run.address)


@attack("labels", ["sweep", "guests", "cache"])
async def test_users_volume_is_not_the_runs(engine, tmp_path, believe, defended, row):
    """Nor are those of a volume; what `moat clean` offers as a cache is one that moat made."""
    async with open_scene(engine, tmp_path, role=labels.GUEST) as scene:
        marks = scene.ours | ({labels.CACHE: "fox-0123456789abcdef"} if row == "cache" else {})
        if row == "cache":
            marks = {key: item for key, item in marks.items() if key != labels.RUN_ID} | {
                labels.OWNER: OWNER, labels.PROOF: scene.ours[labels.PROOF],
            }  # fmt: skip
            if not defended:
                marks[labels.RUN_ID] = ""  # what the control believes by
        await scene.api.volumes.create(scene.name, marks)
        try:
            if row == "guests":
                await remove_guests(await runtime_of(scene), make_marks(scene.run.labels, scene.run.id))
            else:
                upkeep = FakeUpkeep(scene.connections, address=scene.run.address, automatic=False)
                for left in await find_leftovers(upkeep):
                    if left.name == scene.name:
                        await left.resource.release(scene.run)
            return scene.name not in {item["Name"] for item in await scene.api.volumes.list_labelled()}
        finally:
            if scene.name in {item["Name"] for item in await scene.api.volumes.list_labelled()}:
                await scene.api.volumes.remove(scene.name)


@attack("labels", ["another image under a name of the repository", "a name that the run did not give", "a moved name"])
async def test_users_image_is_not_the_runs(engine, tmp_path, monkeypatch, defended, row):
    """A name in the run's repository holds for one image only, and tells which other names of it are the run's."""
    if not defended:
        monkeypatch.setattr(DockerGuestBook, "own_names", lambda _self, _identity, names: list(names))
    async with open_scene(engine, tmp_path) as scene:
        marks = make_marks(scene.run.labels, scene.run.id)
        book = DockerGuestBook((await runtime_of(scene)).proof, marks)
        made = (await scene.api.images.inspect(await scene.commit()))["Id"]
        mine, other = f"theirs/{scene.run.id}:latest", (await scene.api.images.inspect(IMAGE))["Id"]

        async def tag(name, identity):
            repo, _, word = name.rpartition(":")
            await scene.api.call("tag", "POST", f"/images/{identity}/tag", params={"repo": repo, "tag": word})

        if row == "another image under a name of the repository":
            await tag(f"{book.repository}:own-{'0' * 32}", made)
        elif row == "a moved name":
            await tag(book.name_image(other), made)
        else:
            await tag(book.name_image(made), made)
            await tag(book.name_image(made, "another:1"), made)
        try:
            await remove_guests(await runtime_of(scene), marks)
            found = await scene.api.images.find(mine)
            return found is None or found["Id"] != made
        finally:
            for item in await scene.api.images.list_named(book.repository):
                for name in item["RepoTags"]:
                    await scene.api.images.remove(name, force=True)


async def test_doctor_tells_of_copies(engine, tmp_path):
    """Nobody else would: they are left alone."""
    async with open_scene(engine, tmp_path) as scene:
        upkeep = FakeUpkeep(ByAddress(scene))
        assert scene.name not in str(await find_faults(upkeep))
        await by_hand(scene)
        (check,) = [check for check in await find_faults(upkeep) if check.name == "docker labels"]
        assert scene.name in check.message


async def test_what_was_renamed_through_the_guard_is_found(engine, tmp_path):
    """Its name proves nothing any more; its id was written down before, for whoever comes after us."""
    async with open_scene(engine, tmp_path) as scene:
        runtime, marks = await runtime_of(scene), make_marks(scene.run.labels, scene.run.id)
        book, before = DockerGuestBook(runtime.proof, marks), f"guest-{scene.run.id}"
        body = {"Image": IMAGE, "Labels": book.sign("container", before, {}), "HostConfig": {"NetworkMode": "none"}}
        identity = await scene.api.containers.create(before, body)
        book.add_renamed(identity)
        await scene.api.call("rename", "POST", f"/containers/{identity}/rename", params={"name": scene.name})
        upkeep = FakeUpkeep(scene.connections, address=scene.run.address)
        assert scene.name in {left.name for left in await find_leftovers(upkeep)}
        assert await DockerGuests(scene.run.address, marks).release(scene.run) is True
        assert not await is_there(scene, identity)
