"""``moat clean``: find whatever nobody needs any more, ask, remove it, and say what was done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import click

from moat_core.cli.context import CliContext, pass_cli, run_async
from moat_core.cli.options import confirm, dry_run_option, force_option, json_option
from moat_core.cli.render import format_size, print_json, print_problem, print_table, printable, say
from moat_core.errors import MoatError
from moat_core.types import Problem

if TYPE_CHECKING:
    from moat_core.api import Moat
    from moat_core.cli.remains import Item

__all__ = ["clean"]

_PASSES = 3
"""What is gone makes more unused: a container its image."""


@click.command("clean")
@force_option
@dry_run_option
@json_option
@pass_cli
def clean(context: CliContext, /, *, force: bool, dry_run: bool, as_json: bool) -> int:
    """Find and remove whatever nobody needs any more.

    That is: what dead owners left, runs that are over (stopped or failed) with what they kept and their logs,
    unused images and networks of moat's, and what no memory knows but its label tells. Live runs are not touched.
    Exits with 1 if something could not be removed.

    The fields of --json: dry_run; found, removed, failed (each a list of kind, name, run_id, reason, size_bytes;
    failed also message, hint); freed_bytes; problems.

    \b
    moat clean --dry-run
    moat clean
    moat clean -f --json
    """
    context.keep_going()

    async def body(moat: Moat) -> _Outcome:
        return await _clean(moat, force=force, dry_run=dry_run, as_json=as_json)

    # Dead owners are among what is listed: they are not finished before anybody was asked.
    outcome = run_async(context, body, reap=False)
    if as_json:
        print_json(outcome.to_json())
    for problem in outcome.problems:
        print_problem(problem)
    return 1 if outcome.failed or outcome.problems else 0


@attrs.define
class _Outcome:
    dry_run: bool
    found: list[Item] = attrs.field(factory=list)
    removed: list[Item] = attrs.field(factory=list)
    failed: list[tuple[Item, MoatError]] = attrs.field(factory=list)
    problems: list[Problem] = attrs.field(factory=list)

    @property
    def freed_bytes(self) -> int:
        return sum(item.size_bytes or 0 for item in self.removed)

    def to_json(self) -> dict[str, Any]:
        return {
            "dry_run": self.dry_run,
            "found": [item.to_json() for item in self.found],
            "removed": [item.to_json() for item in self.removed],
            "failed": [item.to_json() | {"message": error.message, "hint": error.hint} for item, error in self.failed],
            "freed_bytes": self.freed_bytes,
            "problems": [problem.to_json() for problem in self.problems],
        }


async def _clean(moat: Moat, *, force: bool, dry_run: bool, as_json: bool) -> _Outcome:
    from moat_core.cli.remains import find_remains, forget_rebuilding

    outcome = _Outcome(dry_run)
    for number in range(_PASSES):
        items, outcome.problems = await find_remains(moat)
        known = {item.key for item in outcome.found}
        items = [item for item in items if item.key not in known]
        if not items:
            break
        outcome.found += items
        if not as_json:
            _show(items, again=number > 0)
        if dry_run:
            return outcome
        size = format_size(sum(item.size_bytes or 0 for item in items))
        confirm(f"Remove {'this' if len(items) == 1 else f'these {len(items)}'} ({size})?", force=force)
        await _remove(items, outcome, as_json=as_json)
    if not dry_run:
        await forget_rebuilding(moat)
    if not as_json:
        _sum_up(outcome)
    return outcome


def _show(items: list[Item], *, again: bool) -> None:
    if again:
        say("With that gone, this is unused as well:")
    rows = [(item.kind, item.name, format_size(item.size_bytes), item.reason) for item in items]
    print_table(("KIND", "NAME", "SIZE", "WHY"), rows, shrink=3)


async def _remove(items: list[Item], outcome: _Outcome, *, as_json: bool) -> None:
    for item in items:
        try:
            await item.remove()
        except (MoatError, OSError) as error:
            ours = error if isinstance(error, MoatError) else MoatError(str(error))
            outcome.failed.append((item, ours))
            print_problem(Problem(f"{item.kind} {item.name} is still there: {ours.message}", ours.hint))
            continue
        outcome.removed.append(item)
        if not as_json:
            print("removed", item.kind, printable(item.name), flush=True)


def _sum_up(outcome: _Outcome) -> None:
    if not outcome.found:
        say("There is nothing to clean." if not outcome.problems else "Nothing to clean was found.")
        return
    text = f"{len(outcome.removed)} removed, {format_size(outcome.freed_bytes)} freed"
    say(text + (f", {len(outcome.failed)} could not be removed." if outcome.failed else "."))
