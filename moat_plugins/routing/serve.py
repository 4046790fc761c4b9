"""The proxy's own process: ``python -m moat_plugins.routing.serve``, in a session of its own.

What it shall do comes through its standard input as one JSON object; its listening sockets are inherited, so that they
may have been bound by root. It answers with one line on its standard output: ``ready``, ``error``, or ``other`` when
another proxy serves this ``MOAT_HOME`` already.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moat_core import __version__
from moat_core.errors import MoatError
from moat_core.http.serve import serve
from moat_core.signals import heeded
from moat_plugins.routing.certificates import open_ca
from moat_plugins.routing.process import Holding, Running
from moat_plugins.routing.router import Router
from moat_plugins.routing.runs import Runs
from moat_plugins.routing.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["main", "run_proxy"]

_LOOK_S = 0.5
_DRAIN_S = 5.0


async def run_proxy(
    home: Path, sockets: list[socket.socket], options: dict[str, Any], on_ready: Callable[[Running], None]
) -> bool:
    """Serve until a signal comes, or nobody needs it any more.

    Args:
        sockets: Listening ones, all on one port.
        options: ``idle``: how long to go on without a run, ``None`` for ever; ``timeout``: what a service may take to
            answer. Both in seconds.
        on_ready: Told when requests are answered.

    Returns:
        Whether that was us; another serves this home already if not.
    """
    from moat_core.api import Moat

    holding = Holding(home)
    if not holding.claim():
        return False
    port = sockets[0].getsockname()[1]
    try:
        async with Moat(home=home, keep_going=True) as moat:
            context = open_ca(str(home / "proxy" / "ca")).context()
            table = Table(home)
            runs, answer_s = Runs(moat, table), options["timeout"]
            router = Router(table, runs, version=__version__, port=port, tls=context, answer_s=answer_s)
            table.on_gone = router.pool.drop
            stopping = _catch_signals()
            async with serve(router, sockets, drain_s=_DRAIN_S):
                running = Running(os.getpid(), port, time.time(), options)
                holding.tell(running)
                on_ready(running)
                await _until_unneeded(table, holding, running, options["idle"], stopping)
                holding.release()  # whoever starts the next one does not wait for what is under way here
            table.close()
    finally:
        holding.release()
    return True


async def _until_unneeded(
    table: Table, holding: Holding, running: Running, idle_s: float | None, stopping: asyncio.Event
) -> None:
    """Return when a signal has come, or when there has been no run with ports for IDLE_S."""
    loop = asyncio.get_running_loop()
    needed = loop.time()
    while not stopping.is_set():
        table.look()
        if idle_s is None or any(map(table.is_live, table.agents.values())):
            needed = loop.time()
        elif loop.time() - needed > idle_s:
            # Whoever begins a run writes its claim and then looks for us: let go first, and look then.
            holding.release()
            table.look(fresh=True)
            if not any(map(table.is_live, table.agents.values())) or not holding.claim():
                return
            holding.tell(running)
        try:
            async with asyncio.timeout(_LOOK_S):
                await stopping.wait()
        except TimeoutError:
            pass


def _catch_signals() -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in heeded(signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stopping.set)
    return stopping


def main() -> int:
    """Do what standard input says."""
    sys.unraisablehook = _ignore_names
    from moat_core.http.serve import run

    task = json.loads(sys.stdin.buffer.read())
    if os.fork():
        os._exit(0)  # so that whoever started us, and lives on, has no zombie of us
    os.setsid()
    home = Path(task["home"])
    sockets = [socket.socket(fileno=descriptor) for descriptor in task["sockets"]]
    answered = False

    def tell(message: dict[str, Any]) -> None:
        nonlocal answered
        answered = True
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.close()  # if nobody hears it, this ends us: nobody knows that we are here

    def ready(running: Running) -> None:
        if task.get("turn") is not None:
            os.close(task["turn"])  # whoever wanted to start one, too, finds us
        _write_log(home)
        tell({"ready": running.to_json()})

    try:
        run(run_proxy(home, sockets, {key: task[key] for key in ("idle", "timeout")}, ready))
    except MoatError as error:
        if not answered:
            tell({"error": error.to_json()})
        return error.exit_code
    if not answered:
        tell({"other": True})
    return 0


def _ignore_names(unraisable: sys.UnraisableHookArgs) -> None:
    """A client's name in TLS that is not ASCII fails in Python's ssl, before it is ours: it would fill the log."""
    if not issubclass(unraisable.exc_type, UnicodeDecodeError):
        sys.__unraisablehook__(unraisable)


def _write_log(home: Path) -> None:
    """From here on what goes wrong is written into the log, which each start begins anew."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(home / "proxy" / "log", flags, 0o600)
    os.dup2(descriptor, 2)
    os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
