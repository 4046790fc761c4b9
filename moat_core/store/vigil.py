"""``python -m moat_core.store.vigil``: what a watchdog becomes when its owner has died.

One keeps vigil for a ``MOAT_HOME``; who comes second ends at once, since the first one looks again before it goes. It
has a lane for each engine: a thread that waits until the engine answers, starts the reaper for what is left there,
and tries again after a while, for a day at the most. So an engine that hangs holds up no other, and as long as
nothing can be done it is a small process (stdlib only) that waits.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

from moat_core.errors import StoreError
from moat_core.fds import fill_standard_fds
from moat_core.imports import process_argv
from moat_core.store.db import NewerStore, Store
from moat_core.store.paths import Home, Lock, default_home, is_locked
from moat_core.store.probing import FAILURES, call_probe, is_probe

TYPE_CHECKING = False
if TYPE_CHECKING:
    Engine = tuple[str, str]
    Dead = dict[Engine, list[str]]

__all__ = ["Vigil", "find_dead", "main"]

DAY_S = 24 * 3600.0
"""How long is waited for an engine; then the next command finds what is left."""
_LOOK_S = 0.5
_PROBE_S = 10.0
_RETRY_S = 2.0
_PAUSE_S = (0.5, 300.0)
_SHARE = 15
"""The pause after a try in vain is so small a part of the time that was waited already: 8 s after two minutes."""
_AT_ONCE = 200
_NOWHERE = ("", "")


def find_dead(home: Home) -> Dead:
    """Return the runs that nobody owns and that are not undone, by engine.

    Where a newer moat's file lies, their journals tell.

    Raises:
        StoreError: The state cannot be read just now.
    """
    for from_journals in (False, True):
        store = Store(home, from_journals=from_journals)
        try:
            return _group(store)
        except NewerStore:
            continue
        finally:
            store.close()
    return {}


def _group(store: Store) -> Dead:
    found: Dead = {}
    for run_id in store.unfinished():
        if is_locked(store.home.run_lock(run_id)):
            continue
        run = store.run(run_id)
        engine = (run.probe, run.address) if run is not None else _NOWHERE
        found.setdefault(engine, []).append(run_id)
    return found


class Vigil:
    """The one of HOME. Its life is `keep`."""

    def __init__(self, home: Home, *, patience_s: float = DAY_S) -> None:
        self._home = home
        self._until = time.monotonic() + patience_s
        self._lanes: dict[Engine, threading.Thread] = {}

    def keep(self) -> None:
        """Watch until nothing is left, or patience is; or another does so."""
        self._home.make()
        turn = Lock(os.path.join(self._home.path, "vigil.lock"))
        is_first = True
        # Whoever found the lock taken has gone; what they came for is seen by the look after it was given up.
        while (is_first or self._look()) and self._has_patience() and turn.acquire():
            try:
                if is_first and not self._look():
                    self._reap([])  # what no row tells
                self._watch()
            finally:
                turn.release(unlink=False)
            is_first = False

    def _watch(self) -> None:
        while self._has_patience():
            dead = self._look()
            for engine in dead:
                if engine not in self._lanes or not self._lanes[engine].is_alive():
                    self._lanes[engine] = threading.Thread(target=self._undo, args=(engine,), daemon=True)
                    self._lanes[engine].start()
            if not dead and not any(lane.is_alive() for lane in self._lanes.values()):
                return
            time.sleep(_LOOK_S)

    def _has_patience(self) -> bool:
        return time.monotonic() < self._until and os.path.isdir(self._home.path)

    def _look(self) -> Dead:
        try:
            return find_dead(self._home)
        except StoreError:
            # Broken is mended, newer is got round: it is locked, or the disk is full. It will be seen again.
            return {_NOWHERE: []}

    # -- a lane ----------------------------------------------------------------------------------------------

    def _undo(self, engine: Engine) -> None:
        """Undo what is left on ENGINE, as often as it takes."""
        began = time.monotonic()
        while self._has_patience() and engine in self._look():
            self._await_engine(engine)
            before = self._look().get(engine)
            if before is None:
                return  # a command was quicker
            self._reap(before[:_AT_ONCE])
            after = self._look().get(engine, [])
            if len(set(before) & set(after)) == len(before):
                pause = (time.monotonic() - began) / _SHARE
                self._pause(engine, set(before), min(max(pause, _PAUSE_S[0]), _PAUSE_S[1]))

    def _await_engine(self, engine: Engine) -> None:
        """Wait until ENGINE answers, or there is nothing to do. One that nobody can ask may as well answer."""
        probe, address = engine
        tries = 0
        while is_probe(probe) and self._has_patience():
            try:
                call_probe(probe, address, _PROBE_S, self._home.path)
                return
            except (TimeoutError, ConnectionError, FileNotFoundError):
                tries += 1
                time.sleep(min(0.05 * 2**tries, _RETRY_S))
                if engine not in self._look():
                    return
            except FAILURES:
                return  # it answers, if oddly; the reaper will say more

    def _pause(self, engine: Engine, known: set[str], pause_s: float) -> None:
        """Wait; not when somebody else has died there meanwhile."""
        until = time.monotonic() + pause_s
        while time.monotonic() < until and self._has_patience():
            left = self._look().get(engine, [])
            if not left or set(left) - known:
                return
            time.sleep(_LOOK_S)

    def _reap(self, run_ids: list[str]) -> None:
        """Have the reaper undo these runs (all if there is none), and what only labels tell."""
        argv = process_argv("moat_core.ledger.reaper", *run_ids)
        subprocess.run(argv, check=False, stdin=subprocess.DEVNULL)


def main() -> int:
    """Keep vigil."""
    fill_standard_fds()
    try:
        Vigil(Home(default_home())).keep()
    except StoreError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
