"""The ``moat`` command: its verbs, and what becomes of errors.

Nothing heavy is imported before a verb needs it: ``moat version`` and a plain ``moat list`` answer without click,
plugins or an event loop (see `moat_core.cli.quick`).
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import click

    from moat_core.errors import MoatError

__all__ = ["main", "make_cli"]

_INTERRUPTED = 128 + 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; the entry point passes it to `sys.exit`."""
    if argv is None:  # the process is ours
        from moat_core.cli.early import leave_at_once

        leave_at_once()
    from moat_core.cli.output import settle_streams
    from moat_core.fds import fill_standard_fds

    fill_standard_fds()
    settle_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    status = _guarded(lambda: _answer(arguments), arguments)
    # At the interpreter's own exit it would be too late to say what is wrong.
    return _guarded(sys.stdout.flush, arguments) or status


def _guarded(action: Callable[[], int | None], arguments: list[str]) -> int:
    """Return the exit status that ACTION returns, or that its error has."""
    try:
        return action() or 0
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (Exception, BaseExceptionGroup) as error:
        known = _explain(error, arguments)
        if known is None:
            raise
        return known


def _explain(error: BaseException, arguments: list[str]) -> int | None:
    """Tell the user what went wrong, and return the exit status; ``None`` if it is a bug of ours."""
    from moat_core.cli.output import OutputLost
    from moat_core.errors import HostError, MoatError

    errors = _flat(error)
    for each in errors:
        if isinstance(each, OutputLost):
            sentence = f"The output cannot be written: {each.strerror}."
            return _tell([HostError(sentence, hint="Where it goes to is full, or has gone.")], arguments)
    ours = [each for each in errors if isinstance(each, MoatError)]
    if len(ours) == len(errors):
        return _tell(ours, arguments)
    if any(isinstance(each, BrokenPipeError) for each in errors):
        _silence()  # the reader of our output has left (`moat list | head`): there is nobody to tell
        return 128 + 13
    if any(isinstance(each, KeyboardInterrupt) for each in errors):
        return _INTERRUPTED
    if isinstance(error, OSError) and not {"-v", "--verbose"} & set(arguments[:1]):
        return _tell([_refusal(error)], arguments)
    return None


def _answer(arguments: list[str]) -> int:
    if "_MOAT_COMPLETE" not in os.environ:
        from moat_core.cli.quick import answer

        status = answer(arguments)
        if status is not None:
            return status
    return _full(arguments)


def _tell(errors: list[MoatError], arguments: list[str]) -> int:
    from moat_core.cli.render import print_error

    for error in errors:
        print_error(error, as_json=_wants_json(arguments))
    return max(error.exit_code for error in errors)


def _wants_json(arguments: list[str]) -> bool:
    """Whether ``--json`` is among our own arguments, and not among those of a command of the user's."""
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    values = {number + 1 for number, word in enumerate(ours) if word == "--without"}
    verb = next((word for number, word in enumerate(ours) if word[:1] != "-" and number not in values), "")
    return "--json" in ours and verb != "exec"  # exec has none, and takes a command without dashes before it


def _refusal(error: OSError) -> MoatError:
    """The system refused something that nobody expected to be refused."""
    from moat_core.errors import HostError

    what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    return HostError(f"The system refused: {what}.", hint="`moat -v …` shows where.")


def _flat(error: BaseException) -> list[BaseException]:
    """Return the errors that a task group has packed together."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for each in error.exceptions for leaf in _flat(each)]


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
        return _INTERRUPTED
    except SystemExit:
        if type(sys.stdout).__name__.endswith("PacifyFlushWrapper"):
            raise BrokenPipeError from None  # click has noticed it, and would exit with 1
        raise
    return result if isinstance(result, int) else 0


def make_cli() -> click.Group:
    """Return the whole command, plugins' verbs included, as a click group."""
    from moat_core.cli.group import cli

    return cli
