"""What is kept for an agent is another folder's never, whatever that one calls itself."""

from __future__ import annotations

import os
from contextlib import suppress

import attrs
import pytest
from attack import attack
from docker_support import FakeRun, get_engine, make_plan, run_command

from moat_core.errors import HostError
from moat_core.ledger import Connections
from moat_core.runtime import locks
from moat_core.runtime.locks import hold_cache, make_cache_key
from moat_core.types import Volume
from moat_plugins.docker import objects, volumes
from moat_plugins.docker.network import open_network
from moat_plugins.docker.open_sandbox import open_sandbox
from moat_plugins.docker.runtime import connect_run

VOLUMES = (Volume("images", "/cache", cache="fox"),)


def another(tmp_path):
    """A folder of a stranger's."""
    (tmp_path / "stranger").mkdir()
    return tmp_path / "stranger"


def nested(tmp_path):
    """One inside the agent's own."""
    (tmp_path / "mine" / "vendor").mkdir()
    return tmp_path / "mine" / "vendor"


def in_its_place(tmp_path):
    """One that has the path now; the agent's own was moved away."""
    (tmp_path / "mine").rename(tmp_path / "moved")
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


def by_a_link(tmp_path):
    """A stranger's, by a link that has the agent's path now."""
    (tmp_path / "mine").rename(tmp_path / "moved")
    (tmp_path / "mine").symlink_to(another(tmp_path))
    return tmp_path / "mine"


def of_its_inode(tmp_path):
    """One with the same inode at another path: the folder itself, moved."""
    (tmp_path / "mine").rename(tmp_path / "moved")
    return tmp_path / "moved"


FOLDERS = (another, nested, in_its_place, by_a_link, of_its_inode)


@pytest.fixture
def by_name(monkeypatch, defended):
    """As a control, the name alone decides, as it did."""
    if not defended:
        for module in (locks, volumes):
            monkeypatch.setattr(module, "make_cache_key", lambda name, _workspace: name)

        async def create(engine, name, *_):  # what has the name is taken as it is
            await engine.volumes.create(name, {})
            return name

        monkeypatch.setattr(objects, "create_volume", create)


@attack("cache keys", {each.__name__: each for each in FOLDERS})
def test_key_is_of_name_and_folder(tmp_path, by_name, defended, row):
    """Worked: the lock is the same one, so that the other folder's run would wait for it, or have what it guards."""
    (tmp_path / "mine").mkdir()
    with hold_cache(tmp_path, "images", "fox", tmp_path / "mine") as is_ours:
        assert is_ours
        with hold_cache(tmp_path, "images", "fox", row(tmp_path)) as theirs:
            return not theirs


@attack("cache keys", ["another", "in_its_place"])
async def test_other_folder_finds_nothing(engine, tmp_path, by_name, defended, row):
    """Two runs of one name in two folders. Worked: the second reads what the first left."""
    (tmp_path / "mine").mkdir()
    async with Connections(tmp_path) as connections:
        made = []

        async def run_in(folder, command):
            plan = attrs.evolve(make_plan(volumes=VOLUMES), workspace=folder)
            run = FakeRun(plan, engine, tmp_path, connections)
            try:
                async with open_network(run), open_sandbox(run) as sandbox:
                    made.extend(
                        mount["Source"] for mount in await volumes.make_volumes(run, await connect_run(run), VOLUMES)
                    )
                    return (await run_command(sandbox, "sh", "-c", command))[1]
            finally:
                await run.release_all()

        try:
            await run_in(tmp_path / "mine", "echo secret >/cache/a")
            assert await run_in(tmp_path / "mine", "cat /cache/a") == b"secret\n"
            return await run_in(globals()[row](tmp_path), "cat /cache/a") == b"secret\n"
        finally:
            api = await get_engine(FakeRun(make_plan(), engine, tmp_path, connections))
            for name in set(made):
                with suppress(HostError):
                    await api.volumes.remove(name)


def test_key_is_the_same_by_every_way_to_a_folder(tmp_path):
    """And begins with the name, for whoever looks at a list."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to("mine")
    keys = {make_cache_key("fox", path) for path in (tmp_path / "mine", tmp_path / "link", f"{tmp_path}/./mine/")}
    assert len(keys) == 1
    assert keys.pop().startswith("fox-")
    assert make_cache_key("owl", tmp_path / "mine") != make_cache_key("fox", tmp_path / "mine")
    assert make_cache_key("fox", os.fsencode(tmp_path) + b"/\xff").startswith("fox-")
