"""Where results come out: through the user's links where that is known to be right, never through what a run left."""

from __future__ import annotations

import os
import stat

import anyio
import pytest

from moat_core.errors import HostPathError
from moat_core.host_path import nobody
from moat_plugins.buildkit import places
from moat_plugins.buildkit.errors import ExportError
from moat_plugins.buildkit.outputs import Output, open_targets
from moat_plugins.buildkit.places import open_folder


@pytest.fixture
def here(tmp_path):
    """A workspace with links, another folder, and a link of the user's to the workspace."""
    (tmp_path / "ws/sub").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home/key").write_text("precious")
    (tmp_path / "short").symlink_to("ws")
    for name, target in {
        "out.tar": "../home/key", "dist": "../home", "deep": "..", "nowhere": "../home/new", "loop": "loop",
    }.items():  # fmt: skip
        (tmp_path / "ws" / name).symlink_to(target)
    return tmp_path


def in_workspace(here):
    """Tell that a run could write to the workspace."""
    return lambda identity, path: path == str(here / "ws")


async def export(path, given=None, data=b"data"):
    """Write an archive to PATH."""
    async with open_targets([Output("tar", path)], given) as targets:
        await targets["0"](data[:2])
        await targets["0"](data[2:])


def untouched(here):
    return os.listdir(here / "home") == ["key"] and (here / "home/key").read_text() == "precious"


@pytest.mark.parametrize("given", [None, nobody, in_workspace], ids=["unknown", "nobody", "known"])
@pytest.mark.parametrize("path", ["ws/a.tar", "short/a.tar", "short/sub/a.tar", "ws/sub/../a.tar"])
async def test_a_users_own_link_above_is_followed(here, path, given):
    """The file is complete or not there, as any new file of ours may be read, and an older one is replaced."""
    given = given(here) if given is in_workspace else given
    for data in (b"longer", b"data"):
        await export(here / path, given, data)
        made = (here / path).resolve()
        assert (made.read_bytes(), stat.S_IMODE(made.stat().st_mode)) == (data, 0o666 & ~umask())
    assert not [name for name in os.listdir(made.parent) if name.startswith(".")]


def umask():
    mask = os.umask(0o22)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("path", ["ws/out.tar", "ws/nowhere", "ws/loop", "short/out.tar"])
async def test_a_link_at_the_end_is_not_followed(here, path):
    """Nor replaced: it may be the user's, who is told what to do."""
    with pytest.raises(ExportError, match=r"is a link: nothing is written through it\. Take the link away"):
        await export(here / path)
    assert (here / path).is_symlink()
    assert untouched(here)


@pytest.mark.parametrize("path", ["ws/out.tar", "ws/dist/a.tar", "ws/deep/home/a.tar", "short/dist/a.tar"])
async def test_no_link_is_followed_where_a_run_could_write(here, path):
    """If that is known, above it neither."""
    with pytest.raises(ExportError, match="in a folder that a run can write to"):
        await export(here / path, in_workspace(here))
    assert untouched(here)


async def test_a_users_own_link_is_followed_where_nobody_else_writes(here):
    """What it leads to is replaced, and it stays."""
    await export(here / "ws/out.tar", nobody)
    assert (here / "home/key").read_bytes() == b"data"
    assert (here / "ws/out.tar").is_symlink()


@pytest.mark.parametrize(
    ("path", "known"), [("ws/dist", False), ("ws/nowhere", False), ("ws/dist", True), ("ws/dist/new", True)]
)
def test_a_folder_is_not_made_through_a_link(here, path, known):
    """At its end; and above it, if it is known that a run could have left that."""
    with pytest.raises(HostPathError), open_folder(here / path, in_workspace(here) if known else None):
        pass
    assert untouched(here)


@pytest.mark.parametrize("given", [None, nobody])
@pytest.mark.parametrize("path", ["ws/sub", "ws/new/deep", "short/new", "/"])
def test_a_folder_is_made_and_held(here, path, given):
    """With those above; what is put in its place afterwards is not written to."""
    if path == "/":
        with open_folder(here / path, given) as tree:
            assert tree.has("proc")
        return
    with open_folder(here / path, given) as tree:
        (here / path).rename(here / "moved")
        (here / path).symlink_to(here / "home")
        tree.make_folder("made")
    assert os.listdir(here / "moved") == ["made"]
    assert untouched(here)


async def test_what_is_swapped_at_the_last_moment_is_replaced(here):
    """When the archive gets its name there is a link; and its folder is another one."""
    async with open_targets([Output("tar", here / "ws/sub/a.tar")]) as targets:
        await targets["0"](b"data")
        (here / "ws/sub").rename(here / "ws/moved")
        (here / "ws/sub").symlink_to(here / "home")
        (here / "ws/moved/a.tar").symlink_to(here / "home/key")
    assert untouched(here)
    assert not (here / "ws/moved/a.tar").is_symlink()
    assert (here / "ws/moved/a.tar").read_bytes() == b"data"


async def test_a_file_in_a_pipes_place_is_not_written_to(here, monkeypatch):
    """Between the look and the opening; a pipe is written to itself."""
    real = places._is_special

    def swap(folder, name, whole):
        found = real(folder, name, whole)
        (here / "ws/pipe").unlink()
        os.link(here / "home/key", here / "ws/pipe")
        return found

    os.mkfifo(here / "ws/pipe")
    monkeypatch.setattr(places, "_is_special", swap)
    with pytest.raises(ExportError, match="in the place of"):
        await export(here / "ws/pipe")
    assert untouched(here)


async def test_devices_and_pipes_are_written_to_themselves(here):
    """As they are named; they stay what they are."""
    await export("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    os.mkfifo(here / "ws/pipe")
    got = []

    def read():
        got.append((here / "ws/pipe").read_bytes())

    async with anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, read)
        await export(here / "ws/pipe")
    assert got == [b"data"]
    assert (here / "ws/pipe").is_fifo()


@pytest.mark.parametrize("path", ["ws/missing/a.tar", "home/key/a.tar", "ws/sub"])
async def test_where_no_archive_can_be(here, path):
    """The folder must be there, and nothing is made."""
    with pytest.raises(ExportError, match=r"No such file|Not a directory|is a folder"):
        await export(here / path)
    assert untouched(here)
    assert os.listdir(here / "ws/sub") == []


async def test_two_outputs_through_a_loop_of_links_are_an_error(here):
    """Not a traceback; two names of one file are one."""
    with pytest.raises(ExportError, match="Two outputs go to"):
        async with open_targets([Output("tar", here / "ws/a"), Output("oci", here / "short/a")]):
            pass
    with pytest.raises(ExportError, match="is a link"):
        await export(here / "ws/loop")


async def test_a_build_that_fails_leaves_nothing(here):
    """Nor does one whose file another folder has taken the place of."""
    with pytest.raises(RuntimeError, match="mine"):
        async with open_targets([Output("tar", here / "ws/sub/a"), Output("oci", here / "ws/sub/b")]) as targets:
            await targets["0"](b"half")
            raise RuntimeError("mine")
    assert os.listdir(here / "ws/sub") == []
    with pytest.raises(ExportError, match="Is a directory"):
        async with open_targets([Output("tar", here / "ws/sub/a")]):
            (here / "ws/sub/a").mkdir()
    assert os.listdir(here / "ws/sub") == ["a"]
