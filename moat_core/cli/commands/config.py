"""``moat config``: what is set and by whom, whether it is right, and what could be set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs
import click

from moat_core.cli.context import CliContext, pass_cli
from moat_core.cli.options import json_option
from moat_core.cli.render import age, print_json, print_table, say
from moat_core.cli.trust import ask, can_ask, show_widenings
from moat_core.config import Config
from moat_core.errors import UsageError
from moat_core.store.trusted import TrustedFiles

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

    The fields of --json: key, value, origin, needs_trust (of a value that is not heeded until you trust the file).

    \b
    moat config show
    moat config show ./project --json
    """
    found = context.moat.config(_folder(path), trust=lambda *_: True)  # it is only shown
    marked = set() if _is_trusted(context, found) else {".".join(each.path) for each in found.widenings}
    rows = [(key, value, origin, key in marked) for key, value, origin in found.items()]
    if as_json:
        fields = ("key", "value", "origin", "needs_trust")
        print_json([dict(zip(fields, (key, _plain(value), *rest), strict=True)) for key, value, *rest in rows])
    else:
        shown = [(key, _text(value), f"{origin} (needs trust)" if is_marked else origin)
                 for key, value, origin, is_marked in rows]  # fmt: skip
        print_table(("KEY", "VALUE", "FROM"), shown, shrink=1)


@config.command("check")
@click.argument("path", default=".", required=False)
@pass_cli
def check(context: CliContext, /, *, path: str) -> None:
    """Check the configuration; name every problem.

    PATH is the workspace whose configuration it is.

    \b
    moat config check && moat run
    """
    found = context.moat.config(_folder(path), trust=lambda *_: True)
    print(f"{found.path} is valid." if found.path else f"There is no config file in {_folder(path)}; none is needed.")
    if not _is_trusted(context, found):
        say("It gives runs more than they have without, and is not trusted yet; `moat config trust` is for that:")
        show_widenings(found.widenings)


@config.command("trust")
@click.argument("path", default=".", required=False)
@click.option("-y", "--yes", "-f", "--force", "yes", is_flag=True, help="Do not ask.")
@click.option("--revoke", is_flag=True, help="Trust no content of that workspace's file any more.")
@click.option("--list", "as_list", is_flag=True, help="Show what is trusted, of all workspaces.")
@json_option
@pass_cli
def trust(context: CliContext, /, *, path: str, yes: bool, revoke: bool, as_list: bool, as_json: bool) -> None:
    """Trust a workspace's agent.yaml, as it is now.

    It may come from a stranger, or the agent in there may have changed it. So what in it gives a run more than it has
    without (mounts from outside, no gVisor, ...) counts only once you have said so; and again when it has changed.

    The fields of --list --json: workspace, name, digest, widens (key, value, where, why), created.

    \b
    moat config trust
    moat config trust --revoke ./project
    moat config trust --list
    """
    trusted = TrustedFiles(context.moat.home)
    if as_list:
        _list_trusted(trusted, as_json=as_json)
        return
    if as_json:
        raise click.UsageError("--json goes with --list.")
    folder = _folder(path)
    if revoke:
        count = trusted.remove(folder)
        say(f"Forgotten: {count} trusted {'content' if count == 1 else 'contents'} of {folder}.")
        return
    found = context.moat.config(folder, trust=lambda *_: True)
    if found.file is None or not found.widenings:
        say(f"There is nothing to trust in {folder}: it gives no run more than it has without.")
    elif trusted.covers(found.file, found.widenings):
        say(f"{found.path} is trusted already.")
    else:
        _trust(trusted, found, yes=yes)


def _trust(trusted: TrustedFiles, found: Config, *, yes: bool) -> None:
    assert found.file is not None
    if yes:
        show_widenings(found.widenings)
    elif not can_ask():
        raise UsageError("Nobody can be asked: this is no terminal.", hint="Add --yes to trust it without being asked.")
    elif not ask(found.file, found.widenings):
        raise click.Abort
    trusted.add(found.file, found.widenings)
    say(f"{found.path} is trusted until it changes.")


def _list_trusted(trusted: TrustedFiles, *, as_json: bool) -> None:
    found = trusted.entries()
    if as_json:
        print_json(found)
        return
    rows = [(each["workspace"], each["name"], each["digest"][:12], age(each["created"])) for each in found]
    keys = [[f"{one['key']}: {one['value']}" for one in each["widens"]] for each in found]
    print_table(("WORKSPACE", "FILE", "CONTENT", "AGE"), rows, shrink=0, below=keys)


def _is_trusted(context: CliContext, found: Config) -> bool:
    return (
        found.file is None or not found.widenings or TrustedFiles(context.moat.home).covers(found.file, found.widenings)
    )


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
