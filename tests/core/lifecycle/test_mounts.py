"""What is mounted: held while a run opens, compared by the strongest that is known, closed at its end."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager

import attrs
import pytest

from moat_core import hookimpl
from moat_core.errors import HostPathError
from moat_core.host_path import hold, place_of
from moat_core.lifecycle.mounts import check_mounts, hold_again, is_same
from moat_core.runtime.base import MountSeen
from moat_core.testing.fakes import FakeSandbox
from moat_core.types import Mount


@pytest.fixture
def held(tmp_path):
    """A folder that is held."""
    (tmp_path / "folder").mkdir()
    with hold(tmp_path / "folder") as held:
        yield held


SEEN = {
    "its identity": (lambda held: MountSeen(identity=held.identity, source="/other"), True),
    "another identity": (lambda held: MountSeen(identity=(1, 2), place=place_of(held.fd), source=held.path), False),
    "its place": (lambda held: MountSeen(place=place_of(held.fd), source="/other"), True),
    "another place": (lambda held: MountSeen(place=("9:9", "/"), source=held.path), False),
    "its path": (lambda held: MountSeen(source=held.path), True),
    "its path in a virtual machine": (lambda held: MountSeen(source=f"/host_mnt{held.path}"), True),
    "another path": (lambda held: MountSeen(source="/other"), False),
    "nothing": (lambda held: MountSeen(), True),
}


@pytest.mark.parametrize(("seen", "same"), SEEN.values(), ids=SEEN)
def test_the_strongest_that_is_known_counts(held, seen, same):
    """Where an engine is elsewhere there is less, and it does not fail for that."""
    assert is_same(held, seen(held)) is same


class Looker:
    """A container that says what it has mounted."""

    def __init__(self, seen):
        self.seen = seen

    async def mounted(self, targets):
        return self.seen


async def test_a_mount_that_is_not_there_is_a_difference(held):
    """An empty answer is none: this runtime cannot look."""
    await check_mounts({"/x": held}, Looker({}))
    await check_mounts({"/x": held}, Looker({"/x": MountSeen(identity=held.identity)}))
    with pytest.raises(HostPathError, match="/x") as caught:
        await check_mounts({"/x": held}, Looker({"/y": MountSeen()}))
    assert caught.value.hint


def test_another_process_holds_the_same_again(held, tmp_path):
    """Or says that it is not there any more."""
    mounts = [("/x", held.path, *held.identity)]
    with hold_again(mounts) as again:
        assert again["/x"].identity == held.identity
    os.rename(held.path, f"{held.path}.gone")
    for make in (lambda: None, lambda: os.mkdir(held.path)):
        make()
        with pytest.raises(HostPathError), hold_again(mounts):
            pytest.fail("it is another one")


class Opens:
    """Adds a mount while a run opens, without having looked at it."""

    def __init__(self, source):
        self.source = source

    @hookimpl
    def moat_open_run(self, run):
        return self._open(run)

    @asynccontextmanager
    async def _open(self, run):
        mounts = (*run.plan.mounts, Mount(str(self.source), "/x"))
        run.replace_plan(attrs.evolve(run.plan, mounts=mounts))
        yield


async def test_what_a_plugin_adds_late_is_held_too(moat, tmp_path):
    """By its real path; and let go of when the run is over."""
    (tmp_path / "link").symlink_to(tmp_path / "workspace")
    moat.register(Opens(tmp_path / "link"), "opens")
    seen = []

    async def body(run):
        seen.append(run.run.plan.mounts[-1].source)
        seen.append(run.run.held_mounts["/x"].fd)

    record = await moat.run(body)
    assert record.outcome.status == "finished"
    assert seen[0] == str(tmp_path / "workspace")
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(seen[1])


async def test_what_was_given_is_remembered_after_the_run(moat, tmp_path, monkeypatch):
    """A link in it is refused in the next plan; what was only read is not remembered."""
    for name in ("written", "read"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "link").symlink_to(tmp_path)
    await moat.run(mounts=[f"{tmp_path}/written:/w", f"{tmp_path}/read:/r:ro"])
    moat.plan(mounts=[f"{tmp_path}/read/link:/x"])
    with pytest.raises(Exception, match="is a link"):
        moat.plan(mounts=[f"{tmp_path}/written/link:/x"])


async def test_a_difference_ends_the_run_before_it_is_admitted(moat, tmp_path, monkeypatch):
    """With an error of its own type, and nothing left."""
    admitted = []

    async def mounted(sandbox, targets):
        return {target: MountSeen(identity=(1, 2)) for target in targets}

    async def admit(sandbox):
        admitted.append(sandbox)

    monkeypatch.setattr(FakeSandbox, "mounted", mounted)
    monkeypatch.setattr(FakeSandbox, "admit", admit)
    moat.register(Opens(tmp_path), "opens")
    record = await moat.run()
    assert isinstance(record.outcome.error, HostPathError)
    assert admitted == []
    assert record.left == []


@pytest.mark.parametrize("target", ["/w/link", "/w/link/setpriv", "/w/dangling", "/w/sub/link/x"])
async def test_nothing_is_mounted_behind_a_link_of_another_mount(moat, tmp_path, target):
    """It would be over whatever that leads to in the container: what root runs there, say."""
    for folder in ("w", "w/sub"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "link").symlink_to("../usr/bin")
    (tmp_path / "w" / "dangling").symlink_to("nowhere")
    record = await moat.run(mounts=[f"{tmp_path}/w:/w", f"{tmp_path}:{target}:ro"])
    assert isinstance(record.outcome.error, HostPathError)
    assert "a link on the way" in str(record.outcome.error)
    assert record.left == []


async def test_a_mount_in_another_ones_folder_is_fine(moat, tmp_path):
    """Over a folder, a file, and what is not there yet."""
    (tmp_path / "w" / "sub").mkdir(parents=True)
    (tmp_path / "w" / "file").write_text("")
    targets = ("/w", "/w/sub", "/w/file", "/w/new/deep", "/w/sub/in/it")
    record = await moat.run(mounts=[f"{tmp_path}/w:{target}" for target in targets])
    assert record.outcome.status == "finished"
