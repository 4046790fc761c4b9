"""Ignore patterns and the walk, case by case; that both agree with the docker command is tested on the engine."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moat_plugins.buildkit.api import DiskSource, MemorySource
from moat_plugins.buildkit.fs.follow import follow_paths
from moat_plugins.buildkit.fs.patterns import Patterns


def matches(patterns, path):
    """As a walk asks: from the top down."""
    rules, state, result = Patterns(patterns), (), False
    parts = path.split("/")
    for number in range(1, len(parts) + 1):
        result, state = rules.match("/".join(parts[:number]), state)
    return result


# moby's patternmatcher tests are the source of most of these.
@pytest.mark.parametrize(
    ("patterns", "path", "wanted"),
    [
        (["**"], "file", True), (["**"], "dir/file", True), (["**/"], "file", True), (["**/**"], "dir/file", True),
        (["dir/**"], "dir/file", True), (["dir/**"], "dir/dir2/file", True), (["dir/**"], "dirx", False),
        (["**/dir2/*"], "dir/dir2/file", True), (["**/dir2/*"], "dir/dir2/dir2/file", True),
        (["**file"], "file", True), (["**file"], "dir/file", True), (["**/file"], "dir/file", True),
        (["**file"], "dir/file.txt", False), (["**/file*"], "dir/file.txt", True), (["**/file*txt"], "dir/dir/file.txt", True),
        (["**/file*.txt*"], "dir/dir/file.txt", True), (["**/**/*.txt"], "dir/dir/file.txt", True),
        (["**/**/*.txt2"], "dir/dir/file.txt", False), (["**/*.txt"], "file.txt", True), (["a**/*.txt"], "a/file.txt", True),
        (["a**/*.txt"], "a/dir/file.txt", True), (["a/*.txt"], "a/dir/file.txt", False), (["a/*.txt**"], "a/file.txt", True),
        (["a[b-d]e"], "ae", False), (["a[b-d]e"], "ace", True), (["a[^b-d]e"], "aze", True), (["a[^b-d]e"], "ace", False),
        (["a[!b]"], "ab", True), (["a[!b]"], "a!", True), ([".*"], ".foo", True), ([".*"], "foo", False),
        (["abc.def"], "abcdef", False), (["abc?def"], "abcZdef", True), (["a\\*b"], "a*b", True), (["a\\*b"], "axb", False),
        (["a\\\\"], "a\\", True), (["**/foo/bar"], "foo/bar", True), (["abc/**"], "abc/def/ghi", True), (["**/.foo"], "bar/.foo", True),
        (["**/.foo"], "bar.foo", False), (["./bar.*"], "bar.txt", True), (["a(b)c/def"], "a(b)c/def", True), (["a.|)$(}+{bc"], "a.|)$(}+{bc", True),
        (["*", "!README*"], "README.md", False), (["*", "!README*", "README-secret*"], "README-secret.md", True),
        (["docs", "!docs/README"], "docs/README", False), (["docs", "!docs/README"], "docs/x", True), (["!a", "a"], "a", True),
        (["/a"], "a", False), (["a/"], "a/b", True), (["a/../b"], "b", True), (["  a  "], "a", True), (["ä?"], "äö", True),
        (["dir"], "dirx", False), (["dir"], "x/dir", False), (["?"], "/", False), (["a*"], "a/b", True),
    ],
)  # fmt: skip
def test_patterns(patterns, path, wanted):
    """Each by moby's rules."""
    assert matches(patterns, path) is wanted


@pytest.mark.parametrize("pattern", ["!", "! ", "a[", "a\\", "[]a"])
def test_malformed_patterns_are_told(pattern):
    """They are errors, not things that match nothing."""
    with pytest.raises(ValueError, match=r"pattern|exclusion"):
        Patterns([pattern])


def tree(tmp_path, *paths):
    """Make files (and folders, whose names end in a slash)."""
    for path in paths:
        place = tmp_path / path
        (place if path.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
        if not path.endswith("/"):
            place.write_text(path)
    return tmp_path


def paths(source, includes=(), excludes=(), follow=()):
    return [entry.path.decode() for entry in source.walk(includes=includes, excludes=excludes, follow=follow)]


def test_order_is_depth_first_and_by_bytes(tmp_path):
    """A folder, what is in it, then the next; ``a.txt`` after ``a/x``."""
    source = DiskSource(tree(tmp_path, "a/x", "a.txt", "A", "a-b", "b/", "ä"))
    assert paths(source) == ["A", "a", "a/x", "a-b", "a.txt", "b", "ä"]


def test_parents_of_what_is_kept_are_sent_late(tmp_path):
    """Just before it, and only then, though they were left out themselves."""
    source = DiskSource(tree(tmp_path, "a/b/keep", "a/b/x", "c/d/x", "z"))
    assert paths(source, excludes=["*", "!a/b/keep"]) == ["a", "a/b", "a/b/keep"]
    assert paths(source, includes=["c/d/x"]) == ["c", "c/d", "c/d/x"]
    assert paths(source, includes=["**/x"], excludes=["c"]) == ["a", "a/b", "a/b/x"]
    assert paths(source, follow=["a/b/k*", "nowhere"]) == ["a", "a/b", "a/b/keep"]
    assert paths(source, follow=["nowhere"]) == []


def test_names_of_one_file(tmp_path):
    """The first that is sent is the file; later ones name it."""
    tree(tmp_path, "b")
    for name in ("a", "c", "d"):
        os.link(tmp_path / "b", tmp_path / name)
    entries = list(DiskSource(tmp_path).walk(includes=[], excludes=["a"], follow=[]))
    assert [(entry.path, entry.linkname) for entry in entries] == [(b"b", b""), (b"c", b"b"), (b"d", b"b")]


def test_links_are_followed_inside_the_root_only(tmp_path):
    """Wherever they point; cycles end."""
    tree(tmp_path, "etc/passwd", "dir/f")
    (tmp_path / "out").symlink_to("../../../../etc/passwd")
    (tmp_path / "abs").symlink_to("/dir")
    (tmp_path / "x").symlink_to("y")
    (tmp_path / "y").symlink_to("x")
    assert follow_paths(str(tmp_path), ["out"]) == ["etc/passwd", "out"]
    assert follow_paths(str(tmp_path), ["abs/f"]) == ["abs", "dir/f"]
    assert follow_paths(str(tmp_path), ["x"]) == ["x", "y"]
    assert follow_paths(str(tmp_path), ["a*"]) == ["a*", "dir"]
    assert follow_paths(str(tmp_path), ["."]) is None


def test_a_file_that_became_something_else_does_not_block(tmp_path):
    """A link is not followed, a pipe is not waited for."""
    tree(tmp_path, "secret")
    source = DiskSource(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("secret")
    with source.open(b"pipe") as pipe, source.open(b"link") as link:
        assert pipe.read(10) in (b"", None)
        assert link.read(10) == b""


NAMES = st.text(st.sampled_from("ab.-ä"), min_size=1, max_size=3).filter(lambda name: name not in {".", ".."})
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@given(st.dictionaries(PATHS, st.binary(max_size=3), max_size=8), st.lists(PATHS, max_size=3))
def test_memory_is_walked_like_a_disk(files, excludes):
    """Sorted, depth first, parents first, nothing that is excluded; another content is another key."""
    files = {path: data for path, data in files.items() if not any(other.startswith(path + "/") for other in files)}
    sent = paths(MemorySource(files), excludes=excludes)
    assert [path for path in sent if path in files] == [
        path for path in sorted(files, key=lambda each: [part.encode() for part in each.split("/")])
        if not matches(excludes, path)
    ]  # fmt: skip
    for number, path in enumerate(sent):
        parent = path.rpartition("/")[0]
        assert not parent or parent in sent[:number]
    keys = {MemorySource({**files, "another": bytes([value])}).shared_key for value in range(3)}
    assert len(keys) == 3


@pytest.fixture
def nest(tmp_path):
    """Three thousand folders in each other, with a file that comes after each: its path is longer than any may be."""
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("d", dir_fd=here)
        there = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(os.open("z", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        os.close(here)
        here = there
    os.close(here)
    yield tmp_path
    subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # Python's own goes no deeper than functions can


DEPTH = 3000


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))


def test_a_deep_nest_needs_few_descriptors(nest):
    """However deep it is; and all are given back, when the walk is at its end and when it is left."""
    before = descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        sent = paths(DiskSource(nest))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    down = ["/".join("d" * number) for number in range(1, DEPTH + 1)]
    assert sent == [*down, *(path[:-1] + "z" for path in reversed(down))]
    assert descriptors() == before
    entries = iter(DiskSource(nest).walk(includes=[], excludes=[], follow=[]))
    assert [next(entries).path for _ in range(50)][-1].count(b"d") == 50
    assert len(descriptors()) > len(before)
    entries.close()
    assert descriptors() == before


@pytest.mark.parametrize("replaced", [1, 20, 60, 150])
def test_a_folder_that_is_opened_again_is_the_one_it_was(tmp_path, replaced):
    """Another one in its place, or in that of one above, is not gone into; what is above it is sent on."""
    names = ["d"] * 100
    (tmp_path / "/".join(names)).mkdir(parents=True)
    for number in range(100):
        (tmp_path / "/".join(names[:number]) / "z").touch()
    (tmp_path / "/".join(names) / "last").touch()
    sent = []
    for entry in DiskSource(tmp_path).walk(includes=[], excludes=[], follow=[]):
        sent.append(entry.path.decode())
        if sent[-1].endswith("last") and replaced < 100:
            there = tmp_path / "/".join(names[:replaced])
            there.rename(tmp_path.parent / f"{tmp_path.name}-aside")
            shutil.copytree(tmp_path.parent / f"{tmp_path.name}-aside", there)
    files = [path.count("/") for path in sent if path.endswith("z")]
    # Of those in the folders that were replaced, the innermost 32 were held.
    gone = set(range(replaced, 101 - 32))
    assert files == [number for number in reversed(range(100)) if number not in gone]
