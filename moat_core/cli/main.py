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

    from moat_core.errors import MoatError

__all__ = ["main", "make_cli"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; the entry point passes it to `sys.exit`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    from moat_core.errors import MoatError

    # What a terminal's encoding has not got must not end in a traceback.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _answer(arguments)
        return _flushed(status)
    except MoatError as error:
        return _told([error], arguments)
    except BaseExceptionGroup as group:  # what a task group makes of an error
        errors = _flat(group)
        if any(isinstance(error, BrokenPipeError) for error in errors):
            return _unheard()
        ours = [error for error in errors if isinstance(error, MoatError)]
        if len(ours) < len(errors):
            raise
        return _told(ours, arguments)
    except BrokenPipeError:
        return _unheard()
    except KeyboardInterrupt:
        return 128 + 2


def _answer(arguments: list[str]) -> int:
    if "_MOAT_COMPLETE" not in os.environ:
        from moat_core.cli.quick import answer

        status = answer(arguments)
        if status is not None:
            return status
    return _full(arguments)


def _flushed(status: int) -> int:
    """Write what is still in our buffer: at the interpreter's own exit it would be too late to say what is wrong."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        from moat_core.errors import EXIT_OURS, HostError

        _silence()
        _told([HostError(f"The output cannot be written: {error.strerror}.")], [])
        return EXIT_OURS
    return status


def _told(errors: list[MoatError], arguments: list[str]) -> int:
    from moat_core.cli.render import print_error

    for error in errors:
        print_error(error, as_json="--json" in arguments)
    return max(error.exit_code for error in errors)


def _flat(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_flat(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


def _unheard() -> int:
    """The reader of our output has left (`moat list | head`): there is nobody to tell."""
    _silence()
    return 128 + 13


def _silence() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _full(arguments: list[str]) -> int:
    import click

    from moat_core.errors import EXIT_USAGE

    try:
        result = make_cli().main(arguments, prog_name="moat", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help())
        return EXIT_USAGE
    except click.UsageError as error:
        error.show()
        return EXIT_USAGE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 128 + 2
    except SystemExit:
        if isinstance(sys.stdout, click.utils.PacifyFlushWrapper):
            raise BrokenPipeError from None  # click's own answer to it would be exit 1
        raise
    return result if isinstance(result, int) else 0


def make_cli() -> click.Group:
    """Return the whole command, plugins' verbs included, as a click group."""
    from moat_core.cli.group import cli

    return cli
