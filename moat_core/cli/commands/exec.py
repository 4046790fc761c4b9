"""``moat exec``: a command inside a live run, whoever owns it."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from moat_core.cli.context import CliContext, pass_cli, run_async
from moat_core.cli.options import SECONDS, run_argument
from moat_core.cli.render import say
from moat_core.errors import UsageError
from moat_core.signals import heeded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moat_core.api import Moat

__all__ = ["exec_"]

_EXIT_OF_KILLED = 137


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on; at a terminal, give it a terminal.")
@click.option("-e", "--env", "env", multiple=True, metavar="K=V", help="Set a variable; K alone passes ours on.")
@click.option("-w", "--workdir", metavar="DIR", help="Where it runs; the workspace if not given.")
@click.option("-u", "--user", metavar="USER", help="root or UID:GID; the run's own user if not given.")
@click.option("--timeout", "timeout_s", type=SECONDS, metavar="S", help="Kill it after S seconds.")
@run_argument()
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_cli
def exec_(
    context: CliContext,
    /,
    *,
    reference: str,
    command: tuple[str, ...],
    interactive: bool,
    env: tuple[str, ...],
    workdir: str | None,
    user: str | None,
    timeout_s: float | None,
) -> int:
    """Run a command inside a live run, and exit as it does.

    126 and 127 mean what shells mean by them, 128 + n that signal n ended it, 137 also that its time was up.

    \b
    moat exec web -- pytest -q
    moat exec -i web -- bash               a shell, if this is a terminal
    moat exec -i web -- sh -c 'cat > notes.txt' < notes.txt
    moat exec -e TOKEN -u root web -- id
    """
    from moat_core.config import parse_env_flag

    if command[0] == "--":
        command = command[1:]
    if not command:
        raise UsageError("There is no command to run.", hint="Name one: moat exec RUN -- COMMAND")
    variables = dict(parse_env_flag(text, os.environ) for text in env)
    tty = interactive and sys.stdin.isatty() and sys.stdout.isatty()
    context.keep_going()

    async def body(moat: Moat) -> int:
        import anyio

        from moat_core.cli.terminal import attach_terminal, terminal_size

        run = await moat.attach(reference)
        size = terminal_size() if tty else None
        with _ended_by_signals() as signals, anyio.move_on_after(timeout_s) as scope:
            async with run.start(
                command, env=variables, cwd=workdir, user=user, stdin=interactive, tty=tty, size=size
            ) as process:
                return await attach_terminal(process, tty=tty, stdin=interactive)
        if scope.cancelled_caught:
            say(f"It was killed after {timeout_s:g} s, its time limit.")
            return _EXIT_OF_KILLED
        return 128 + signals[0]

    return run_async(context, body, reap=False)


@contextmanager
def _ended_by_signals() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP end the body in order, so that the command inside is killed, too; yield who came."""
    import asyncio

    loop, task, caught = asyncio.get_running_loop(), asyncio.current_task(), list[int]()
    assert task is not None

    def end(number: int) -> None:
        caught.append(number)
        task.cancel()

    numbers = heeded(signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, end, number)
    try:
        yield caught
    except asyncio.CancelledError:
        if not caught or task.uncancel() > 0:
            raise
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
