"""Owners that are killed at every step of the ledger, and what must be true afterwards. The engine does not matter.

An owner is a command line: a program that uses the library, ``moat run`` or ``moat run -d``. Its steps are counted by
letting it live once; then it is run again and killed after the first step, after the second, and so on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from moat_core.store import Home, Store
from moat_core.store.paths import is_locked

__all__ = ["DETACHED", "FOREGROUND", "LIBRARY", "WITHIN_S", "Owner", "Place", "processes_of", "wait_until_still"]

WITHIN_S = 10.0
"""Within so long nothing is left of a dead owner, on a machine that has the time for it."""

MOAT = (sys.executable, "-c", "import sys; from moat_core.cli.main import main; sys.exit(main())")
_PROGRAM = """
import asyncio, sys
from moat_core import Moat

async def main():
    async with Moat() as moat:
        async with moat.run(sys.argv[1]) as run:
            await run.exec(["true"])

asyncio.run(main())
"""


@attrs.frozen
class Owner:
    """A kind of owner.

    Args:
        argv: How it is started, in the workspace.
        stop: A command that ends it in order, if it does not end by itself.
    """

    name: str
    argv: tuple[str, ...]
    stop: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return self.name


LIBRARY = Owner("library", (sys.executable, "-c", _PROGRAM, "."))
FOREGROUND = Owner("moat run", (*MOAT, "run", "--", "true"))
DETACHED = Owner("moat run -d", (*MOAT, "run", "-d", "--name", "chaos"), stop=(*MOAT, "stop", "chaos"))


@attrs.define
class Place:
    """A home and a workspace of its own, in which owners live and die.

    Args:
        folder: Where it all lies.
        environ: What makes the engine, added to our environment.
        remains: What is on the engine of runs of that home.
    """

    folder: Path
    environ: dict[str, str]
    remains: Callable[[Store], list[str]]
    home: Home = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.home = Home(self.folder / "home")
        (self.folder / "workspace").mkdir(parents=True)

    @property
    def full_environ(self) -> dict[str, str]:
        support = str(Path(__file__).parent)
        plugins = ",".join(filter(None, [self.environ.get("MOAT_PLUGINS"), "killer"]))
        return {
            **os.environ,
            **self.environ,
            "MOAT_HOME": self.home.path,
            "MOAT_PLUGINS": plugins,
            "PYTHONPATH": support,
            "CHAOS_LOG": str(self.folder / "steps"),
        }

    def steps(self) -> list[str]:
        """Return the steps that were told so far."""
        log = self.folder / "steps"
        return log.read_text().splitlines() if log.exists() else []

    def live(self, owner: Owner) -> list[str]:
        """Let OWNER live to its end; return its steps."""
        for argv in filter(None, [owner.argv, owner.stop]):
            self.command(argv, check=True)
        return self.steps()

    def start(self, owner: Owner, name: str, stop_at: int | str) -> subprocess.Popen[bytes]:
        """Start one of several owners, which stands still at its step STOP_AT; see `wait_until_still`."""
        environ = {"CHAOS_LOG": str(self.folder / f"steps-{name}"), "CHAOS_STOP_AT": str(stop_at)}
        with (self.folder / f"errors-{name}").open("wb") as errors:
            return subprocess.Popen(
                owner.argv,
                cwd=self.folder / "workspace",
                env=self.full_environ | environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def errors(self) -> str:
        """Return what owners and reapers have said."""
        files = [*self.folder.glob("errors-*"), *Path(self.home.path).glob("*.log")]
        return "".join(path.read_text(errors="replace") for path in files)

    def die(self, owner: Owner, at: int, *, watchdog_too: bool = False) -> float:
        """Kill OWNER after its step AT; return when it is dead, with the seconds that it lived."""
        began = time.monotonic()
        environ = {"CHAOS_KILL_AT": str(at)} | ({"CHAOS_KILL_WATCHDOG": "1"} if watchdog_too else {})
        done = self.command(owner.argv, environ)
        if owner.stop is not None and len(self.steps()) < at:
            assert done.returncode == 0, done.stderr
            self.command(owner.stop, environ)
        assert len(self.steps()) >= at, done.stderr
        return time.monotonic() - began

    def left_by(self, owner: Owner, at: int) -> list[str]:
        """Kill OWNER after its step AT; return what is left of it after `WITHIN_S`.

        Where the owner itself took longer than that, on a machine that is busy with other tests, so may the reaper.
        """
        return self.wait_until_empty(max(WITHIN_S, 1.5 * self.die(owner, at)))

    def command(self, argv: tuple[str, ...], environ: dict[str, str] | None = None, *, check: bool = False):
        """Run a command in the workspace."""
        done = subprocess.run(
            argv,
            cwd=self.folder / "workspace",
            env={**self.full_environ, **(environ or {})},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def left(self) -> list[str]:
        """Return all that is there of any run: on the engine, rows, locks, processes."""
        store = Store(self.home)
        try:
            rows = [f"row {row.kind}" for row in store.resources()]
            unfinished = [f"{run_id} is not over" for run_id in store.unfinished()]
            locked = [f"{row.id} is locked" for row in store.runs() if is_locked(self.home.run_lock(row.id))]
            remains = self.remains(store)
        finally:
            store.close()
        return [*remains, *rows, *unfinished, *locked, *processes_of(self.home)]

    def wait_until_empty(self, seconds: float) -> list[str]:
        """Wait until nothing is left; return what still is when SECONDS are over."""
        deadline = time.monotonic() + seconds
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left


def wait_until_still(processes: list[subprocess.Popen[bytes]], seconds: float) -> None:
    """Wait until each stands still, or is over."""
    deadline = time.monotonic() + seconds
    while not all(each.poll() is not None or _state(each.pid) == "T" for each in processes):
        assert time.monotonic() < deadline, [(each.pid, _state(each.pid)) for each in processes]
        time.sleep(0.05)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def processes_of(home: Home) -> list[str]:
    """Return the processes that belong to a home: owners, watchdogs, reapers."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"MOAT_HOME={home.path}\0".encode() in environ.read_bytes() + b"\0":
                state = environ.with_name("stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z" and int(environ.parent.name) != os.getpid():
                    command = environ.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found.append(f"process {environ.parent.name}: {command[:200]}")
        except OSError:
            continue
    return found
