"""``moat stop``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moat_core.cli.context import CliContext, pass_cli, run_async
from moat_core.cli.options import SECONDS_OR_NONE, dry_run_option, runs_argument
from moat_core.cli.render import printable, say
from moat_core.errors import MoatError, SandboxGone, UsageError
from moat_core.store.state import OVER

if TYPE_CHECKING:
    from moat_core.api import Moat

__all__ = ["stop"]

_FORGET = "`moat destroy` forgets it, with its log."


@click.command("stop")
@runs_argument(required=False)
@click.option("-a", "--all", "every", is_flag=True, help="Stop every live run.")
@click.option(
    "--grace",
    "grace_s",
    type=SECONDS_OR_NONE,
    default=10.0,
    show_default=True,
    metavar="S",
    help="Seconds between SIGTERM and SIGKILL.",
)
@dry_run_option
@pass_cli
def stop(context: CliContext, /, *, references: tuple[str, ...], every: bool, grace_s: float, dry_run: bool) -> int:
    """Stop runs, and wait until everything of them is undone.

    A run that is over already is no error.

    \b
    moat stop web
    moat stop run-3f9c tidy-otter
    moat stop --all --grace 0
    """
    from moat_core.cli.ending import choose, end_run, report

    if not references and not every:
        raise UsageError("Which run?", hint="Name one (`moat list` shows them), or all of them with --all.")
    context.keep_going()

    async def body(moat: Moat) -> int:
        runs, unknown = await choose(moat, references, every=every)
        errors: list[MoatError] = list(unknown)
        for info in runs:
            shown = f"{printable(info.name)} ({info.id})"
            if info.state == "gone":
                errors.append(SandboxGone(f"{shown} cannot be stopped. {info.error}", hint=_FORGET))
            elif info.state in OVER:
                say(f"{shown} is over already.")
            elif dry_run:
                print("would stop", shown)
            else:
                try:
                    await end_run(moat, info, grace_s=grace_s)
                    print("stopped", shown, flush=True)
                except MoatError as error:
                    errors.append(error)
        if not runs and not errors:
            say("No run is alive.")
        return report(errors)

    return run_async(context, body)
