"""Owning a run that another process opened: what a supervisor does after `RunHandle.detach`.

Nothing of the run lives in memory here: what there is to undo is in the ledger's rows, what there is to see is the
engine's. A connection that breaks is opened again; the run ends when its container has.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import anyio

from moat_core.errors import MoatError, SandboxGone
from moat_core.ledger import follow_moves
from moat_core.lifecycle.mounts import check_mounts, hold_again
from moat_core.logs import make_logger
from moat_core.store.log import LogWriter
from moat_core.store.paths import Lock

if TYPE_CHECKING:
    from moat_core.api.moat import Moat
    from moat_core.runtime.base import Sandbox, SandboxInfo

__all__ = ["own"]

_AGAIN_S = 0.5
_TRIES = 6
_UNDO_S = 60.0
_LAST_OUTPUT_S = 5.0
_WHOLE_BYTES = 8 * 1024 * 1024
"""Up to here the engine's own log has surely not been rotated, and can be read from its beginning."""


async def own(moat: Moat, task: dict[str, Any], on_ready: Callable[[], None]) -> None:
    """Own the run of TASK to its end.

    Args:
        task: ``adopt`` (the run's id), ``lock_fd`` (its lock, inherited), ``logged`` (bytes of each stream that are
            in the run's log), ``keep``, ``timeout_s`` (seconds left, or ``None``), ``mounts`` (target, path, device
            and inode of what of this machine is mounted).
        on_ready: Called when we own it.
    """
    run_id = task["adopt"]
    log = make_logger(run_id=run_id)
    lock = Lock(moat.home.run_lock(run_id))
    lock.adopt(task["lock_fd"])
    ended: SandboxInfo | None = None
    why = "Its supervisor was ended."
    try:
        moat.watch()
        # Not `attach`: its command may have ended since its first owner let go.
        sandbox = await moat.sandbox(await moat.find(run_id))
        moat.store.update_run(run_id, owner_pid=os.getpid(), owner_kind="detached")
        on_ready()
        ended = await _see_through(moat, sandbox, task)
    except MoatError as error:
        why = error.message
        log.error(error.message, hint=error.hint)
    finally:
        with anyio.move_on_after(_UNDO_S, shield=True):
            problems = await moat.upkeep().settle(run_id, keep=task["keep"] and ended is not None)
            for problem in problems:
                log.error(problem.message, where=problem.where, hint=problem.hint)
            moat.store.update_run(
                run_id,
                phase="finish" if problems else "over",
                status="finished" if ended is not None else "failed",
                ended=time.time(),
                exit_code=ended.exit_code if ended is not None else None,
                error=None if ended is not None else why,
            )
        lock.release()


async def _see_through(moat: Moat, sandbox: Sandbox, task: dict[str, Any]) -> SandboxInfo:
    """Return how it ended.

    Raises:
        MoatError: It has gone, or cannot be stopped.
    """
    ended: SandboxInfo | MoatError
    async with anyio.create_task_group() as group:
        logged = anyio.Event()
        group.start_soon(_follow, moat, task["adopt"], sandbox, task["mounts"])
        group.start_soon(_keep_log, moat.home.run_folder(task["adopt"]), sandbox, task["logged"], logged)
        try:
            with anyio.move_on_after(task["timeout_s"]) as limit:
                ended = await _wait(sandbox)
            if limit.cancelled_caught:
                await sandbox.stop(0)
                ended = await _wait(sandbox)
        except MoatError as error:
            ended = error  # raised outside the group, which would wrap it up
        with anyio.move_on_after(_LAST_OUTPUT_S):
            await logged.wait()
        group.cancel_scope.cancel()
    if isinstance(ended, MoatError):
        raise ended
    return ended


async def _follow(moat: Moat, run_id: str, sandbox: Sandbox, mounts: Sequence[tuple[str, str, int, int]]) -> None:
    """See to a container that its engine starts anew: where it is reached may change, and what is mounted."""
    while True:
        ports = sandbox.info.ports
        await follow_moves(lambda ports: moat.upkeep().follow(run_id, ports), ports)
        await sandbox.wait_moved(ports)
        try:
            with hold_again(mounts) as held:
                await check_mounts(held, sandbox)
            await sandbox.admit()
        except MoatError as error:
            make_logger(run_id=run_id).error(error.message, hint=error.hint)
            await sandbox.stop(0)  # it is held: nothing of it has begun


async def _wait(sandbox: Sandbox) -> SandboxInfo:
    """Wait for the end; a connection that broke while the container lives is no end.

    Raises:
        SandboxGone: The container is not there any more, however often one looks.
    """
    tries = 0
    while True:
        try:
            return await sandbox.wait()
        except MoatError:
            try:
                await sandbox.refresh()
                tries = 0
            except SandboxGone:
                tries += 1
                if tries == _TRIES:
                    raise
            await anyio.sleep(_AGAIN_S)


async def _keep_log(folder: str, sandbox: Sandbox, logged: dict[str, int], done: anyio.Event) -> None:
    """Go on with the run's log, byte for byte where its first owner stopped, as often as the stream breaks."""
    written = dict(logged)
    log = LogWriter(folder)
    try:
        while True:
            whole = sum(written.values()) < _WHOLE_BYTES
            seen = {"stdout": 0, "stderr": 0} if whole else dict(written)
            try:
                async for output in sandbox.logs(tail=None if whole else 0, follow=True):
                    known = max(0, written[output.stream] - seen[output.stream])
                    seen[output.stream] += len(output.data)
                    fresh = output.data[known:]
                    written[output.stream] += len(fresh)
                    log.write(output.stream, fresh)
                return
            except MoatError:
                await anyio.sleep(_AGAIN_S)
    finally:
        log.close()
        done.set()
