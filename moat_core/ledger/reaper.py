"""``python -m moat_core.ledger.reaper``: what a watchdog becomes when its owner has died.

It undoes what dead owners left under ``MOAT_HOME``, whoever they were, says so in ``reaper.log`` there, and ends.
"""

from __future__ import annotations

import sys

import anyio

from moat_core.errors import MoatError
from moat_core.fds import fill_standard_fds
from moat_core.hooks.dispatch import Dispatcher
from moat_core.hooks.manager import load_plugins
from moat_core.ledger.connections import Connections
from moat_core.ledger.upkeep import Reaped, Upkeep
from moat_core.logs import make_logger
from moat_core.store import Home, Store, default_home

__all__ = ["main", "reap"]

_LOG_LIMIT_BYTES = 1024 * 1024


async def reap(home: Home) -> Reaped:
    """Undo what dead owners left under HOME."""
    store = Store(home, _say)
    try:
        async with Connections(home.path) as connections:
            dispatcher = Dispatcher(load_plugins(keep_going=True))
            return await Upkeep(store, dispatcher, connections, automatic=True).reap(on_progress=_say)
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
        reaped = anyio.run(reap, Home(default_home()))
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
