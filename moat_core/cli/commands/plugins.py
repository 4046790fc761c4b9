"""``moat plugins``: what is loaded, disabled or broken. It works when something is broken."""

from __future__ import annotations

import attrs
import click

from moat_core.cli.context import CliContext, pass_cli
from moat_core.cli.options import json_option
from moat_core.cli.render import print_json, print_table, printable

__all__ = ["plugins"]


@click.command("plugins")
@json_option
@pass_cli
def plugins(context: CliContext, /, *, as_json: bool) -> None:
    """Show plugins: loaded, disabled (by --without or MOAT_DISABLE) or broken, and why.

    The fields of --json: name, state, version, origin (its distribution), module, error.

    \b
    moat plugins
    moat --without gvisor plugins
    """
    infos = context.quiet_moat().plugin_infos()
    if as_json:
        print_json([attrs.asdict(info) for info in infos])
        return
    rows = [(info.name, info.state, info.version, info.origin, info.module) for info in infos]
    print_table(("NAME", "STATE", "VERSION", "ORIGIN", "MODULE"), rows, shrink=4)
    for info in infos:
        if info.error:
            print(f"\n{info.name}: {printable(info.error)}")
