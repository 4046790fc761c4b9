"""Finding what nobody needs any more, each with what removes it: the work behind ``moat clean``."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from moat_core.cli.commands.destroy import destroy_run, remove_folder
from moat_core.cli.commands.status import folder_size
from moat_core.errors import MoatError, RuntimeUnavailable, StoreError, TeardownError
from moat_core.store.paths import Lock
from moat_core.types import RUN_ID_RE, Leftover, Problem, RunState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moat_core.api import Moat, RunInfo
    from moat_core.ledger import Upkeep

__all__ = ["Item", "find_remains", "forget_rebuilding"]


@attrs.frozen
class Item:
    """One thing that may go, and what removes it (raises `MoatError` or OSError if that fails)."""

    kind: str
    name: str
    reason: str
    remove: Callable[[], Awaitable[None]]
    run_id: str | None = None
    size_bytes: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The same for the same thing, found again."""
        return self.kind, self.name

    def to_json(self) -> dict[str, Any]:
        """Return the stable fields."""
        fields = ("kind", "name", "run_id", "reason", "size_bytes")
        return {name: getattr(self, name) for name in fields}


async def find_remains(moat: Moat) -> tuple[list[Item], list[Problem]]:
    """Return everything that may go, in the order in which it should, and what could not be looked at."""
    upkeep = moat.upkeep()
    dead = set(upkeep.dead_runs())
    infos = [info for info in await moat.list(over=True) if not upkeep.is_live(info.id)]
    items = [_run_item(moat, upkeep, info, dead=info.id in dead) for info in infos if info.owner_kind != "lost"]
    # A ledger row whose run's row is gone: nobody else would ever find it.
    items += [_orphan_item(moat, upkeep, run_id) for run_id in dead - {info.id for info in infos}]
    leftovers, problems = await upkeep.find_leftovers()
    items += [_leftover_item(upkeep, each) for _, each in leftovers]
    items += _files(moat)
    return items, problems


def _run_item(moat: Moat, upkeep: Upkeep, info: RunInfo, *, dead: bool) -> Item:
    kept = [row for row in moat.store.resources(info.id) if row.state == "kept"]
    if dead:
        reason = "Its owner died."
    elif info.state == RunState.GONE:
        reason = str(info.error)
    elif info.state == RunState.FAILED:
        reason = f"It failed: {info.error or 'cancelled'}".partition("\n")[0]
    else:
        reason = "It is over" + (f", exit code {info.exit_code}." if info.exit_code is not None else ".")
    if kept and info.state != RunState.GONE:
        reason += f" It kept: {', '.join(str(row.data.get('name', row.kind)) for row in kept)}."
    remove = partial(_remove_run, moat, upkeep, info.id, info.engine_error, dead=dead)
    size = folder_size(moat.home.run_folder(info.id))
    return Item("run", f"{info.name} ({info.id})", reason, remove, info.id, size)


def _orphan_item(moat: Moat, upkeep: Upkeep, run_id: str) -> Item:
    remove = partial(_remove_run, moat, upkeep, run_id, "", dead=True)
    return Item("run", run_id, "Only what it made is remembered.", remove, run_id)


async def _remove_run(moat: Moat, upkeep: Upkeep, run_id: str, engine_error: str, *, dead: bool) -> None:
    if engine_error and moat.store.resources(run_id):
        # Trying would wait for the engine, once a resource.
        raise RuntimeUnavailable(engine_error, hint="Start the engine, then run `moat clean` again.")
    if dead and run_id in upkeep.dead_runs():
        reaped = await upkeep.reap()  # of all dead ones; it also waits for what the engine may still be making
        problems = [each for each in reaped.problems if each.where == run_id]
        if problems:
            raise TeardownError(problems[0].message, hint=problems[0].hint)
    await destroy_run(moat, run_id)


def _leftover_item(upkeep: Upkeep, leftover: Leftover) -> Item:
    async def remove() -> None:
        if leftover.run_id and upkeep.is_live(leftover.run_id):
            raise MoatError(f"Its run {leftover.run_id} is alive by now.")
        await upkeep.release_leftover(leftover)

    return Item(leftover.kind, leftover.name, leftover.reason, remove, leftover.run_id, leftover.size_bytes)


def _files(moat: Moat) -> Iterator[Item]:
    """Yield files under MOAT_HOME that belong to nothing: folders of forgotten runs, state files put aside."""
    known = {row.id for row in moat.store.runs()}
    found = {*_names(moat.home.runs), *(name.removesuffix(".lock") for name in _names(moat.home.locks))}
    upkeep = moat.upkeep()
    for run_id in sorted(found - known):
        if RUN_ID_RE.fullmatch(run_id) and not upkeep.is_live(run_id) and not upkeep.is_known(run_id):
            size = folder_size(moat.home.run_folder(run_id))
            remove = partial(_remove_files, moat, run_id)
            yield Item("run folder", run_id, "Its run is forgotten.", remove, run_id, size)
    prefix = os.path.basename(moat.home.database) + ".broken-"
    for name in _names(moat.home.path):
        if name.startswith(prefix):
            path = os.path.join(moat.home.path, name)
            yield Item("state file", name, "It was broken and put aside.", partial(_unlink, path), None, _size(path))


async def _remove_files(moat: Moat, run_id: str) -> None:
    lock = Lock(moat.home.run_lock(run_id))
    if not lock.acquire():
        raise MoatError(f"{run_id} is alive by now.")
    try:
        remove_folder(moat.home.run_folder(run_id))
    finally:
        lock.release()


async def _unlink(path: str) -> None:
    os.unlink(path)


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}.", hint="Make it readable.") from error


async def forget_rebuilding(moat: Moat) -> None:
    """Stop looking for containers by label in every listing, once none is left that the store has lost."""
    if moat.store.note("rebuilt") is None:
        return
    infos = await moat.list(over=True)
    if not any(info.owner_kind == "lost" for info in infos):
        moat.store.set_note("rebuilt", None)
