"""``followpaths``: the paths that a COPY names, with what their symbolic links lead to, as patterns to include.

Each path is gone through component by component inside the root, from descriptor to descriptor: what becomes a link
meanwhile does not lead out. A link adds itself and its target, which is looked
up inside the root, too, wherever it points. A component with wildcards is kept as it is; those links that it matches
are followed, and what is behind a folder with wildcards is not. Source: fsutil's followlinks.go.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable

from moat_plugins.buildkit.fs.glob import clean, compile_glob, has_wildcards

__all__ = ["follow_paths"]

_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


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
    folder = os.open(root, _FOLDER)
    try:
        for number, name in enumerate(parts, 1):
            targets = _targets(folder, "/".join(parts[: number - 1]), name)
            if targets:
                here, rest = "/".join(parts[:number]), "/".join(parts[number:])
                if here in found:
                    return []
                found.add(here)
                return [_inside(posixpath.join(target, rest)) for target in targets]
            try:
                below = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            except OSError:
                break  # nothing is below it, or it is a link by now
            os.close(folder)
            folder = below
    finally:
        os.close(folder)
    found.add(path)
    return []


def _targets(folder: int, path: str, name: str) -> list[str]:
    """Return where the link NAME in FOLDER, whose path is PATH, leads, or the links that it matches."""
    if not has_wildcards(name):
        return _target(folder, path, name)
    try:
        names, glob = _list(folder), compile_glob(name)
    except (OSError, ValueError):
        return []
    matching = sorted(each for each in names if glob.fullmatch(each))
    return [target for each in matching for target in _target(folder, path, each)]


def _list(folder: int) -> list[str]:
    listed = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.listdir(listed)
    finally:
        os.close(listed)


def _target(folder: int, path: str, name: str) -> list[str]:
    try:
        target = os.readlink(name, dir_fd=folder)
    except OSError:
        return []  # no link, or gone
    return [target if target.startswith("/") else posixpath.join("/", path, target)]
