"""Attacks on the walk of a build's context, which a run can write to: what it tells the daemon of the host's folders."""

from __future__ import annotations

import os

import pytest
from attack import attack

from moat_plugins.buildkit.api import DiskSource
from moat_plugins.buildkit.fs import chain, follow, walk

SIZE = 4242


class ByPath(chain.Chain):
    """The walk as it was: each folder is whatever its path leads to now."""

    def __init__(self, root):
        super().__init__(root)
        self.opened = []

    def enter(self, name=b""):
        names = sorted(os.listdir(os.path.join(*self._names, name)))
        self._names += [name] if name else []
        return names

    def here(self):
        self.opened.append(os.open(os.path.join(*self._names), os.O_PATH))
        return self.opened[-1]

    def leave(self):
        self._names.pop()

    def close(self):
        for each in self.opened:
            os.close(each)


@pytest.fixture
def context(tmp_path):
    """A folder in a folder, and a victim's elsewhere with the same names and one more."""
    for place, target, size in [("context/a/b", "/mine", 1), ("victim", "/victims-target", SIZE)]:
        (tmp_path / place).mkdir(parents=True)
        for name in ("0", "f", "x"):
            (tmp_path / place / name).write_bytes(b"." * size)
        (tmp_path / place / "l").symlink_to(target)
    os.setxattr(tmp_path / "victim/x", "user.victim", b"secret")
    (tmp_path / "victim/victims-name").touch()
    return tmp_path / "context"


def swap(context, path):
    """Put a link to the victim's in the place of the folder, or of the one above it."""
    (context / path).rename(context.parent / "aside")
    there = context.parent / "victim"
    if path == "a":
        there = context.parent / "also"
        there.mkdir()
        (there / "b").symlink_to("../victim")
    (context / path).symlink_to(there)


MOMENTS = {
    "before it is listed": (b"a/b", "a/b"),
    "before it is listed, above": (b"a/b", "a"),
    "while it is walked": (b"a/b/0", "a/b"),
    "while it is walked, above": (b"a/b/0", "a"),
}


@attack("contexts", MOMENTS)
def test_a_walk_leaves_the_context(row, context, monkeypatch, *, defended):
    """By a link in a folder's place: names, sizes, targets of links or attributes of others are sent."""
    if not defended:
        monkeypatch.setattr(walk, "Chain", ByPath)
    moment, path = row
    seen = []
    for entry in DiskSource(context).walk(includes=[], excludes=[], follow=[]):
        seen.append(entry)
        if entry.path == moment:
            swap(context, path)
    return [
        entry
        for entry in seen
        if b"victim" in entry.path + entry.linkname or entry.size == SIZE or "user.victim" in entry.xattrs
    ]


@attack("contexts", ["a link", "a wildcard"])
def test_a_copys_links_are_looked_up_outside(row, context, monkeypatch, *, defended):
    """The folder of a path that a COPY names becomes a link after it was looked at, and before what is in it is."""
    name = "l" if row == "a link" else "l*"
    targets = follow._targets

    def late(folder, path, part):
        if part != name:
            return targets(folder, path, part)
        swap(context, "a/b")
        if defended:
            return targets(folder, path, part)
        folder = os.open(context / path, os.O_PATH)
        try:
            return targets(folder, path, part)
        finally:
            os.close(folder)

    monkeypatch.setattr(follow, "_targets", late)
    return "victims-target" in (follow.follow_paths(str(context), [f"a/b/{name}"]) or ())
