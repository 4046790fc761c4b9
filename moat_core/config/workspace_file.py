"""Finding and reading a workspace's ``agent.yaml``, once, as bytes that are hashed and parsed alike.

The file lies where an agent, or a stranger, has written: it may be a link out of the workspace, a FIFO, endless, or
another file a moment later. It is opened below the folder's own descriptor without following a link, looked at through
its descriptor, and never opened again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from moat_core.config.judges import is_inside
from moat_core.config.values import show
from moat_core.config.yaml_file import decode, read_limited

if TYPE_CHECKING:
    from moat_core.config.tree import Problems

__all__ = ["FILE_NAMES", "ConfigFile", "find_file", "make_file"]

FILE_NAMES = ("agent.yaml", "moat.yaml")
"""What a config file may be called; having both is an error."""

_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
# Without O_NONBLOCK a FIFO of that name would wait for a writer that never comes.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_IS_LINK = {errno.ELOOP, errno.EMLINK}
"""What O_NOFOLLOW gives for a link; open(2), and BSD's."""


@attrs.frozen
class ConfigFile:
    """A config file, as it was read.

    Args:
        name: What problems call it.
        folder: What its relative paths start from.
        text: Its content; ``None`` if that is no text, or there was none to be had.
        digest: SHA-256 of the bytes, in hex.
        workspace: Which folder it was found in: the path and the inode, so that another folder is another one.
        accepted: What of its widenings has been decided on: fingerprints of those that are to be heeded, ``None``
            where nothing has been decided yet.
    """

    name: str
    folder: Path
    text: str | None = attrs.field(repr=False)
    digest: str
    workspace: str = ""
    accepted: frozenset[str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it for the pipe to another process of ours."""
        accepted = None if self.accepted is None else sorted(self.accepted)
        return attrs.asdict(self) | {"folder": str(self.folder), "accepted": accepted}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ConfigFile:
        """Undo `to_json`."""
        accepted = None if data["accepted"] is None else frozenset(data["accepted"])
        return cls(**data | {"folder": Path(data["folder"]), "accepted": accepted})


def make_file(name: str, folder: Path, data: bytes, problems: Problems, *, workspace: str = "") -> ConfigFile:
    """Return a config file of the content DATA; what is no text is recorded."""
    return ConfigFile(name, folder, decode(data, name, problems), hashlib.sha256(data).hexdigest(), workspace)


def find_file(folder: Path, problems: Problems) -> ConfigFile | None:
    """Return the config file of the workspace FOLDER; ``None`` if it has none, or what is wrong was recorded."""
    descriptor = -1
    try:
        descriptor = os.open(folder, _FOLDER)
        return _find(descriptor, folder, problems)
    except (OSError, ValueError) as error:
        if not (isinstance(error, OSError) and error.errno in {errno.ENOENT, errno.ENOTDIR}):
            problems.add(
                FILE_NAMES[0],
                f"It cannot be looked for: {_reason(error)}.",
                "Check the folder's permissions and its path.",
            )
        return None
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _find(descriptor: int, folder: Path, problems: Problems) -> ConfigFile | None:
    found = [name for name in FILE_NAMES if _kind(descriptor, name)]
    if len(found) > 1:
        first, second = FILE_NAMES
        problems.add(second, f"There is {first} as well as {second}.", f"Keep {first} and remove {second}.")
    if not found:
        return None
    name = found[0]
    try:
        data = _read(descriptor, folder, name, problems)
    except OSError as error:
        problems.add(name, f"It cannot be read: {_reason(error)}.", "Check its permissions and its path.")
        return None
    if data is None:
        return None
    workspace = f"{os.fstat(descriptor).st_ino}:{os.path.realpath(folder)}"
    return make_file(name, folder, data, problems, workspace=workspace)


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else str(error)) or "unknown error"


def _kind(descriptor: int, name: str) -> int:
    """Return the type of a file of the folder, 0 if it is not there."""
    try:
        return stat.S_IFMT(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return 0


def _read(descriptor: int, folder: Path, name: str, problems: Problems) -> bytes | None:
    kind = _kind(descriptor, name)
    # Looked at before it is opened, too: opening a device can do something.
    if kind not in {stat.S_IFREG, stat.S_IFLNK}:
        _refuse(name, problems)
        return None
    try:
        file = os.open(name, _FILE, dir_fd=descriptor)
    except OSError as error:
        if error.errno not in _IS_LINK:
            raise
        file = _open_link(descriptor, folder, name, problems)
        if file < 0:
            return None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            _refuse(name, problems)
            return None
        return read_limited(file, name, problems)
    finally:
        os.close(file)


def _refuse(name: str, problems: Problems) -> None:
    problems.add(name, "It is not a regular file.", "Make it a YAML file, or remove it.")


def _open_link(descriptor: int, folder: Path, name: str, problems: Problems) -> int:
    """Open what the link NAME leads to, if that is in the workspace; -1 if what is wrong was recorded."""
    try:
        real = os.path.realpath(folder / name, strict=True)
    except FileNotFoundError:
        problems.add(name, "It is a link to a file that does not exist.", "Mend or remove the link.")
        return -1
    if not is_inside(real, folder):
        problems.add(
            name,
            f"It is a link that leads out of the workspace, to {show(real)}.",
            f"Put a file in its place, or name that file yourself: moat run --config {real}",
        )
        return -1
    # Each step from the folder itself and without links: none is left in a resolved path, unless it was just put there.
    *parts, last = Path(real).relative_to(os.path.realpath(folder)).parts
    here = os.dup(descriptor)
    try:
        for part in parts:
            below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        return os.open(last, _FILE, dir_fd=here)
    finally:
        os.close(here)
