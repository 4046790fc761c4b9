"""The click group: built-in verbs by a table, plugins' verbs by a hook, each imported when it is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from moat_core.cli.context import CliContext, pass_cli
from moat_core.errors import MoatError, PluginError, unwrap
from moat_core.runtime.load import load_attribute
from moat_core.types import CommandInfo

__all__ = ["BUILTIN", "cli"]

_NEAR = 0.7
"""difflib's own 0.6 takes wholly different words for each other."""

BUILTIN: tuple[CommandInfo, ...] = tuple(
    CommandInfo(name, summary, f"moat_core.cli.commands.{module}:{attribute}")
    for name, summary, module, attribute in (
        ("run", "Run a command, or the agent of a workspace, in isolation.", "run", "run"),
        ("list", "List runs.", "list", "list_"),
        ("status", "Sum up runs, images, disk and leftovers.", "status", "status"),
        ("logs", "Show the output of a run's own command.", "logs", "logs"),
        ("exec", "Run a command inside a live run.", "exec", "exec_"),
        ("stop", "Stop a run; everything of it is undone.", "stop", "stop"),
        ("destroy", "Remove a run with all it kept, and its log.", "destroy", "destroy"),
        ("clean", "Find and remove whatever nobody needs any more.", "clean", "clean"),
        ("doctor", "Check this machine, and say what mends it.", "doctor", "doctor"),
        ("plugins", "Show what is loaded.", "plugins", "plugins"),
        ("hooks", "Show hooks and who implements them, in call order.", "hooks", "hooks"),
        ("config", "Show, check and explain the configuration.", "config", "config"),
        ("system", "Show the engine's images, containers and networks of moat.", "system", "system"),
        ("completion", "Print the completion script of a shell.", "completion", "completion"),
        ("version", "Print moat's version.", "version", "version"),
    )
)


class _Group(click.Group):
    """Verbs by name; a plugin that adds one that exists is told so."""

    def _infos(self, ctx: click.Context) -> dict[str, CommandInfo]:
        return {name: info for name, (info, _) in self._owned(ctx).items()}

    def _owned(self, ctx: click.Context) -> dict[str, tuple[CommandInfo, str]]:
        """Return the verbs, each with the plugin that it is of; ``""`` for moat's own."""
        owned = {info.name: (info, "") for info in BUILTIN}
        for plugin, info in _plugin_commands(ctx):
            if info.name in owned:
                other = owned[info.name][1]
                raise PluginError(
                    f"Plugin '{plugin}' adds the verb '{info.name}', which {_quoted(other)} has already.",
                    hint=f"Go without it: --without {plugin}.",
                )
            owned[info.name] = info, plugin
        return owned

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._infos(ctx))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        builtin = {info.name: (info, "") for info in BUILTIN}
        # A built-in verb works even when a plugin is broken.
        info, plugin = builtin.get(cmd_name) or self._owned(ctx).get(cmd_name) or (None, "")
        if info is None:
            return None
        if not plugin:
            command: click.Command = load_attribute(info.load)
        else:
            with ctx.ensure_object(CliContext).moat.dispatcher.calling(plugin, f"the verb {info.name}"):
                command = _guard(load_attribute(info.load), plugin)
        command.name = info.name
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            word, verbs = args[0] if args else "", self.list_commands(ctx)
            near = [verb for verb in verbs if sorted(verb) == sorted(word)]
            near = near or difflib.get_close_matches(word, verbs, 3, cutoff=_NEAR)
            hint = f" Did you mean {' or '.join(near)}?" if near else " See `moat --help`."
            raise click.UsageError(error.message.rstrip(".") + "." + hint, ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # From the table, so that help imports no verb.
        with formatter.section("Commands"):
            formatter.write_dl([(info.name, info.summary) for info in self._infos(ctx).values()])


def _guard(command: click.Command, plugin: str) -> click.Command:
    """Return COMMAND, a plugin's verb: what it raises that is neither click's nor ours is the plugin's bug."""
    invoke = command.invoke

    def guarded(ctx: click.Context) -> Any:
        try:
            return invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit, MoatError, OSError):
            raise  # they have their own ways
        except Exception as raised:  # noqa: BLE001 - whatever a stranger's code raises
            error = unwrap(raised)
            if isinstance(error, OSError):
                raise error from None
            with ctx.ensure_object(CliContext).moat.dispatcher.calling(plugin, f"the verb {ctx.info_name}"):
                raise error from None

    command.invoke = guarded  # type: ignore[method-assign]
    return command


def _quoted(plugin: str) -> str:
    return f"plugin '{plugin}'" if plugin else "moat"


def _plugin_commands(ctx: click.Context) -> Iterator[tuple[str, CommandInfo]]:
    context = ctx.ensure_object(CliContext)
    context.without = tuple(ctx.params.get("without") or ())  # click asks for the verb before it calls `cli`
    try:
        yield from context.moat.dispatcher.collect_items("moat_register_commands")
    except MoatError as error:
        # Help and completion must work all the same; using a verb of that plugin says more.
        click.echo(f"moat: {error}", err=True)


@click.group(
    cls=_Group,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--without", "without", metavar="PLUGIN", multiple=True, help="Leave a plugin out; may be repeated.")
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr; with errors, where they came from.")
@click.version_option(None, "--version", package_name="moat", prog_name="moat", message="%(prog)s %(version)s")
@pass_cli
def cli(context: CliContext, /, **options: Any) -> None:
    """Run agents and other untrusted code in isolated containers.

    \b
    moat run -- pytest -q          the current folder's tests, in gVisor
    moat run -d --name web .       what agent.yaml says, in the background
    moat list                      what is alive
    """
    context.set_options(**options)
