"""What is made below a folder that is held: as it was asked for, and nowhere else, whatever is swapped meanwhile."""

from __future__ import annotations

import os
import shutil
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moat_core import host_tree
from moat_core.errors import HostPathError
from moat_core.host_tree import open_tree, write_all


@pytest.fixture
def place(tmp_path):
    """The folder; beside it lies what nobody asked for."""
    return make_place(tmp_path)


def make_place(above):
    for name in ("place", "outside/b", "outside/sub"):
        (above / name).mkdir(parents=True)
    for name in ("f", "b/f", "old"):
        (above / "outside" / name).write_text("precious")
    return above / "place"


def state(folder):
    """All that can be seen of what is in FOLDER."""
    return {
        str(path.relative_to(folder)): (
            (found := path.lstat()).st_mode, found.st_nlink, found.st_mtime_ns,
            path.read_bytes() if path.is_file() and not path.is_symlink() else b"",
        )
        for path in [folder, *folder.rglob("*")]
    }  # fmt: skip


def write(tree, path, data=b"evil"):
    file = tree.make_file(path)
    write_all(file, data)
    os.fchmod(file, 0o640)
    os.close(file)


def make_all(tree):
    """Make one of each kind, in folders that were there and that were not."""
    tree.make_folder("a")
    tree.make_folder(b"a/b", 0o700)
    write(tree, "a/b/f")
    write(tree, "a/new/deep/f")
    write(tree, "a/old")
    tree.make_link("a/b/l", "f")
    tree.stamp_link("a/b/l", 7_000_000_000)
    tree.make_name("a/b/same", b"a/b/f")
    tree.make_pipe("a/b/p", 0o600)
    file = tree.open_folder("a/b")
    os.utime(file, (7, 7))
    os.close(file)


def make_whole(tree):
    """Make it in a folder that becomes the one that was asked for; half of another one is removed."""
    with tree.scratch() as (partial, _):
        make_all(partial)
        write(partial, "left/over/f")
        assert partial.has("a")
        tree.take("a", partial)


def test_each_kind_is_made(place):
    """Whether all is in a new folder first or not; nothing else is left."""
    for number, make in enumerate((make_all, make_whole)):
        (place / str(number)).mkdir()
        with open_tree(place / str(number)) as tree:
            make(tree)
        made = place / str(number)
        assert os.listdir(made) == ["a"]
        assert (made / "a/new/deep/f").read_bytes() == (made / "a/b/f").read_bytes() == b"evil"
        assert stat.S_IMODE((made / "a/b/f").stat().st_mode) == 0o640
        assert os.readlink(made / "a/b/l") == "f"
        assert (made / "a/b/l").lstat().st_mtime == (made / "a/b").stat().st_mtime == 7
        assert (made / "a/b/same").stat().st_ino == (made / "a/b/f").stat().st_ino
        assert stat.S_ISFIFO((made / "a/b/p").stat().st_mode)


class Moments:
    """The module `os`, with something that happens before one call of it."""

    def __init__(self, number, happen):
        self.number, self.happen = number, happen

    def __getattr__(self, name):
        found = getattr(os, name)
        if name not in {"open", "mkdir", "symlink", "link", "mkfifo", "unlink", "rmdir", "rename", "stat", "utime"}:
            return found

        def call(*arguments, **options):
            self.number -= 1
            if self.number == 0:
                self.happen()
            return found(*arguments, **options)

        return call


SWAPS = ["a", "a/b", "a/b/f", "a/old", "a/new", "a/b/l", "left"]


@pytest.mark.parametrize("name", SWAPS)
@pytest.mark.parametrize("make", [make_all, make_whole])
def test_whatever_is_swapped_at_whatever_moment_nothing_is_made_elsewhere(tmp_path, monkeypatch, make, name):
    """Before each call of the system there is suddenly a link, to a folder or a file that it must not touch."""
    number = 0
    while True:
        number += 1
        place = make_place(tmp_path / str(number))
        (place / "a").mkdir()
        (place / "a/old").write_text("old")
        outside = place.parent / "outside"
        before = state(outside)
        moments = Moments(number, lambda place=place: swap(place, name))
        monkeypatch.setattr(host_tree, "os", moments)
        try:
            with open_tree(place) as tree:
                make(tree)
        except OSError:
            pass
        assert state(outside) == before
        if moments.number > 0:
            break  # that was the last
        shutil.rmtree(place.parent)
    assert number > 20


def swap(place, name):
    """Put a link where something called NAME is, or is to be."""
    for top in [place, *place.glob(".moat-*")]:
        path = top / name
        target = place.parent / "outside" / os.path.relpath(name, "a" if name.startswith("a") else "left")
        if path.is_symlink() or path.exists():
            path.rename(place.parent / f"gone{len(os.listdir(place.parent))}")
        elif not path.parent.is_dir():
            continue
        path.symlink_to(target if target.exists() else place.parent / "outside")


def test_a_file_that_another_took_the_place_of_is_not_gone_on_with(place):
    """Between its pieces: it would be the other one that is written to."""
    with open_tree(place) as tree:
        file = tree.make_file("f")
        found = os.fstat(file)
        os.close(file)
        identity = found.st_dev, found.st_ino
        os.close(tree.open_file("f", identity))
        (place / "f").rename(place / "mine")
        (place / "f").write_text("other")
        with pytest.raises(HostPathError, match="another file"):
            tree.open_file("f", identity)
        (place / "f").unlink()
        (place / "f").symlink_to("mine")
        with pytest.raises(OSError):  # noqa: PT011 - ELOOP here, another one there
            tree.open_file("f", identity)


# What is there -> what may be made in its place, with replaces and without.
IN_THE_WAY = {
    "file": {"file": (True, True), "folder": (True, False), "link": (True, True)},
    "link": {"file": (True, True), "folder": (True, False), "link": (True, True)},
    "link to a folder": {"file": (True, True), "folder": (True, False), "link": (True, True)},
    "pipe": {"file": (True, True), "folder": (True, False), "link": (True, True)},
    "empty": {"file": (True, False), "folder": (True, True), "link": (True, False)},
    "full": {"file": (False, False), "folder": (True, True), "link": (False, False)},
}


@pytest.mark.parametrize("replaces", [True, False])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
@pytest.mark.parametrize("there", IN_THE_WAY)
def test_what_is_in_the_way(place, there, kind, replaces):
    """It makes way, or it stays as it was; a link's target stays in any case."""
    way = place / "x"
    outside = place.parent / "outside"
    {
        "file": lambda: way.write_text("old"),
        "link": lambda: way.symlink_to(outside / "f"),
        "link to a folder": lambda: way.symlink_to(outside / "sub"),
        "pipe": lambda: os.mkfifo(way),
        "empty": way.mkdir,
        "full": lambda: (way / "sub").mkdir(parents=True),
    }[there]()
    before, held = state(outside), way.lstat()
    make = {
        "file": lambda tree: write(tree, "x"),
        "folder": lambda tree: tree.make_folder("x"),
        "link": lambda tree: tree.make_link("x", "y"),
    }[kind]
    with open_tree(place, replaces=replaces) as tree:
        if IN_THE_WAY[there][kind][0 if replaces else 1]:
            make(tree)
            assert {"file": way.is_file, "folder": way.is_dir, "link": way.is_symlink}[kind]()
            assert way.is_symlink() == (kind == "link")
        else:
            with pytest.raises(OSError):  # noqa: PT011 - several
                make(tree)
            assert way.lstat().st_ino == held.st_ino
    assert state(outside) == before


@pytest.mark.parametrize("path", ["x", "x/sub", "x/new/f"])
def test_a_link_above_is_an_error_that_says_what_to_do(place, path):
    """Even one of the user's, and to within."""
    (place / "real/sub").mkdir(parents=True)
    (place / "x").symlink_to("real")
    with open_tree(place) as tree:
        for make in (tree.make_folder, tree.within):
            with pytest.raises(HostPathError, match=r"place/x is a link: nothing is written through it") as caught:
                make(path)
        assert "Take the link away" in caught.value.hint
        with pytest.raises(HostPathError):
            tree.open_folder(path)
    assert os.listdir(place / "real") == ["sub"]


@pytest.mark.parametrize("path", ["", ".", "..", "/", "/a", "a/", "a//b", "a/./b", "a/..", b"a\0b", "a/../../x"])
def test_a_path_that_is_not_plain_is_refused(place, path):
    """Whatever is to be made of it."""
    with open_tree(place) as tree:
        for make in (
            tree.make_file, tree.make_folder, tree.within, tree.open_folder, lambda path: tree.make_link(path, "x"),
            lambda path: tree.make_name("x", path), lambda path: tree.make_pipe(path, 0o600),
        ):  # fmt: skip
            with pytest.raises(ValueError, match="it names"):
                make(path)
    assert os.listdir(place) == []


@pytest.mark.parametrize("depth", [1, 700])
def test_what_is_left_is_removed_however_deep_it_is(place, depth):
    """More levels than functions can call each other, or files be open; what failed is what is told."""
    with open_tree(place) as tree:
        with pytest.raises(RuntimeError, match="mine"), tree.scratch() as (partial, _):
            write(partial, "/".join("d" * depth) + "/f")
            write(partial, "d/g")
            partial.make_link("d/l", place)
            raise RuntimeError("mine")
    assert os.listdir(place) == []


def test_a_scratch_folder_that_has_gone_is_well(place):
    """Somebody has moved it away; what they put there is theirs."""
    with open_tree(place) as tree, tree.scratch() as (partial, name):
        write(partial, "f")
        (place / name).rename(place / "moved")
        (place / name).symlink_to(place.parent / "outside")
        tree.take("f", partial)
    assert (place / "f").read_bytes() == b"evil"
    assert sorted(os.listdir(place.parent / "outside")) == ["b", "f", "old", "sub"]


def test_nothing_stays_open(place):
    """Whether it was made or could not be."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        with open_tree(place) as tree:
            make_whole(tree)
            with pytest.raises(OSError), tree.within("a/b/f/x"):  # noqa: PT011 - not a folder
                pass
        shutil.rmtree(place / "a")
    assert len(os.listdir("/proc/self/fd")) == before


names = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
steps = st.one_of(
    st.tuples(st.sampled_from(["folder", "file", "pipe"]), names),
    st.tuples(st.sampled_from(["link", "name"]), names, names),
    st.tuples(st.just("theirs"), names),
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(todo=st.lists(steps, max_size=12), replaces=st.booleans())
def test_nothing_is_made_outside(tmp_path_factory, todo, replaces):
    """Whatever is made in which order, while somebody puts links to all around."""
    place = make_place(tmp_path_factory.mktemp("tree"))
    outside = place.parent / "outside"
    before = state(outside)
    with open_tree(place, replaces=replaces) as tree:
        for kind, path, *rest in todo:
            try:
                if kind == "theirs":
                    if os.path.realpath((place / path).parent) != str((place / path).parent):
                        continue  # they are not out themselves
                    (place / path).symlink_to(outside / path)
                elif kind == "file":
                    write(tree, path)
                elif kind == "pipe":
                    tree.make_pipe(path, 0o600)
                else:
                    getattr(tree, f"make_{kind}")(path, *rest)
            except OSError:
                pass
    assert state(outside) == before
