"""Options and arguments that several verbs share, so that they mean the same everywhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from moat_core import checks
from moat_core.errors import InvalidValue, MoatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.shell_completion import CompletionItem

__all__ = [
    "SECONDS",
    "SECONDS_OR_NONE",
    "complete_runs",
    "confirm",
    "dry_run_option",
    "force_option",
    "json_option",
    "run_argument",
    "runs_argument",
]


class _Seconds(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A finite number of seconds, more than 0 or at least 0."""

    name = "seconds"

    def __init__(self, *, zero: bool) -> None:
        self._check = checks.seconds if zero else checks.positive_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return self._check(float(value), "It")
        except InvalidValue as error:
            self.fail(error.message, param, ctx)
        except ValueError:
            self.fail(f"{value!r} is no number of seconds.", param, ctx)


SECONDS, SECONDS_OR_NONE = _Seconds(zero=False), _Seconds(zero=True)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, alone on stdout.")
force_option = click.option("-f", "--force", is_flag=True, help="Do not ask.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")


def complete_runs(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names and ids of remembered runs: a look into the store, no engine is asked."""
    from click.shell_completion import CompletionItem

    from moat_core.store import Home, Store, default_home

    store = Store(Home(default_home()))
    try:
        rows = store.runs()
    except MoatError:
        return []  # a completion has nobody to complain to
    finally:
        store.close()
    words = {row.name: f"{row.id} {row.workspace}" for row in reversed(rows)}
    if incomplete.startswith("run-"):
        words = {row.id: row.name for row in rows}
    return [CompletionItem(word, help=about) for word, about in words.items() if word.startswith(incomplete)]


def run_argument(*, required: bool = True) -> Callable[[Any], Any]:
    """Return the argument RUN: an id, a unique id prefix or a name."""
    metavar = "RUN" if required else "[RUN]"
    return click.argument("reference", metavar=metavar, required=required, shell_complete=complete_runs)


def runs_argument(*, required: bool = True) -> Callable[[Any], Any]:
    """Return the argument RUN…."""
    metavar = "RUN..." if required else "[RUN]..."
    return click.argument("references", metavar=metavar, nargs=-1, required=required, shell_complete=complete_runs)


def confirm(question: str, *, force: bool) -> None:
    """Ask, unless FORCE; a "no" aborts (exit 130, as Ctrl-C does).

    Raises:
        UsageError: Nobody is there to answer.
    """
    if force:
        return
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("Nobody can be asked: this is no terminal.", hint="Add -f to go on without asking.")
    click.confirm(question, abort=True, err=True)
