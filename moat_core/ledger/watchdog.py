"""The second layer: a shell that outlives its owner just long enough to start the reaper.

It blocks on a pipe whose other end only the owner has. The owner's orderly end sends a word; its death, by
whatever signal, closes the pipe, and the shell becomes who sees to the reaping (`moat_core.store.vigil`). A bare
``sh`` costs about 1 MB and a millisecond; a Python process waiting would cost many times that in every run.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from moat_core.errors import HostError
from moat_core.imports import process_argv

if TYPE_CHECKING:
    from moat_core.store import Home

__all__ = ["Watchdog"]

# In the background: the shell ends at once and its owner, if it still lives, has nothing to wait for.
_SCRIPT = 'read -r word || { "$@" & }'
_WAIT_S = 2.0


class Watchdog:
    """The watchdog of this process for one ``MOAT_HOME``. Start it before the first thing is made."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The shell's process id, while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it, once; or again, if somebody has killed it.

        It has a session of its own, so that neither a Ctrl-C nor the end of our terminal reaches it.

        Raises:
            HostError: There is no shell, or no process to be had.
        """
        if self._process is not None:
            if self._process.poll() is None:
                return
            self.stop()
        self._home.make()
        environ = {**os.environ, "MOAT_HOME": self._home.path}
        try:
            with open(os.path.join(self._home.path, "reaper.log"), "ab") as log:
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", _SCRIPT, "moat-watchdog", *process_argv("moat_core.store.vigil")],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    start_new_session=True,
                    cwd="/",
                    env=environ,
                )
        except OSError as error:
            raise HostError(
                f"The watchdog cannot be started: {error.strerror or error}.",
                hint="It needs /bin/sh and a free process; see `ulimit -u`.",
            ) from error
        _alive.add(self)

    def reap_now(self) -> None:
        """Start the reaper although we live: a run of ours could not be undone and was given up."""
        self.stop(orderly=False)
        self.start()

    def stop(self, *, orderly: bool = True) -> None:
        """Tell it that all is well, and wait for it; or leave it without a word, and it reaps."""
        process, self._process = self._process, None
        _alive.discard(self)
        if process is None:
            return
        assert process.stdin is not None
        try:
            if orderly:
                process.stdin.write(b"done\n")
            process.stdin.close()
        except OSError:
            pass  # somebody killed it; there is nothing to tell any more
        try:
            process.wait(_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def forget(self) -> None:
        """Let go of it in a forked child, which must not hold the pipe open: it would hide its owner's death."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            os.close(process.stdin.fileno())
            process.returncode = 0  # not the child's to wait for


_alive: set[Watchdog] = set()
"""Not state of ours: what a forked child has to let go of."""


def _forget_in_child() -> None:
    for watchdog in tuple(_alive):
        watchdog.forget()


os.register_at_fork(after_in_child=_forget_in_child)
