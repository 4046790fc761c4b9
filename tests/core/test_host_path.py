"""From a path to the thing itself: whose links are followed, where, and what is held."""

from __future__ import annotations

import os
import stat

import pytest

from moat_core.errors import HostPathError
from moat_core.host_path import hold, open_below, place_of, read_mounts, resolve


@pytest.fixture
def tree(tmp_path):
    """A user's folder and a link of theirs to it, a run's folder below, and a secret that no run may see."""
    for name in ("data/project/sub", "secret", "home"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "secret/key").write_text("key")
    (tmp_path / "home/project").symlink_to(tmp_path / "data/project")
    return tmp_path


def shared(*folders):
    """What tells that runs can write to FOLDERS."""
    known = {(os.stat(folder).st_dev, os.stat(folder).st_ino) for folder in folders}
    return lambda identity, path: identity in known


def test_links_of_the_user_are_followed(tree):
    """Absolute ones, relative ones, with dots in them, one behind another; what comes out has none."""
    (tree / "home/again").symlink_to("../home/./../home/project")
    for path in ("home/project/sub", "home/again/sub", "data/project/sub"):
        found = resolve(tree / path, shared(tree / "data/project"))
        assert found.path == str(tree / "data/project/sub")
        assert found.identity == ((status := os.stat(tree / "data/project/sub")).st_dev, status.st_ino)
        assert found.shared == str(tree / "data/project")
    assert resolve(tree / "home/project").shared == ""


LINKS = ["/", "../../secret", "{tree}/secret", "sub/../../../secret", ".", "other", "sub"]


@pytest.mark.parametrize("target", LINKS)
@pytest.mark.parametrize("below", ["link", "link/sub", "sub/link", "sub/link/key"])
def test_no_link_is_followed_where_a_run_can_write(tree, target, below):
    """Wherever it leads, even to within: who judges that looks at a name again."""
    project = tree / "data/project"
    (project / "other").symlink_to(tree / "secret")
    where = project / below.partition("link")[0] / "link"
    where.symlink_to(target.format(tree=tree))
    with pytest.raises(HostPathError) as caught:
        resolve(project / below, shared(project))
    assert "a run can write" in str(caught.value)
    assert caught.value.hint


def test_dots_do_not_lead_up_where_a_run_can_write(tree):
    """A folder that a run moves has another one above it than the path says."""
    with pytest.raises(HostPathError):
        resolve(f"{tree}/data/project/sub/../../../secret", shared(tree / "data/project"))


def test_the_folder_itself_may_be_a_link_of_the_users(tree):
    """A run can change what is in its folder, not what leads to it."""
    assert resolve(tree / "home/project", shared(tree / "data/project")).path == str(tree / "data/project")


def test_what_was_resolved_must_not_have_become_a_link(tree):
    """The second time no link at all is followed."""
    with pytest.raises(HostPathError, match="is a link now"):
        hold(tree / "home/project", follow=False)


@pytest.mark.parametrize(("mode", "refused"), [(0o1777, True), (0o777, True), (0o755, False), (0o775, False)])
def test_links_of_others_are_not_followed_where_everybody_writes(tree, mode, refused):
    """As the kernel's protected_symlinks, but without the sticky bit, too."""
    (tree / "home").chmod(mode)
    os.lchown(tree / "home/project", 1234, 1234)
    if refused:
        with pytest.raises(HostPathError, match="another user"):
            resolve(tree / "home/project")
    else:
        assert resolve(tree / "home/project").path == str(tree / "data/project")


def test_ones_own_links_are_followed_there(tree):
    """And those of the folder's owner."""
    (tree / "home").chmod(0o1777)
    assert resolve(tree / "home/project").path == str(tree / "data/project")
    os.chown(tree / "home", 1234, 1234)
    os.lchown(tree / "home/project", 1234, 1234)
    assert resolve(tree / "home/project").path == str(tree / "data/project")


@pytest.mark.parametrize(
    ("path", "kind"), [("no", FileNotFoundError), ("secret/key/x", NotADirectoryError), ("loop", OSError)]
)
def test_what_is_not_there_is_said_as_stat_does(tree, path, kind):
    """And leaves no descriptor behind."""
    (tree / "loop").symlink_to("loop")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(kind):
        resolve(tree / path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_held_stays_itself(tree):
    """It is moved and another is put there: the descriptor, and its inode, are the first one's. No child inherits it."""
    with hold(tree / "data/project") as held:
        os.rename(tree / "data/project", tree / "data/gone")
        (tree / "data/project").mkdir()
        assert os.readlink(f"/proc/self/fd/{held.fd}") == str(tree / "data/gone")
        assert held.identity != resolve(tree / "data/project").identity
        assert not os.get_inheritable(held.fd)
        fd = held.fd
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    held.close()


def test_files_and_sockets_and_odd_names_are_held(tree):
    """A FIFO does not block; blanks, newlines and bytes that are no text are names like others."""
    os.mkfifo(tree / "fifo")
    assert stat.S_ISFIFO(resolve(tree / "fifo").status.st_mode)
    assert not resolve(tree / "secret/key").is_folder
    for name in (b"a b\n\t\\c", b"\xff\xfe", "ä".encode()):
        path = os.path.join(os.fsencode(tree), name)
        os.mkdir(path)
        with hold(os.fsdecode(path)) as held:
            assert os.fsencode(held.path) == path
            assert (place_of(held.fd) or ("", ""))[1].endswith(os.fsdecode(name))


def test_its_place_is_the_words_of_mountinfo(tree):
    """Those of the root of a mount are in the list itself."""
    with hold("/proc") as held:
        device, root, point = next(mount[1:] for mount in reversed(read_mounts("self")) if mount[3] == "/proc")
        assert place_of(held.fd) == (device, root)
        assert point == "/proc"


def test_below_a_folder_links_lead_nowhere_else(tree):
    """Out of it is an error; as a root, what is absolute means the folder itself."""
    (tree / "data/out").symlink_to(tree / "secret")
    (tree / "data/in").symlink_to("project/sub")
    folder = os.open(tree / "data", os.O_PATH)
    try:
        there = open_below(folder, "/in")
        assert os.readlink(f"/proc/self/fd/{there}") == str(tree / "data/project/sub")
        os.close(there)
        for path in ("out", "..", "project/../.."):
            with pytest.raises(OSError, match="cross-device"):
                open_below(folder, path)
        with pytest.raises(FileNotFoundError):
            open_below(folder, "out", as_root=True)
    finally:
        os.close(folder)


def test_what_is_held_has_a_place_that_leads_to_it(tree):
    """Whatever becomes of the path."""
    with hold(tree / "secret") as held:
        (tree / "secret").rename(tree / "moved")
        (tree / "secret").mkdir()
        assert os.listdir(held.place) == ["key"]
