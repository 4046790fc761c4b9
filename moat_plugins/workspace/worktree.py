"""A git worktree's main repository, which must be there for git to work, and is outside the workspace.

The workspace may have been written by an earlier, hostile run, so its ``.git`` file is no reason to mount
anything. What counts is the way back: the repository itself must name this workspace as one of its worktrees,
in a place that a run which sees only the workspace cannot write to. Formats: gitrepository-layout(5).
"""

from __future__ import annotations

import os
import posixpath
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from moat_core.config import WORKSPACE, show

if TYPE_CHECKING:
    from typing import Final

__all__ = ["Refusal", "Repository", "find_repository"]

_MOST_BYTES: Final = 4096 + 16
"""A path and the word before it."""
_SYSTEM = ("proc", "sys", "dev")


@attrs.frozen
class Repository:
    """A main repository to mount: SOURCE on the host, at TARGET in the container, where git looks for it."""

    source: str
    target: str


@attrs.frozen
class Refusal:
    """Why a repository is not mounted."""

    reason: str
    hint: str = "Copy the repository into the workspace, or run in the main checkout."


def find_repository(workspace: Path) -> Repository | Refusal | None:
    """Return the repository that WORKSPACE is a worktree of; ``None`` if it is none.

    Args:
        workspace: Absolute path of an existing folder.
    """
    text = _read(workspace / ".git")
    if text is None or not text.startswith("gitdir:"):
        return None  # no repository, or a main checkout, whose .git is a folder
    link = text.removeprefix("gitdir:").strip()
    root = Path(os.path.realpath(workspace))
    private = Path(os.path.realpath(root / link))
    if root == private or root in private.parents:
        return None  # all of it is in the workspace already
    common = private.parent.parent
    target = posixpath.dirname(posixpath.dirname(posixpath.normpath(posixpath.join(WORKSPACE, link))))
    why_not = _why_not(private, common, root, target)
    return Refusal(f"its .git leads to {show(private)}; {why_not}.") if why_not else Repository(str(common), target)


def _why_not(private: Path, common: Path, root: Path, target: str) -> str:
    """Return why the repository COMMON is not mounted, ``""`` if nothing speaks against it."""
    if private.parent.name != "worktrees":
        return "that is outside the workspace, and no worktree's"
    if not _leads_back(private, common, root):
        return "that does not name this folder as its worktree"
    if not _is_repository(common) or any(_is_below_repository(above) for above in common.parents):
        return "there is no git repository"
    if target.strip("/").split("/")[0] in {"", *_SYSTEM}:
        return "a container has no room for it there"
    return ""


def _leads_back(private: Path, common: Path, root: Path) -> bool:
    """Whether the worktree's PRIVATE folder belongs to COMMON and says that its checkout is ROOT."""
    checkout, commondir = _read(private / "gitdir"), _read(private / "commondir")
    if checkout is None or commondir is None:
        return False
    dot_git = Path(os.path.normpath(private / checkout.strip()))
    return (
        dot_git.name == ".git"
        and os.path.realpath(dot_git.parent) == str(root)
        and os.path.realpath(private / commondir.strip()) == str(common)
    )


def _is_repository(folder: Path) -> bool:
    """Whether FOLDER is a git directory, by git's own test (setup.c, is_git_directory)."""
    return (folder / "HEAD").is_file() and (folder / "objects").is_dir() and (folder / "refs").is_dir()


def _is_below_repository(above: Path) -> bool:
    """Whether things in ABOVE may be a run's work: one that was given it cannot change its name."""
    return above.name.endswith(".git") or _is_repository(above)


def _read(path: Path) -> str | None:
    """Return a small regular file's text; ``None`` for everything else, a FIFO that would block included."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (OSError, ValueError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        data = os.read(descriptor, _MOST_BYTES)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None if b"\0" in data else os.fsdecode(data)
