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
from moat_core.errors import HostPathError
from moat_core.host_path import HeldPath, HostPath, hold, nobody, resolve

if TYPE_CHECKING:
    from typing import Final

    from moat_core.host_path import IsShared

__all__ = ["Refusal", "Repository", "find_repository"]

_MOST_BYTES: Final = 4096 + 16
"""A path and the word before it."""
_SYSTEM = ("proc", "sys", "dev")


@attrs.frozen
class Repository:
    """A main repository to mount: SOURCE on the host, at TARGET in the container, where git looks for it."""

    source: HostPath
    target: str


@attrs.frozen
class Refusal:
    """Why a repository is not mounted."""

    reason: str
    hint: str = "Copy the repository into the workspace, or run in the main checkout."


def find_repository(workspace: Path, is_shared: IsShared = nobody) -> Repository | Refusal | None:
    """Return the repository that WORKSPACE is a worktree of; ``None`` if it is none.

    Args:
        workspace: Absolute path of an existing folder.
        is_shared: Tells what runs can write to: another worktree's run the repository, for one. No link is followed
            there, and what is judged is what is held, whatever its path leads to meanwhile.
    """
    with hold(workspace, is_shared) as root:
        text = _read(".git", root.fd)
        if text is None or not text.startswith("gitdir:"):
            return None  # no repository, or a main checkout, whose .git is a folder
        link = text.removeprefix("gitdir:").strip()
        leads_to = os.path.normpath(os.path.join(root.path, link))
        if _is_within(leads_to, root.path):
            return None  # all of it is in the workspace already
        target = posixpath.dirname(posixpath.dirname(posixpath.normpath(posixpath.join(WORKSPACE, link))))
        try:
            found = _judge(leads_to, root, target, is_shared)
        except HostPathError as error:
            found = error.message.rstrip(".")
        except (OSError, ValueError):
            found = "that is not there"
    if isinstance(found, str):
        return Refusal(f"its .git leads to {show(leads_to)}; {found}.")
    return Repository(found, target) if found is not None else None


def _judge(leads_to: str, root: HeldPath, target: str, is_shared: IsShared) -> HostPath | str | None:
    """Return the repository to which the worktree's private folder LEADS_TO belongs, or why it is not mounted."""
    with hold(leads_to, is_shared) as private:
        path = Path(private.path)
        if _is_within(private.path, root.path):
            return None
        if path.parent.name != "worktrees":
            return "that is outside the workspace, and no worktree's"
        with hold(path.parent.parent, is_shared, follow=False) as common:
            why_not = _why_not(private, common, root, target)
            return why_not or HostPath(common.path, common.status, common.shared)


def _why_not(private: HeldPath, common: HeldPath, root: HeldPath, target: str) -> str:
    """Return why the repository COMMON is not mounted, ``""`` if nothing speaks against it."""
    if not _belongs(private, common) or not _leads_back(private, common, root):
        return "that does not name this folder as its worktree"
    if not _is_repository(common.path) or any(_is_below_repository(above) for above in Path(common.path).parents):
        return "there is no git repository"
    if target.strip("/").split("/")[0] in {"", *_SYSTEM}:
        return "a container has no room for it there"
    return ""


def _belongs(private: HeldPath, common: HeldPath) -> bool:
    """Whether PRIVATE is what COMMON has under its name: both were looked up by path, one after the other."""
    with hold(private.path, follow=False) as again:
        name = Path(private.path).name
        status = os.stat(f"worktrees/{name}", dir_fd=common.fd, follow_symlinks=False)
        return private.identity == again.identity == (status.st_dev, status.st_ino)


def _leads_back(private: HeldPath, common: HeldPath, root: HeldPath) -> bool:
    """Whether the worktree's PRIVATE folder belongs to COMMON and says that its checkout is ROOT."""
    checkout, commondir = _read("gitdir", private.fd), _read("commondir", private.fd)
    if checkout is None or commondir is None:
        return False
    dot_git = Path(os.path.normpath(os.path.join(private.path, checkout.strip())))
    return (
        dot_git.name == ".git"
        and _identity(str(dot_git.parent)) == root.identity
        and _identity(os.path.normpath(os.path.join(private.path, commondir.strip()))) == common.identity
    )


def _identity(path: str) -> tuple[int, int] | None:
    """Return whom PATH names, links followed: it is only compared, and with something held."""
    try:
        return resolve(path).identity
    except (OSError, ValueError):
        return None


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _is_repository(path: str | Path) -> bool:
    """Whether PATH is a git directory, by git's own test (setup.c, is_git_directory)."""
    folder = Path(path)
    return (folder / "HEAD").is_file() and (folder / "objects").is_dir() and (folder / "refs").is_dir()


def _is_below_repository(above: Path) -> bool:
    """Whether things in ABOVE may be a run's work: one that was given it cannot change its name."""
    return above.name.endswith(".git") or _is_repository(above)


def _read(name: str, folder: int) -> str | None:
    """Return a small regular file's text; ``None`` for everything else, a FIFO that would block included."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
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
