"""The owner of a detached run: ``python -m moat_core.api.supervisor``, in a session of its own.

What it shall own comes through its standard input as one JSON object, so that no secret is in an argv, a file or
the environment of anybody else. It answers on its standard output, one JSON object a line: ``progress``, ``warning``,
then ``ready`` or ``error``, and then closes it. Its own troubles go to ``supervisor.log`` in the run's folder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import IO, TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import attrs

from moat_core.api.adopted import own
from moat_core.errors import HostError, MoatError
from moat_core.fds import fill_standard_fds, raise_file_limit, with_old_limit
from moat_core.imports import process_argv
from moat_core.logs import make_logger
from moat_core.signals import heeded

if TYPE_CHECKING:
    from moat_core.api.moat import Moat
    from moat_core.events import Event
    from moat_core.plan import RunRequest
    from moat_core.store import Home

__all__ = ["adopt", "detach", "main"]

_CHUNK_BYTES = 64 * 1024
_START_S = 3600.0
"""Pulling and building may take long; a supervisor that dies is noticed at once by its closed pipe."""


async def detach(
    home: Home, request: RunRequest, *, without: tuple[str, ...] = (), on_message: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Start a supervisor for REQUEST and return what it said when the run was ready.

    Args:
        on_message: Told every ``progress`` and ``warning``.

    Raises:
        MoatError: The run could not be opened; the supervisor has undone everything.
    """
    task = {"home": home.path, "without": list(without), "request": request.to_json()}
    return await _supervise(home, request.run_id, task, (), on_message)


async def adopt(home: Home, run_id: str, lock_fd: int, task: dict[str, Any], *, without: tuple[str, ...] = ()) -> None:
    """Hand a live run over to a supervisor: its lock goes with the open file, without a moment in between.

    Args:
        task: What the supervisor has to know beside that, see `moat_core.api.adopted.own`.
    """
    task = {"home": home.path, "without": list(without), "adopt": run_id, "lock_fd": lock_fd, **task}
    await _supervise(home, run_id, task, (lock_fd,), lambda message: None)


async def _supervise(
    home: Home,
    run_id: str,
    task: dict[str, Any],
    pass_fds: tuple[int, ...],
    on_message: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    folder = home.run_folder(run_id)
    home.make()
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with open(os.path.join(folder, "supervisor.log"), "ab") as log:
        async with _started(log, pass_fds) as process:
            await anyio.to_thread.run_sync(_give, process, json.dumps(task).encode())
            with anyio.fail_after(_START_S):
                async for message in _messages(process):
                    if "ready" in message:
                        ready: dict[str, Any] = message["ready"]
                        return ready
                    if "error" in message:
                        raise _error(message["error"])
                    on_message(message)
    raise HostError(
        f"The supervisor of {run_id} died before the run was ready.",
        hint=f"What it made is being undone. Its last words are in {os.path.join(folder, 'supervisor.log')}.",
    )


@asynccontextmanager
async def _started(log: Any, pass_fds: tuple[int, ...]) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Start the supervisor; if we leave early, by Ctrl-C or an error, ask it to end, and wait for that."""
    # Not the event loop's: that one would kill it, or complain, when the loop ends before it.
    process = subprocess.Popen(  # noqa: ASYNC220 - see above
        with_old_limit(process_argv("moat_core.api.supervisor")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
        pass_fds=pass_fds,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdout:
        try:
            yield process
        except BaseException:
            with anyio.CancelScope(shield=True):
                if process.poll() is None:  # deaf to SIGTERM as we are, it is its watchdog's
                    process.send_signal(signal.SIGTERM if heeded(signal.SIGTERM) else signal.SIGKILL)
                await anyio.to_thread.run_sync(process.wait)
            raise
        finally:
            _close(process.stdin)
    if process.poll() is None:
        process.returncode = 0  # it outlives us: not ours to wait for


def _give(process: subprocess.Popen[bytes], task: bytes) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(task)
    except OSError:
        pass  # it has died; the end of its output says so
    _close(process.stdin)


def _close(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except OSError:
        pass  # what was to be flushed has no reader any more


async def _messages(process: subprocess.Popen[bytes]) -> AsyncIterator[dict[str, Any]]:
    assert process.stdout is not None
    buffer = b""
    await anyio.wait_readable(process.stdout)
    while chunk := os.read(process.stdout.fileno(), _CHUNK_BYTES):
        buffer += chunk
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            yield json.loads(line)
        await anyio.wait_readable(process.stdout)


def _error(data: dict[str, Any]) -> MoatError:
    """Make the supervisor's error again; the class matters only for its code and exit status."""
    error = MoatError(data["message"], hint=data["hint"], **data["details"])
    error.code = data["code"]  # type: ignore[misc]
    error.exit_code = data["exit_code"]  # type: ignore[misc]
    return error


# -- in the supervisor itself ----------------------------------------------------------------------------------


def main() -> int:
    """Read what to own, own it to its end."""
    fill_standard_fds()
    task = json.loads(sys.stdin.buffer.read())
    os.chdir("/")  # pin nobody's folder
    try:
        return anyio.run(_main, task)
    except MoatError as error:
        _tell({"error": {**error.to_json(), "exit_code": error.exit_code}})
        make_logger().error(error.message, hint=error.hint)
        return error.exit_code


async def _main(task: dict[str, Any]) -> int:
    from moat_core.api.moat import Moat

    raise_file_limit()
    moat = Moat(home=task["home"], without=task["without"], owner_kind="detached", on_warning=_log)
    async with moat:
        if "adopt" in task:
            await own(moat, task, lambda: _ready({"id": task["adopt"], "pid": os.getpid()}))
            return 0
        return await _requested(moat, task["request"])


async def _requested(moat: Moat, data: dict[str, Any]) -> int:
    from moat_core.api.live import live
    from moat_core.plan import RunRequest

    handle = moat.open(RunRequest.from_json(data), on_event=_on_event, on_output=_drop)

    async def ready() -> None:
        ready = {"id": handle.id, "name": handle.name, "oci_runtime": handle.oci_runtime, "urls": handle.urls}
        _ready({**ready, "pid": os.getpid()})

    lived = await live(handle, on_ready=ready)
    for problem in lived.run.problems if lived.run else ():
        make_logger().error(problem.message, where=problem.where, hint=problem.hint)
    return lived.exit_code


def _on_event(event: Event) -> None:
    from moat_core.events import Progress, Warned

    if isinstance(event, Progress):
        _tell({"progress": attrs.asdict(event)})
    elif isinstance(event, Warned):
        _tell({"warning": event.problem.to_json()})


async def _drop(_: object) -> None:
    """The log has it; nobody else listens."""


_OUT = 1


def _tell(message: dict[str, Any]) -> None:
    try:
        os.write(_OUT, json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # whoever asked has gone; the run goes on


def _ready(answer: dict[str, Any]) -> None:
    _tell({"ready": answer})
    _hang_up()


def _hang_up() -> None:
    """Let go of the asker's pipe, so that it sees the end; what we still say goes nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, _OUT)
    os.close(null)


def _log(text: str) -> None:
    make_logger().warning(text)


if __name__ == "__main__":
    sys.exit(main())
