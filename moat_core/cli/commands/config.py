"""``moat config``: what is set and by whom, whether it is right, and what could be set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs
import click

from moat_core.cli.context import CliContext, pass_cli
from moat_core.cli.options import json_option
from moat_core.cli.render import print_json, print_table
from moat_core.errors import UsageError

__all__ = ["config"]


@click.group("config")
def config() -> None:
    """Show, check and explain the configuration."""


@config.command("show")
@click.argument("path", default=".", required=False)
@json_option
@pass_cli
def show(context: CliContext, /, *, path: str, as_json: bool) -> None:
    """Show every value, and where it comes from.

    PATH is the workspace whose configuration it is.

    The fields of --json: key, value, origin.

    \b
    moat config show
    moat config show ./project --json
    """
    found = list(context.moat.config(_folder(path)).items())
    if as_json:
        print_json([{"key": key, "value": _plain(value), "origin": origin} for key, value, origin in found])
    else:
        print_table(("KEY", "VALUE", "FROM"), [(key, _text(value), origin) for key, value, origin in found], shrink=1)


@config.command("check")
@click.argument("path", default=".", required=False)
@pass_cli
def check(context: CliContext, /, *, path: str) -> None:
    """Check the configuration; name every problem.

    PATH is the workspace whose configuration it is.

    \b
    moat config check && moat run
    """
    found = context.moat.config(_folder(path))
    print(f"{found.path} is valid." if found.path else f"There is no config file in {_folder(path)}; none is needed.")


@config.command("schema")
@pass_cli
def schema(context: CliContext, /) -> None:
    """Print the JSON Schema of agent.yaml, for editors.

    It has every plugin's section.

    \b
    moat config schema > agent.schema.json
    """
    from moat_core.config import json_schema

    print_json(json_schema(context.moat.schema))


def _folder(path: str) -> Path:
    folder = Path(os.path.abspath(path))
    if folder.is_file():
        raise UsageError(f"{folder} is a file, not a workspace.", hint=f"Name its folder: {folder.parent}")
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.", hint="Name a workspace, or leave it out for this one.")
    return folder


def _plain(value: Any) -> Any:
    """Return VALUE as JSON has it."""
    if attrs.has(type(value)):
        return {name: _plain(each) for name, each in attrs.asdict(value, recurse=False).items()}
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(each) for each in value) or "(empty)"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if value != {} else "(empty)"
