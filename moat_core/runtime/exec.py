"""Running one command to its end and keeping what it said, alike for every runtime."""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

import anyio
import attrs

from moat_core import checks
from moat_core.types import Command, ExecResult, Output

if TYPE_CHECKING:
    from moat_core.runtime.base import Process, Sandbox

__all__ = ["OUTPUT_LIMIT_BYTES", "Collector", "beside", "exec_command"]

OUTPUT_LIMIT_BYTES = 10 * 1024 * 1024
"""What is kept of each stream unless asked otherwise; the rest is read and dropped."""
_WRITE_BYTES = 256 * 1024

OnOutput = Callable[[Output], Awaitable[None]]
Stdin = bytes | Callable[[], Awaitable[bytes]]


@attrs.define
class Collector:
    """Keeps the beginning of each stream, up to a limit, so that no output can fill our memory."""

    limit_bytes: int = OUTPUT_LIMIT_BYTES
    truncated: bool = False
    _kept: dict[str, bytearray] = attrs.field(factory=lambda: {"stdout": bytearray(), "stderr": bytearray()})

    def add(self, output: Output) -> None:
        """Keep OUTPUT, or what still fits of it."""
        kept = self._kept[output.stream]  # one buffer: a list of one-byte pieces would take fifty times as much
        room = max(self.limit_bytes - len(kept), 0)
        self.truncated = self.truncated or len(output.data) > room
        kept += output.data[:room]

    def get(self, stream: str) -> bytes:
        """Return what was kept of STREAM."""
        return bytes(self._kept[stream])


async def exec_command(
    sandbox: Sandbox,
    command: Command,
    *,
    stdin: Stdin | None = None,
    timeout_s: float | None = None,
    limit_bytes: int = OUTPUT_LIMIT_BYTES,
    on_output: OnOutput | None = None,
) -> ExecResult:
    """Run COMMAND in SANDBOX and return how it ended. Never raises for an exit code or a timeout.

    Args:
        stdin: What it reads: all of it, or a function that returns the next piece and ``b""`` at the end.
        timeout_s: After so many seconds its whole process tree is killed.
        limit_bytes: What is kept of each stream.
        on_output: Awaited with every piece as it arrives; a slow one slows the command down.

    Raises:
        InvalidType, InvalidValue: An argument cannot be; nothing was started.
        SandboxGone: The container went away meanwhile.
    """
    if stdin is not None and not callable(stdin):
        stdin = checks.content(stdin, "stdin")
    limit_s = None if timeout_s is None else checks.positive_s(timeout_s, "timeout_s")
    collector = Collector(checks.count(limit_bytes, "limit_bytes"))
    started = time.monotonic()
    exit_code = -1
    with anyio.move_on_after(limit_s) as scope:
        async with sandbox.open_process(attrs.evolve(command, stdin=stdin is not None)) as process:
            feeding = beside(functools.partial(_feed, process, stdin)) if stdin is not None else nullcontext()
            async with feeding:
                async for output in process:
                    collector.add(output)
                    if on_output is not None:
                        await on_output(output)
                exit_code = await process.wait()
    timed_out = scope.cancelled_caught
    if timed_out:
        exit_code = 137
    oom_killed = exit_code == 137 and not timed_out and (await sandbox.refresh()).oom_killed  # noqa: PLR2004
    return ExecResult(
        argv=command.argv,
        exit_code=exit_code,
        stdout=collector.get("stdout"),
        stderr=collector.get("stderr"),
        truncated=collector.truncated,
        timed_out=timed_out,
        oom_killed=oom_killed,
        duration_s=time.monotonic() - started,
    )


@asynccontextmanager
async def beside(work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Do WORK while the body runs, and stop it when that ends. The first error of either is raised, in no group."""
    errors: list[Exception] = []

    async def guarded() -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(guarded)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)
        group.cancel_scope.cancel()
    if errors:
        raise errors[0]


async def _feed(process: Process, data: Stdin) -> None:
    try:
        if isinstance(data, bytes):
            for start in range(0, len(data), _WRITE_BYTES):
                await process.write(data[start : start + _WRITE_BYTES])
        else:
            while chunk := await data():
                await process.write(chunk)
        await process.close_stdin()
    except (BrokenPipeError, ConnectionError):
        pass  # it did not want to read all of it, which is its right
