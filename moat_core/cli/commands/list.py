"""``moat list``, the long way; see `moat_core.cli.quick` for the short one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moat_core.cli.context import CliContext, pass_cli, run_async
from moat_core.cli.listing import print_runs
from moat_core.cli.options import json_option

if TYPE_CHECKING:
    from moat_core.api import Moat, RunInfo

__all__ = ["list_"]


@click.command("list")
@click.option("-a", "--all", "over", is_flag=True, help="Also those that are over.")
@json_option
@pass_cli
def list_(context: CliContext, /, *, over: bool, as_json: bool) -> None:
    """List runs, newest first.

    ISOLATION is what the engine really started the container with: runsc is gVisor.

    \b
    moat list              what is alive, or was kept
    moat list -a           also what is over, with its exit code
    moat list --json       stable fields, for programs
    """
    context.keep_going()

    async def body(moat: Moat) -> list[RunInfo]:
        return await moat.list(over=over)

    print_runs([info.to_json() for info in run_async(context, body)], as_json=as_json)
