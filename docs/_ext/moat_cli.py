"""Writes the reference of the command line from click itself, so that it cannot fall behind.

In a page, a line ``<!-- moat-cli -->`` becomes one section a verb: its usage, its help and all of its options.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sphinx.application import Sphinx

MARK = "<!-- moat-cli -->"


def reference() -> str:
    """Return Markdown for every verb, those of the installed plugins included."""
    from moat_core.cli.main import make_cli

    group = make_cli()
    with click.Context(group, info_name="moat") as context:
        lines = ["### Before the verb", "", *_options(group, context)]
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            lines += _verb(command, context, f"moat {name}", level=3)
    return "\n".join(lines)


def _verb(command: click.Command, parent: click.Context, title: str, *, level: int) -> Iterator[str]:
    with click.Context(command, info_name=title.rpartition(" ")[2], parent=parent) as context:
        yield from ("", f"{'#' * level} `{title}`", "", "```text", context.get_usage().removeprefix("Usage: "), "```", "")
        yield from (_prose(command.help or ""), "", *_options(command, context))
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below is not None
                yield from _verb(below, context, f"{title} {name}", level=level + 1)


def _prose(text: str) -> str:
    """Return click's help as Markdown: what follows a ``\\b`` keeps its lines."""
    parts = []
    for part in inspect.cleandoc(text.split("\f")[0]).split("\n\n"):
        kept = part.removeprefix("\b\n")
        parts.append(part if kept == part else f"```text\n{kept}\n```")
    return "\n\n".join(parts)


def _options(command: click.Command, context: click.Context) -> list[str]:
    records = [record for parameter in command.get_params(context) if (record := parameter.get_help_record(context))]
    if not records:
        return []
    rows = [f"| `{_cell(names)}` | {_cell(text)} |" for names, text in records]
    return ["| option | |", "|---|---|", *rows]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _fill_in(_app: Sphinx, _name: str, content: list[str]) -> None:
    if MARK in content[0]:
        content[0] = content[0].replace(MARK, reference())


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry point."""
    app.connect("source-read", _fill_in)
    return {"parallel_read_safe": True}
