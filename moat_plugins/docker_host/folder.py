"""The private folder of a run that its container is given: the guard's socket in it, or the certificates."""

from __future__ import annotations

import os
import shutil
import socket
from typing import TYPE_CHECKING, ClassVar

import attrs

from moat_core.errors import HostError
from moat_core.ledger import Resource

if TYPE_CHECKING:
    from moat_core.ledger import ResourceContext

__all__ = ["FOLDER", "NAMES_FOLDER", "GuardFolder", "listen_in", "write_private"]

FOLDER = "docker-host"
"""What is mounted into the run."""
NAMES_FOLDER = "docker-names"
"""What single files are mounted from into its guests."""


@attrs.frozen
class GuardFolder(Resource):
    """A folder of mode 0700 that belongs to the run's user.

    Args:
        path: Absolute; ends in the run's id and one of two names, and nothing else is ever removed.
        uid: Of the run's user.
        gid: Likewise.
    """

    kind: ClassVar[str] = "docker_host.folder"
    path: str
    uid: int
    gid: int

    async def create(self, ctx: ResourceContext) -> str:
        """Make it.

        Raises:
            HostError: The run's user is somebody else, and only root could give the folder to them.
        """
        self._check(ctx)
        os.mkdir(self.path, 0o700)
        give_to(self.path, self.uid, self.gid)
        return self.path

    async def release(self, ctx: ResourceContext) -> bool:
        """Remove it with all that is in it."""
        self._check(ctx)
        if not os.path.lexists(self.path):
            return False
        shutil.rmtree(self.path)
        return True

    def _check(self, ctx: ResourceContext) -> None:
        parts = self.path.split("/")
        if parts[-2] != ctx.run_id or parts[-1] not in {FOLDER, NAMES_FOLDER} or ".." in parts:
            raise HostError(f"{self.path} is no folder of this run's.", hint="The ledger was changed by hand.")


def give_to(path: str, uid: int, gid: int) -> None:
    """Make PATH the run's user's.

    Root inside needs no more than it has: it reads what is anybody's.

    Raises:
        HostError: Only root could.
    """
    if uid in {0, os.geteuid()}:
        return
    try:
        os.chown(path, uid, gid)
    except OSError as error:
        raise HostError(
            f"The run's user has the id {uid} and yours is {os.geteuid()}, so the socket cannot be given to it.",
            hint="Run in a folder that is yours, or as root.",
        ) from error


def write_private(folder: str, name: str, data: bytes, uid: int, gid: int) -> None:
    """Write a file of mode 0400 for the run's user."""
    path = os.path.join(folder, name)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
    with open(descriptor, "wb") as file:
        file.write(data)
    give_to(path, uid, gid)


def listen_in(folder: str, name: str, uid: int, gid: int) -> socket.socket:
    """Return a socket that listens in FOLDER, however long its path is: an address has room for 108 bytes."""
    from moat_core.listen import BACKLOG  # the reaper has no use for it

    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(f"/proc/self/fd/{handle}/{name}")
        path = os.path.join(folder, name)
        os.chmod(path, 0o600)
        give_to(path, uid, gid)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(handle)
    return listener
