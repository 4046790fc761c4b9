"""``moat hello``; imported when it is used."""

from __future__ import annotations

import click

from moat_core import Moat
from moat_plugin_hello.config import HelloConfig

__all__ = ["hello"]


@click.command()
@click.argument("name", default="world")
def hello(name: str) -> None:
    """Greet NAME as the runs of this folder are greeted."""
    click.echo(Moat().config(".").section(HelloConfig).greeting(name))
