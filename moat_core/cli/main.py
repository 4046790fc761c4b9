"""The ``moat`` command: its verbs, and what becomes of errors.

Nothing heavy is imported before a verb needs it: ``moat version`` and a plain ``moat list`` answer without click,
plugins or an event loop (see `moat_core.cli.quick`).
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    import click

__all__ = ["main", "make_cli"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; the entry point passes it to `sys.exit`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    from moat_core.errors import MoatError

    try:
        if "_MOAT_COMPLETE" not in os.environ:
            from moat_core.cli.quick import answer

            status = answer(arguments)
            if status is not None:
                return status
        return _full(arguments)
    except MoatError as error:
        from moat_core.cli.render import print_error

        print_error(error, as_json="--json" in arguments)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output has left (`moat list | head`): there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except KeyboardInterrupt:
        return 128 + 2


def _full(arguments: list[str]) -> int:
    import click

    from moat_core.errors import EXIT_USAGE

    try:
        result = make_cli().main(arguments, prog_name="moat", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        return EXIT_USAGE
    except click.UsageError as error:
        error.show()
        return EXIT_USAGE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 128 + 2
    return result if isinstance(result, int) else 0


def make_cli() -> click.Group:
    """Return the whole command, plugins' verbs included, as a click group."""
    from moat_core.cli.group import cli

    return cli
