"""Where things lie under ``MOAT_HOME``, and the locks that prove who is alive.

Stdlib only, and little of it: ``moat list`` imports this and `moat_core.store.db` and nothing else of ours.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time

from moat_core.errors import StoreError
from moat_core.owners import mend, others_may_write, unsafe_way

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_LOOK_S = 0.1

__all__ = ["Home", "Lock", "default_home", "is_locked", "unusable"]


def default_home(environ: Mapping[str, str] | None = None) -> str:
    """Return ``$MOAT_HOME``, else ``moat`` in the platform's state folder (XDG base directory specification)."""
    environ = os.environ if environ is None else environ
    person = environ.get("HOME") or os.path.expanduser("~")
    if home := environ.get("MOAT_HOME"):
        return os.path.abspath(person + home[1:] if home.startswith("~/") else os.path.expanduser(home))
    if sys.platform == "darwin":
        return os.path.join(person, "Library/Application Support/moat")
    state = environ.get("XDG_STATE_HOME", "")
    # A relative value is to be ignored, says the specification.
    return os.path.join(state if os.path.isabs(state) else os.path.join(person, ".local/state"), "moat")


class Home:
    """The folder; made, with mode 0700, when something is first written."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.database = os.path.join(self.path, "moat.db")
        self.locks = os.path.join(self.path, "locks")
        self.runs = os.path.join(self.path, "runs")
        self.given = os.path.join(self.path, "given")
        self._is_checked = False

    def make(self) -> None:
        """Make the folder and its subfolders.

        Raises:
            StoreError: It cannot be made, or others may write to it.
        """
        self.check()
        try:
            for path in (self.path, self.locks, self.runs):
                os.makedirs(path, mode=0o700, exist_ok=True)
        except OSError as error:
            raise unusable(self.path, error) from error
        self.check(again=True)

    def check(self, *, again: bool = False) -> None:
        """Refuse a state folder that anybody but us (and root) may write to, or put another one in the place of.

        What it says is done on the host: what is removed, which names a run has, which config is trusted. What is not
        there passes.

        Args:
            again: Look although we have looked before.

        Raises:
            StoreError: Others may; the hint mends it.
        """
        if self._is_checked and not again:
            return
        try:
            found = unsafe_way(self.path) or _open_to_others(self.path, self.database, self.locks, self.runs)
        except OSError as error:
            raise unusable(self.path, error) from error
        if found is not None:
            raise _unsafe(self.path, *found)
        self._is_checked = True

    @property
    def owner(self) -> str:
        """Whose the things are that an engine makes for us: 16 hex digits, unlike any other home's or machine's."""
        import hashlib  # `moat list` does without

        text = f"{os.uname().nodename}\0{os.path.realpath(self.path)}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def run_folder(self, run_id: str) -> str:
        """Where a run keeps its log."""
        return os.path.join(self.runs, run_id)

    def run_lock(self, run_id: str) -> str:
        """The file whose lock the run's owner holds."""
        return os.path.join(self.locks, run_id + ".lock")


def _open_to_others(*paths: str) -> tuple[str, os.stat_result, str] | None:
    """Return the first of PATHS that others may write to, its stat, and how; ``None`` if there is none."""
    for path in paths:
        try:
            found = os.stat(path)
        except FileNotFoundError:
            continue
        if why := others_may_write(found, path, strict=True):
            return path, found, why
    return None


def _unsafe(home: str, path: str, found: os.stat_result, why: str) -> StoreError:
    is_ours = path == home or path.startswith(home + os.sep)
    what = f"The state folder {home} is not yours alone" + ("" if path == home else f", because of {path}")
    away = "Set MOAT_HOME to a folder of your own."
    return StoreError(
        f"{what}: {why[0].lower()}{why[1:]}.",
        hint="Whoever writes there decides what moat removes, and what it trusts, on this machine.\n"
        + (f"Mend it, or set MOAT_HOME to another folder:\n{mend(found, path)}" if is_ours else away),
    )


def unusable(path: str, error: OSError) -> StoreError:
    """Return the error for a state folder that cannot be used."""
    return StoreError(
        f"The state folder {path} cannot be used: {error.strerror or error}.",
        hint="Make it writable, free some disk space, or set MOAT_HOME to another folder.",
    )


class Lock:
    """A ``flock(2)`` on a file: the kernel's own proof that its holder lives, whatever becomes of pids.

    It belongs to the open file, which a forked child shares: `Lock` closes it there, or the child would keep a
    dead owner's lock alive. Across ``exec`` it is closed by O_CLOEXEC.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1

    @property
    def held(self) -> bool:
        """Whether we hold it."""
        return self.fd >= 0

    def acquire(self, *, wait: bool = False) -> bool:
        """Take the lock; return whether we have it.

        The file may be unlinked by its last holder between our open and our flock; then the lock that we got
        guards nothing, and we start again.

        Somebody who only looks (`is_locked`) holds it for some microseconds: a refusal is believed when it lasts.

        Args:
            wait: Block until it is free.

        Raises:
            StoreError: The file cannot be opened.
        """
        deadline = time.monotonic() + _LOOK_S
        while True:
            try:
                fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise unusable(os.path.dirname(self.path), error) from error
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                os.close(fd)
                if time.monotonic() > deadline:
                    return False
                time.sleep(_LOOK_S / 20)
                continue
            except BaseException:
                os.close(fd)
                raise
            if _same_file(fd, self.path):
                self.adopt(fd)
                return True
            os.close(fd)

    def adopt(self, fd: int) -> None:
        """Hold the lock through FD, inherited from whoever took it."""
        os.set_inheritable(fd, False)
        self.fd = fd
        _held.add(self)

    def release(self, *, unlink: bool = True) -> None:
        """Let go, and remove the file unless others may want it."""
        if self.fd < 0:
            return
        if unlink:
            try:
                os.unlink(self.path)
            except OSError:
                pass
        self.close()

    def close(self) -> None:
        """Close our descriptor only: another holder of the same open file keeps the lock."""
        fd, self.fd = self.fd, -1
        _held.discard(self)
        if fd >= 0:
            os.close(fd)


def is_locked(path: str) -> bool:
    """Tell whether somebody holds the lock at PATH. Nothing is made or changed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unusable(os.path.dirname(path), error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


_held: set[Lock] = set()
"""Not state of ours: what a forked child has to close, see `Lock`."""


def _close_in_child() -> None:
    for lock in tuple(_held):
        lock.close()


os.register_at_fork(after_in_child=_close_in_child)
