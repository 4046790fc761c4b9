"""Attacks by patterns: a ``.dockerignore`` or a COPY of a hostile repository, judged by how our time grows with them."""

from __future__ import annotations

import time

from attack import attack
from backtracking import old_glob, old_pattern

from moat_plugins.buildkit.fs import follow, patterns

MORE = 4
"""So much longer for a little more is no proportion."""


def ignore(pattern, name):
    """Return what a walk does with a file that the pattern does not match."""
    return lambda _: patterns.Patterns([pattern]).match(name)


def copy(pattern, name):
    """Return what a COPY of the pattern does in a folder that has one such file."""

    def run(folder):
        (folder / name).touch()
        return follow.follow_paths(str(folder), [pattern])

    return run


# Each is made in two sizes, of which one is a little larger.
FREEZES = {
    "folders in a .dockerignore": lambda size: ignore("**/" * (size + 4) + "z?", "a/" * (size + 4) + "zaa"),
    "stars in a .dockerignore": lambda size: ignore("*a" * size + "z", "a" * size * 3 + "za"),
    "folders and stars": lambda size: ignore("**/a*" * size + "z", "a/" * size * 2 + "za"),
    "what may be a slash": lambda size: ignore("*[^b]" * size + "z", "a" * size * 3 + "za"),
    "counts": lambda size: ignore("a{0,9}" * size + "?z", "a" * size * 3 + "za"),
    "stars in a COPY": lambda size: copy("*a" * size + "z", "a" * size * 3 + "za"),
}


def seconds(run, folder):
    """The least of some: what else the machine does is not ours."""
    found = []
    for _ in range(3):
        started = time.thread_time()
        run(folder)
        found.append(time.thread_time() - started)
    return min(found)


@attack("patterns", FREEZES)
def test_the_owner_is_frozen(row, tmp_path, monkeypatch, *, defended):
    """A pattern a little longer takes many times as long, and no other thread runs meanwhile: its watchdog neither."""
    if not defended:
        monkeypatch.setattr(patterns, "compile_pattern", old_pattern)
        monkeypatch.setattr(follow, "compile_glob", old_glob)
    once, again = (seconds(row(size), tmp_path) for size in (6, 8))
    return again > MORE * max(once, 0.0005) and f"{once:.4f} s, then {again:.4f} s"
