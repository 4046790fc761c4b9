"""``moat version``."""

from __future__ import annotations

import platform

import click

from moat_core import __version__
from moat_core.cli.options import json_option
from moat_core.cli.render import print_json

__all__ = ["version"]


@click.command("version")
@json_option
def version(*, as_json: bool) -> None:
    """Print moat's version.

    \b
    moat version
    moat version --json    also Python's, and the platform
    """
    if as_json:
        print_json({"version": __version__, "python": platform.python_version(), "platform": platform.platform()})
    else:
        print("moat", __version__)
