"""``followpaths``: the paths that a COPY names, with what their symbolic links lead to, as patterns to include.

Each path is gone through component by component inside the root. A link adds itself and its target, which is looked
up inside the root, too, wherever it points; a wildcard stands for the entries that match it. Source: fsutil's
followlinks.go.
"""

from __future__ import annotations

import fnmatch
import os
import posixpath
import stat
from collections.abc import Iterable

__all__ = ["follow_paths"]

_WILDCARDS = frozenset("*?[")
_DEEPEST = 255


def follow_paths(root: str, paths: Iterable[str]) -> list[str] | None:
    """Return the patterns for PATHS, sorted; ``None`` if everything is included. A missing path matches nothing."""
    found: set[str] = set()
    seen: set[str] = set()
    for path in paths:
        _follow(root, posixpath.normpath("/" + path).lstrip("/"), found, seen, 0)
    return None if "." in found or "" in found else sorted(found)


def _follow(root: str, path: str, found: set[str], seen: set[str], depth: int) -> None:
    if path in seen or depth > _DEEPEST:
        return
    seen.add(path)
    if path in {"", "."}:
        found.add(".")
        return
    done = ""
    parts = path.split("/")
    for number, part in enumerate(parts):
        rest = "/".join(parts[number + 1 :])
        if _WILDCARDS & set(part):
            for name in _matching(root, done, part):
                _follow(root, posixpath.join(done, name, rest).rstrip("/"), found, seen, depth + 1)
            break
        done = posixpath.join(done, part)
        target = _target(root, done)
        if target is not None:
            found.add(done)
            _follow(root, posixpath.join(target, rest).rstrip("/"), found, seen, depth + 1)
            return
    found.add(path)


def _matching(root: str, folder: str, pattern: str) -> list[str]:
    try:
        names = os.listdir(os.path.join(root, folder))
    except OSError:
        return []
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def _target(root: str, path: str) -> str | None:
    """Return where a link leads, inside the root; ``None`` if it is no link."""
    try:
        if not stat.S_ISLNK(os.lstat(os.path.join(root, path)).st_mode):
            return None
        target = os.readlink(os.path.join(root, path))
    except OSError:
        return None
    if not target.startswith("/"):
        target = posixpath.join("/", posixpath.dirname(path), target)
    return posixpath.normpath(target).lstrip("/")
