"""``moat deps``: what may be listed under ``dependencies:``. Read from the registry alone; no engine is asked."""

from __future__ import annotations

import json
import shutil
import textwrap
from typing import Any

import click

from moat_core.config import nearest, show
from moat_core.errors import UnknownName
from moat_core.plan import offered_dependencies
from moat_plugins.dependencies.registry import DYNAMIC, KINDS, REGISTRY, Entry, make_entry

__all__ = ["deps"]

_NARROW = 72


@click.group()
def deps() -> None:
    """Show what may be listed under `dependencies:`."""


@deps.command("list")
@click.option("--type", "kind", type=click.Choice(list(KINDS)), help="Only those of this type.")
@click.option("--json", "as_json", is_flag=True, help="A JSON array on stdout, nothing else.")
def list_(kind: str | None, *, as_json: bool) -> None:
    """List every name, its version and what it is."""
    everything = (*REGISTRY.values(), *DYNAMIC.values(), *_offered().values())
    entries = [entry for entry in everything if kind in {None, entry.kind}]
    if not entries and not as_json:
        click.echo("There are none: no plugin brings any.", err=True)
        return
    entries.sort(key=lambda entry: (list(KINDS).index(entry.kind), entry.name))
    if as_json:
        click.echo(json.dumps([_to_json(entry) for entry in entries], indent=2))
        return
    columns = shutil.get_terminal_size().columns
    wide = max(len(entry.name) for entry in entries)
    for entry in entries:
        version = entry.default or "-"
        if columns < _NARROW:
            click.echo(f"{entry.name} {version}")
            click.echo(textwrap.fill(entry.summary, max(columns, 20), initial_indent="  ", subsequent_indent="  "))
            continue
        line = f"{entry.name:<{wide}}  {version:<8}  {entry.kind:<13}  "
        click.echo(line + textwrap.shorten(entry.summary, max(columns - len(line), 12), placeholder="…"))


@deps.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="A JSON object on stdout, nothing else.")
def info(name: str, *, as_json: bool) -> None:
    """Show everything about one NAME (`npm:` shows what the prefix means)."""
    offered = _offered()
    entry = REGISTRY.get(name) or offered.get(name) or DYNAMIC.get(name.partition(":")[0] if ":" in name else "")
    if entry is None:
        close = nearest(name, [*REGISTRY, *offered])
        raise UnknownName(
            f"There is no dependency {show(name)}.",
            hint=(f"Did you mean {close}? " if close else "") + "`moat deps list` shows what there is.",
        )
    data = _to_json(entry)
    if as_json:
        click.echo(json.dumps(data, indent=2))
        return
    for key, value in data.items():
        if value:
            text = ", ".join(value) if isinstance(value, list) else str(value)
            click.echo(f"{key + ':':<12}{text}")
    click.echo(f"{'to use it:':<12}add `- {_example(entry)}` under dependencies:")


def _offered() -> dict[str, Entry]:
    """Return what plugins bring, by name."""
    from moat_core.api import Moat

    offered = offered_dependencies(Moat(keep_going=True).dispatcher)
    return {name: make_entry(info) for name, info in offered.items()}


def _to_json(entry: Entry) -> dict[str, Any]:
    """Return the stable fields of ``--json``."""
    return {
        "name": entry.name,
        "type": entry.kind,
        "summary": entry.summary,
        "default": entry.default,
        "versions": list(entry.versions),
        "requires": list(entry.requires),
        "members": list(entry.members),
        "package": entry.package,
        "command": "" if entry.members or entry.kind == "dynamic" else entry.program,
        "source": entry.download.url if entry.download else "",
    }


def _example(entry: Entry) -> str:
    if entry.kind == "dynamic":
        return f"{entry.name}NAME"
    return f"{entry.name}@{entry.default}" if entry.default and entry.kind == "runtime" else entry.name
