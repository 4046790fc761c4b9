"""Which runs there are: what the store remembers, joined with what the engines say."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

import attrs

from moat_core.errors import EngineError, HostError, RuntimeUnavailable
from moat_core.store.paths import is_locked
from moat_core.store.state import OVER, entry, is_over, kept_runs, match, needs_engine
from moat_core.types import RunState

if TYPE_CHECKING:
    from moat_core.runtime.base import Runtime, SandboxInfo
    from moat_core.store import RunRow, Store

__all__ = ["RunInfo", "find_run", "list_runs", "match_run"]

_STATE_OF_LOST = {RunState.EXITED: RunState.KEPT, RunState.KEPT: RunState.KEPT}
Connect = Callable[[str, str], Awaitable["Runtime"]]


@attrs.frozen
class RunInfo:
    """One run as a listing shows it; the fields of ``moat list --json``, less ``sandbox``.

    Args:
        state: The engine's answer, and the owner's lock.
        oci_runtime: What it was really started with; ``""`` before the start.
        created: Seconds since 1970, UTC; ``None`` for a container that the store has lost.
        owner_kind: ``foreground``, ``detached``, ``library``, or ``lost``.
        sandbox: The engine's own words, if it has the container.
        engine_error: Why the engine could not be asked.
    """

    id: str
    name: str
    state: RunState
    runtime: str
    oci_runtime: str
    workspace: str
    command: tuple[str, ...] | None
    ports: dict[str, int]
    urls: dict[str, str]
    created: float | None
    ended: float | None
    exit_code: int | None
    owner_kind: str
    owner_pid: int | None
    error: str | None
    address: str
    sandbox: SandboxInfo | None = None
    engine_error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the stable fields of ``moat list --json``."""
        return attrs.asdict(self, filter=lambda field, _: field.name != "sandbox")


async def list_runs(store: Store, connect: Connect, runtimes: Iterable[str], *, over: bool = False) -> list[RunInfo]:
    """Return runs, newest first. An engine that does not answer hides nothing: the error is in the entry.

    Only engines that have a say are asked: those of runs that are alive or kept something.

    Args:
        runtimes: Registered runtimes, whose default engine is asked too when the store has lost what it knew (its
            file was broken): containers are then found by label.

    Raises:
        RuntimeUnavailable, EngineError: The store has lost what it knew, and no engine answers.
    """
    rows = store.runs() if over else store.present_runs()
    has_say, lost = needs_engine(store), store.note("rebuilt") is not None
    asked = {(row.runtime, row.address) for row in rows if has_say(row)}
    asked |= {(name, "") for name in runtimes if lost and name not in {runtime for runtime, _ in asked}}
    sandboxes: dict[str, SandboxInfo] = {}
    engines: dict[str, tuple[str, str]] = {}
    errors: dict[tuple[str, str], HostError] = {}
    for engine in sorted(asked):
        try:
            found = await (await connect(*engine)).find_sandboxes()
        except (RuntimeUnavailable, EngineError) as error:
            errors[engine] = error
            continue
        for info in found:
            if info.role == "main":
                sandboxes[info.run_id] = info
                engines[info.run_id] = engine
    if lost and not rows and errors and len(errors) == len(asked):
        raise next(iter(errors.values()))
    kept = kept_runs(store)
    infos = [
        _from_row(store, row, sandboxes.get(row.id), _error(errors, row), kept=row.id in kept)
        if has_say(row)
        else _from_row(store, row)
        for row in rows
    ]
    known = {row.id for row in rows}
    if lost:
        # One engine may serve several homes: a run of ours has its folder here.
        infos += [
            _lost(store, info, *engines[run])
            for run, info in sandboxes.items()
            if run not in known and store.run(run) is None and os.path.isdir(store.home.run_folder(run))
        ]
    return [info for info in infos if over or not is_over(info.state)]


async def find_run(store: Store, connect: Connect, runtimes: Iterable[str], reference: str) -> RunInfo:
    """Return the run that REFERENCE (id, unique id prefix, name) means; a live one before those that are over.

    Raises:
        UnknownName: None or several match; the hint names them.
    """
    return match_run(await list_runs(store, connect, runtimes, over=True), reference)


def match_run(infos: list[RunInfo], reference: str) -> RunInfo:
    """See `find_run`."""
    return match(infos, reference, key=lambda info: (info.id, info.name), is_live=lambda info: info.state not in OVER)


def _error(errors: dict[tuple[str, str], HostError], row: RunRow) -> str:
    return str(errors.get((row.runtime, row.address), ""))


def _from_row(
    store: Store, row: RunRow, sandbox: SandboxInfo | None = None, error: str = "", *, kept: bool = False
) -> RunInfo:
    said = {"state": sandbox.state, "oci_runtime": sandbox.oci_runtime} if sandbox else None
    fields = entry(row, said, locked=is_locked(store.home.run_lock(row.id)), error=error, kept=kept)
    fields["state"] = RunState(fields["state"])
    fields["command"] = tuple(row.command) if row.command is not None else None
    return RunInfo(**fields, sandbox=sandbox)


def _lost(store: Store, sandbox: SandboxInfo, runtime: str, address: str) -> RunInfo:
    """A container with our label that the store does not know: its file was broken, or is another's."""
    alive = is_locked(store.home.run_lock(sandbox.run_id))
    return RunInfo(
        id=sandbox.run_id,
        name=sandbox.name,
        state=sandbox.state if alive else _STATE_OF_LOST.get(sandbox.state, RunState.FAILED),
        runtime=runtime,
        oci_runtime=sandbox.oci_runtime,
        workspace="",
        command=None,
        ports={},
        urls={},
        created=None,
        ended=None,
        exit_code=sandbox.exit_code,
        owner_kind="lost",
        owner_pid=None,
        error=None,
        address=address,
        sandbox=sandbox,
    )
