"""What a run is right now: the store's row, the owner's lock and the engine's word, joined.

One place for ``moat list``'s quick way, the full command and the library, so that they cannot differ. Plain strings
and dicts, stdlib only: the quick way imports this.
"""

from __future__ import annotations

from moat_core.errors import UnknownName

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypeVar

    from moat_core.store.db import RunRow, Store

    T = TypeVar("T")

GONE = "Its container is gone: it was kept, and has been removed from outside."

__all__ = ["GONE", "OVER", "entry", "is_over", "kept_runs", "match", "needs_engine", "state_of"]

OVER = ("exited", "failed", "kept", "gone")
"""The states of runs that are not alive."""


def state_of(row: RunRow, engine_state: str | None, *, locked: bool, asked: bool = True, kept: bool = False) -> str:
    """Return a run's state from the lock and the engine's word (``None``: it has no such container).

    ===========  ===========================  ==========================================
    owner        engine                       state
    ===========  ===========================  ==========================================
    lives        nothing, created             starting; stopping once it is finishing
    lives        running, paused              that
    lives        exited                       stopping
    gone         running, paused, created     failed: the reaper will have it
    gone         anything, with rows kept     kept
    gone         nothing, with rows kept      gone: it was removed from outside
    gone         nothing                      exited or failed, as it was written down
    either       does not answer              unknown, if its word is needed
    ===========  ===========================  ==========================================

    Args:
        asked: Whether the engine has answered, or its word is not needed.
        kept: Whether a container of it was kept, as far as we know.
    """
    if not asked:
        return "unknown"
    if locked:
        if engine_state in {"running", "paused"}:
            return str(engine_state)
        return "starting" if row.phase == "open" else "stopping"
    if row.phase == "over" and engine_state is not None:
        return "kept"
    if row.phase == "over" and kept:
        return "gone"
    return "exited" if row.phase == "over" and row.status == "finished" else "failed"


def needs_engine(store: Store) -> Callable[[RunRow], bool]:
    """Return what tells whether an engine has a say in a run's state: it is not over, or something was kept."""
    unfinished, kept = set(store.unfinished()), kept_runs(store)
    return lambda row: row.id in unfinished or row.id in kept


def kept_runs(store: Store) -> set[str]:
    """Return the runs of which something was kept."""
    return {resource.run_id for resource in store.resources() if resource.state == "kept"}


def entry(
    row: RunRow, sandbox: Mapping[str, Any] | None, *, locked: bool, error: str = "", kept: bool = False
) -> dict[str, Any]:
    """Return a run as ``moat list --json`` shows it; the fields are those of `moat_core.api.RunInfo`.

    Args:
        sandbox: What the engine says of its container: ``state`` and ``oci_runtime`` at least.
        error: Why the engine did not answer, if its word is needed.
        kept: See `state_of`.
    """
    engine_state = str(sandbox["state"]) if sandbox else None
    state = state_of(row, engine_state, locked=locked, asked=not error, kept=kept)
    return {
        "id": row.id,
        "name": row.name,
        "state": state,
        "runtime": row.runtime,
        "oci_runtime": (sandbox["oci_runtime"] if sandbox else None) or row.oci_runtime or "",
        "workspace": row.workspace,
        "command": row.command,
        "ports": row.ports,
        "urls": row.urls or {},
        "created": row.created,
        "ended": row.ended,
        "exit_code": row.exit_code,
        "owner_kind": row.owner_kind,
        "owner_pid": row.owner_pid if locked else None,
        "error": GONE if state == "gone" else row.error,
        "address": row.address,
        "engine_error": error,
    }


def is_over(state: str) -> bool:
    """Whether a plain listing leaves the run out: nothing of it is there any more."""
    return state in {"exited", "failed"}


def match(
    items: Sequence[T],
    reference: str,
    *,
    key: Callable[[T], tuple[str, str]],
    is_live: Callable[[T], bool],
) -> T:
    """Return the run that REFERENCE (id, unique id prefix, name) means; a live one before those that are over.

    Of several of that name that are over it is the newest, which comes first in ITEMS.

    Args:
        key: Gives id and name.

    Raises:
        UnknownName: None or several match; the hint names them.
    """
    prefixed = [item for item in items if reference.startswith("run-") and key(item)[0].startswith(reference)]
    ways = {
        "id": [item for item in items if key(item)[0] == reference],
        "prefix": prefixed,
        "name": [item for item in items if key(item)[1] == reference],
    }
    for way, found in ways.items():
        live = [item for item in found if is_live(item)]
        if len(live) == 1 or (found and not live and (len(found) == 1 or way == "name")):
            return (live or found)[0]
        if found:
            listed = "\n".join("  ".join(key(item)) for item in live or found)
            raise UnknownName(f"'{reference}' means several runs.", hint=f"Name one by its id:\n{listed}")
    raise _unknown(reference, [word for item in items for word in key(item)])


def _unknown(reference: str, known: list[str]) -> UnknownName:
    import difflib

    near = list(dict.fromkeys(difflib.get_close_matches(reference, known, 3)))
    hint = f"Did you mean {', '.join(near)}?" if near else "`moat list -a` shows them all."
    return UnknownName(f"There is no run '{reference}'.", hint=hint)
