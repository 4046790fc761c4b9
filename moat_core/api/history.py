"""What becomes of runs that are over: forgotten by age and number, with their logs; a little at a time."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from moat_core.errors import ConfigError
from moat_core.store.paths import Lock
from moat_core.types import Problem

if TYPE_CHECKING:
    from moat_core.config import Config, HistoryConfig
    from moat_core.store import Store

__all__ = ["check_origin", "forget_old"]

_AT_ONCE = 200
_NOT_A_WORKSPACE = ("default", "user config ", "environment ", "flag ", "option ", "argument")
_DAY_S = 24 * 3600.0


def check_origin(config: Config) -> HistoryConfig:
    """Return what CONFIG says of history.

    Raises:
        ConfigError: A workspace says it: what others' runs have left is not its to decide on.
    """
    problems = [
        Problem("`history` is not for a workspace to decide.", "Put it into your own config.", where=origin)
        for key in ("history.days", "history.runs")
        if not (origin := config.origin(key)).startswith(_NOT_A_WORKSPACE)
    ]
    if problems:
        raise ConfigError(problems)
    return config.core.history


def forget_old(store: Store, limits: HistoryConfig) -> list[str]:
    """Forget some of the oldest runs that are too many or too old, and return which; never one that left something."""
    surplus = store.count_past() - limits.runs
    before = time.time() - limits.days * _DAY_S
    forgotten = []
    for run_id, ended in store.past_runs(_AT_ONCE):
        if (surplus > 0 or ended < before) and _forget(store, run_id):
            forgotten.append(run_id)
            surplus -= 1
    return forgotten


def _forget(store: Store, run_id: str) -> bool:
    lock = Lock(store.home.run_lock(run_id))
    if not lock.acquire():
        return False  # somebody destroys it just now
    try:
        shutil.rmtree(store.home.run_folder(run_id), ignore_errors=True)
        store.forget_run(run_id)
    finally:
        lock.release()
    return True
