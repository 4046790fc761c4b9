"""``python -m moat_core.ledger.reaper [RUN_ID …]``: started by who keeps vigil when an owner has died.

It undoes once what dead owners left under ``MOAT_HOME``, says so in ``reaper.log`` there, and ends; whether that was
enough, and when it is tried again, is the vigil's affair (`moat_core.store.vigil`).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import anyio

from moat_core.errors import MoatError
from moat_core.fds import fill_standard_fds
from moat_core.hooks.dispatch import Dispatcher
from moat_core.hooks.manager import load_plugins
from moat_core.ledger.connections import Connections
from moat_core.ledger.upkeep import Reaped, Upkeep
from moat_core.logs import make_logger
from moat_core.store import Home, NewerStore, Store, default_home

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["main", "reap"]

_LOG_LIMIT_BYTES = 1024 * 1024


async def reap(home: Home, run_ids: Collection[str] = ()) -> Reaped:
    """Undo what the dead owners of RUN_IDS left under HOME; of all, if there is none.

    Where a newer moat's file lies, the runs' journals tell what that is.
    """
    try:
        return await _reap(Store(home, _say), run_ids)
    except NewerStore as error:
        _say(f"{error.message} What runs of ours have written down themselves is undone.")
        return await _reap(Store(home, _say, from_journals=True), run_ids)


async def _reap(store: Store, run_ids: Collection[str]) -> Reaped:
    try:
        async with Connections(store.home.path) as connections:
            dispatcher = Dispatcher(load_plugins(keep_going=True))
            upkeep = Upkeep(store, dispatcher, connections, automatic=True)
            return await upkeep.reap(run_ids, on_progress=_say)
    finally:
        store.close()


def _say(text: str) -> None:
    make_logger().info(text)


def _bound_log() -> None:
    """Begin the log anew when it has grown: nobody else ever would."""
    if sys.stderr.seekable() and sys.stderr.tell() > _LOG_LIMIT_BYTES:
        sys.stderr.truncate(0)


def main() -> int:
    """Reap, and say what was done."""
    fill_standard_fds()
    _bound_log()
    try:
        reaped = anyio.run(reap, Home(default_home()), sys.argv[1:])
    except MoatError as error:
        make_logger().error(error.message, hint=error.hint)
        return error.exit_code
    for run_id, what in reaped.released:
        make_logger(run_id=run_id).info("removed", what=what)
    for problem in reaped.problems:
        make_logger().error(problem.message, where=problem.where, hint=problem.hint)
    return 1 if reaped.problems else 0


if __name__ == "__main__":
    sys.exit(main())
