"""What the documentation needs beyond Sphinx.

- In a page, a line ``<!-- moat-cli -->`` becomes one section a verb, made from click itself: usage, help, options.
- An error's bare name in a docstring's ``Raises:`` leads to its entry, wherever the docstring is.
- The docstring of an attribute is prose: napoleon would take what stands before a colon for a type.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
from sphinx.ext.napoleon.docstring import GoogleDocstring

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

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
        yield from (
            "",
            f"{'#' * level} `{title}`",
            "",
            "```text",
            context.get_usage().removeprefix("Usage: "),
            "```",
            "",
        )
        yield from (_prose(command.help or ""), "", *_options(command, context))
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below is not None
                yield from _verb(below, context, f"{title} {name}", level=level + 1)


def _prose(text: str) -> str:
    """Return click's help as Markdown: what follows a ``\\b`` keeps its lines."""
    parts = []
    for part in inspect.cleandoc(text.split("\f", maxsplit=1)[0]).split("\n\n"):
        kept = part.removeprefix("\b\n")
        parts.append(part if kept == part else f"```text\n{kept}\n```")
    return "\n\n".join(parts)


def _options(command: click.Command, context: click.Context) -> list[str]:
    # An argument without a name to show only catches what was put in the wrong place.
    shown = [each for each in command.get_params(context) if each.make_metavar(context)]
    records = [record for each in shown if (record := each.get_help_record(context))]
    if not records:
        return []
    rows = [f"| `{_cell(names)}` | {_cell(text)} |" for names, text in records]
    return ["| option | |", "|---|---|", *rows]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _fill_in(_app: Sphinx, _name: str, content: list[str]) -> None:
    if MARK in content[0]:
        content[0] = content[0].replace(MARK, reference())


def _find_error(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Element | None:
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or "." in target:
        return None
    node["reftarget"] = f"moat_core.errors.{target}"
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "exc", node["reftarget"], node, content)


def _take_prose(self: GoogleDocstring) -> tuple[str, list[str]]:
    return "", self.__class__(self._dedent(self._consume_to_end()), self._config).lines()


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry point."""
    app.connect("source-read", _fill_in)
    app.connect("missing-reference", _find_error)
    GoogleDocstring._consume_inline_attribute = _take_prose  # type: ignore[method-assign] # noqa: SLF001
    return {"parallel_read_safe": True}
