"""``followpaths``: the paths that a COPY names, with what their symbolic links lead to, as patterns to include.

Each path is gone through component by component inside the root. A link adds itself and its target, which is looked
up inside the root, too, wherever it points. A component with wildcards is kept as it is; those links that it matches
are followed, and what is behind a folder with wildcards is not. Source: fsutil's followlinks.go.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable

from moat_plugins.buildkit.fs.glob import clean, compile_glob, has_wildcards

__all__ = ["follow_paths"]


def follow_paths(root: str, paths: Iterable[str]) -> list[str] | None:
    """Return the patterns for PATHS, sorted; ``None`` if everything is included. A missing path matches nothing."""
    found: set[str] = set()
    left = [_inside(path) for path in paths]
    while left:
        left += _follow(root, left.pop(), found)
    if "." in found:
        return None
    kept: list[str] = []
    for path in sorted(found):
        if not kept or not path.startswith(kept[-1] + "/"):
            kept.append(path)
    return kept


def _inside(path: str) -> str:
    """Return PATH from the root, wherever it points."""
    return clean("/" + path).lstrip("/") or "."


def _follow(root: str, path: str, found: set[str]) -> list[str]:
    """Add PATH as far as its first link to FOUND, and return where that leads."""
    parts = path.split("/")
    for number in range(1, len(parts) + 1):
        here, rest = "/".join(parts[:number]), "/".join(parts[number:])
        targets = _targets(root, here)
        if targets:
            if here in found:
                return []
            found.add(here)
            return [_inside(posixpath.join(target, rest)) for target in targets]
    found.add(path)
    return []


def _targets(root: str, path: str) -> list[str]:
    """Return where the link PATH leads, or the links that it matches."""
    folder, name = posixpath.split(path)
    if not has_wildcards(name):
        return _target(root, path)
    try:
        names, glob = os.listdir(os.path.join(root, folder)), compile_glob(name)
    except (OSError, ValueError):
        return []
    matching = sorted(each for each in names if glob.fullmatch(each))
    return [target for each in matching for target in _target(root, posixpath.join(folder, each))]


def _target(root: str, path: str) -> list[str]:
    try:
        if not stat.S_ISLNK(os.lstat(os.path.join(root, path)).st_mode):
            return []
        target = os.readlink(os.path.join(root, path))
    except OSError:
        return []
    return [target if target.startswith("/") else posixpath.join("/", posixpath.dirname(path), target)]
