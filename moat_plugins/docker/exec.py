"""Commands in a live container: started by exec, followed to their end, killed as a whole tree.

The engine tells that a program is missing by writing its own words to the command's stdout and an exit code of 126;
here that becomes what a shell would say, on stderr, with 127 or 126.
"""

from __future__ import annotations

import re
import secrets
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from moat_core import checks
from moat_core.errors import EngineError, SandboxGone
from moat_core.plan import as_text
from moat_core.types import Output
from moat_plugins.docker.gone import gone_if_missing
from moat_plugins.docker.hijack import HijackedStream, hijack
from moat_plugins.docker.kill import MARK, signal_tree
from moat_plugins.docker.process import SIGNALS, StreamProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moat_core.types import Command
    from moat_plugins.docker.client import Engine

__all__ = ["ExecProcess", "make_exec_config", "open_exec"]

_FAILED = b"OCI runtime exec failed: "
_HOLD_S = 2.0
_KILL_S = 20.0
_END_POLL_S = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05)
# Ends as `ExecProcess` and the init do for a program that is not there.
_SET_SIZE = """\
stty rows "$1" cols "$2" 2>/dev/null
shift 2
if ! command -v -- "$1" >/dev/null; then
  if [ -e "$1" ]; then echo "moat: $1: permission denied"; exit 126; fi
  echo "moat: $1: command not found"; exit 127
fi
exec "$@"
"""
_NO_FOLDER = re.compile(r"chdir to cwd|initial working directory")
_NO_PROGRAM = re.compile(r"executable file not found|no such file or directory|error finding executable")


class ExecProcess(StreamProcess):
    """One exec'd command.

    Args:
        exec_id: The engine's name for it.
        mark: Value of the variable by which its processes are found inside.
        user: Whom it was started as.
    """

    def __init__(
        self,
        engine: Engine,
        container: str,
        exec_id: str,
        stream: HijackedStream,
        command: Command,
        *,
        mark: str,
        user: str,
    ) -> None:
        super().__init__(stream)
        self._engine = engine
        self._container = container
        self._exec_id = exec_id
        self._command = command
        self._mark = mark
        self._user = user
        self._is_first = True
        self._held: list[Output | None] = []
        self._exit_code: int | None = None

    async def resize(self, rows: int, columns: int) -> None:
        """See `Process`."""
        rows, columns = checks.size((rows, columns))
        with suppress(EngineError):  # it may have ended just now, which each engine says in its own words
            await self._engine.containers.resize_exec(self._exec_id, rows, columns)

    async def signal(self, number: int) -> None:
        """See `Process`."""
        signal = checks.count(number, "number", 1, SIGNALS)
        await signal_tree(self._engine, self._container, self._mark, signal, user=self._user)

    async def wait(self) -> int:
        """See `Process`.

        Raises:
            SandboxGone: The container or its engine ended first.
        """
        await self._drain()
        if self._exit_code is None:
            self._exit_code = await self._find_exit_code()
        return self._exit_code

    async def has_ended(self) -> bool:
        """Ask the engine, without waiting."""
        return self._exit_code is not None or not (await self._inspect())["Running"]

    async def _receive(self) -> Output | None:
        if self._held:
            return self._held.pop(0)
        piece = await super()._receive()
        first, self._is_first = self._is_first, False
        if first and piece is not None and piece.data.startswith(_FAILED):
            return await self._judge(piece)
        return piece

    async def _judge(self, piece: Output) -> Output | None:
        """Tell the engine's own words from a program that prints the same."""
        data = piece.data
        more: Output | None = None
        # The engine's message is at once followed by the end; a program's words are not held back for long.
        with anyio.move_on_after(_HOLD_S) as scope:
            while (more := await super()._receive()) is not None and len(data) + len(more.data) < len(_FAILED) + 4096:
                data += more.data
        if scope.cancelled_caught or more is not None:
            self._held = [more] if more is not None else []
            return Output("stdout", data)
        self._held = [None]
        found = await self._inspect()
        if found["Running"] or found.get("Pid"):
            return Output("stdout", data)
        self._exit_code, text = self._explain(data.decode("utf-8", "replace"))
        return Output("stdout" if self._command.tty else "stderr", text.encode(errors="surrogateescape"))

    def _explain(self, text: str) -> tuple[int, str]:
        program = self._command.argv[0]
        if _NO_FOLDER.search(text):
            return 126, f"moat: {self._command.cwd}: no such folder\n"
        if "permission denied" in text:
            return 126, f"moat: {program}: permission denied\n"
        if _NO_PROGRAM.search(text):
            return 127, f"moat: {program}: command not found\n"
        return 126, f"moat: {program}: {text.removeprefix(_FAILED.decode()).strip()}\n"

    async def _find_exit_code(self) -> int:
        # The streams end a moment before the engine has noted the end.
        attempt = 0
        while (found := await self._inspect())["Running"]:
            await anyio.sleep(_END_POLL_S[min(attempt, len(_END_POLL_S) - 1)])
            attempt += 1
        code = found.get("ExitCode")
        if code is None or code < 0:
            raise SandboxGone("The container ended before the command did.", hint="`moat logs` may tell why.")
        return int(code)

    async def _inspect(self) -> dict[str, Any]:
        with gone_if_missing():
            return await self._engine.containers.inspect_exec(self._exec_id)


@asynccontextmanager
async def open_exec(
    engine: Engine, container: str, command: Command, *, user: str, sets_size: bool = True
) -> AsyncIterator[ExecProcess]:
    """Start COMMAND in CONTAINER; leaving before its end kills all of its tree.

    Args:
        user: ``uid:gid``, for a command that names none.
        sets_size: See `make_exec_config`.

    Raises:
        SandboxGone: The container is not running.
    """
    user = command.user or user
    mark = secrets.token_hex(8)
    with gone_if_missing():
        exec_id = await engine.containers.create_exec(
            container, make_exec_config(command, mark, user, sets_size=sets_size)
        )
        # Shielded: what is cancelled between its start and our knowing of it could not be killed.
        with anyio.CancelScope(shield=True):
            stream = await hijack(
                engine, "run a command", f"/exec/{exec_id}/start", body=_make_start(command), raw=command.tty
            )
    process = ExecProcess(engine, container, exec_id, stream, command, mark=mark, user=user)
    try:
        await anyio.lowlevel.checkpoint_if_cancelled()
        yield process
    except Exception as error:
        try:
            await _end(process)
        except EngineError as another:  # the first says what went wrong
            error.add_note(str(another))
        raise
    except BaseException:
        await _end(process)
        raise
    await _end(process)


async def _end(process: ExecProcess) -> None:
    with anyio.move_on_after(_KILL_S, shield=True):
        # Before all else: while output waits in the stream the engine runs no other command in the container.
        await process.aclose()
        try:
            if not await process.has_ended():
                await process.signal(9)
        except SandboxGone:
            pass  # and so is the command


def make_exec_config(command: Command, mark: str, user: str, *, sets_size: bool = True) -> dict[str, Any]:
    """Return the body of POST /containers/{id}/exec for COMMAND.

    Args:
        sets_size: The OCI runtime gives the terminal its size before the program starts.
    """
    command = as_text(command)
    argv = list(command.argv)
    if command.tty and command.size is not None and not sets_size:
        rows, columns = command.size
        argv = ["/bin/sh", "-c", _SET_SIZE, "moat-tty", f"{rows:d}", f"{columns:d}", *argv]
    config: dict[str, Any] = {
        "Cmd": argv,
        "Env": [f"{key}={value}" for key, value in command.env.items()] + [f"{MARK}={mark}"],
        "User": user,
        "Tty": command.tty,
        "AttachStdin": command.stdin,
        "AttachStdout": True,
        "AttachStderr": True,
        "DetachKeys": "",
    }
    if command.cwd is not None:
        config["WorkingDir"] = command.cwd
    if command.tty and command.size is not None:
        config["ConsoleSize"] = list(command.size)
    return config


def _make_start(command: Command) -> dict[str, Any]:
    start: dict[str, Any] = {"Detach": False, "Tty": command.tty}
    if command.tty and command.size is not None:
        start["ConsoleSize"] = list(command.size)
    return start
