"""``moat destroy``: a run, with all that it kept."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import click

from moat_core.cli.context import CliContext, pass_cli, run_async
from moat_core.cli.options import confirm, dry_run_option, force_option, runs_argument
from moat_core.cli.render import printable
from moat_core.errors import MoatError, StoreError, TeardownError
from moat_core.store.paths import Lock
from moat_core.store.state import OVER

if TYPE_CHECKING:
    from moat_core.api import Moat, RunInfo

__all__ = ["destroy", "destroy_run"]


@click.command("destroy")
@runs_argument()
@force_option
@dry_run_option
@pass_cli
def destroy(context: CliContext, /, *, references: tuple[str, ...], force: bool, dry_run: bool) -> int:
    """Remove runs with all they kept: containers, logs, and the memory of them.

    A live one is killed first, after asking.

    \b
    moat destroy web
    moat destroy -f run-3f9c11a2
    moat destroy --dry-run web
    """
    from moat_core.cli.ending import choose, end_run, report

    context.keep_going()

    async def body(moat: Moat) -> int:
        runs, unknown = await choose(moat, references)
        errors: list[MoatError] = list(unknown)
        live = [info for info in runs if info.state not in OVER]
        if live and not dry_run:
            names = ", ".join(printable(info.name) for info in live)
            confirm(f"{names}: alive. Kill and remove?", force=force)
        for info in runs:
            shown = f"{printable(info.name)} ({info.id})"
            if dry_run:
                print("would destroy", shown, "and", ", ".join(_remains(moat, info)))
                continue
            try:
                if info.state not in OVER:
                    await end_run(moat, info, grace_s=0)
                await destroy_run(moat, info.id)
                print("destroyed", shown, flush=True)
            except MoatError as error:
                errors.append(error)
        return report(errors)

    return run_async(context, body)


def _remains(moat: Moat, info: RunInfo) -> list[str]:
    rows = moat.store.resources(info.id)
    return [f"{row.kind} {printable(str(row.data.get('name', '')))}".strip() for row in rows] + ["its log"]


async def destroy_run(moat: Moat, run_id: str) -> None:
    """Undo whatever a run that is over kept, and forget it.

    Raises:
        TeardownError: Something could not be undone; the run is then remembered, and can be tried again.
        StoreError: Somebody holds its lock.
    """
    upkeep = moat.upkeep()
    # What no row knows, because the store was broken, is found by label; before we hold the lock, since a run whose
    # lock is held counts as alive.
    found, _ = await upkeep.find_leftovers() if moat.store.run(run_id) is None else ([], [])
    moat.home.make()
    lock = Lock(moat.home.run_lock(run_id))
    if not lock.acquire():
        raise StoreError(f"Somebody is still working on {run_id}.", hint="Try again in a moment.")
    try:
        problems = await upkeep.destroy(run_id)
        for _, leftover in found:
            if leftover.run_id == run_id:
                await upkeep.release_leftover(leftover)
        if problems:
            message = "\n".join(problem.message for problem in problems)
            hint = "\n".join(dict.fromkeys(problem.hint for problem in problems if problem.hint))
            raise TeardownError(f"Not everything of {run_id} could be removed: {message}", hint=hint)
        remove_folder(moat.home.run_folder(run_id))
        moat.store.forget_run(run_id)
    finally:
        lock.release()


def remove_folder(path: str) -> None:
    """Remove a run's folder; it is only ours, so what is gone already is well.

    Raises:
        StoreError: It cannot be removed.
    """
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StoreError(
            f"{path} cannot be removed: {error.strerror or error}.", hint="Make it writable, or remove it by hand."
        ) from error
