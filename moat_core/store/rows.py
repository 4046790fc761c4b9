"""What is remembered of a run, and of a thing that it made. Stdlib only: ``moat list`` imports this."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any

__all__ = ["LedgerRow", "Row", "RunRow"]


class Row:
    """A row as an object, without the cost of importing attrs."""

    fields: tuple[str, ...] = ()
    json_fields: frozenset[str] = frozenset()

    def __init__(self, **values: Any) -> None:
        for name in self.fields:
            setattr(self, name, values.get(name))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.fields)})"

    @classmethod
    def from_sql(cls, row: sqlite3.Row) -> Any:
        """Make one of what the file says; ValueError if that is nonsense."""
        return cls(**{k: json.loads(row[k]) if k in cls.json_fields else row[k] for k in row.keys()})  # noqa: SIM118

    def to_sql(self) -> dict[str, Any]:
        """Return what the file keeps."""
        return {
            name: json.dumps(getattr(self, name)) if name in self.json_fields else getattr(self, name)
            for name in self.fields
        }


class RunRow(Row):
    """What is remembered of a run: how to find it, and how it ended. Never its state, never a value of its env."""

    fields = (
        "id", "name", "runtime", "address", "probe", "workspace", "command", "env_names", "ports", "owner_pid",
        "owner_kind", "sandboxed", "oci_runtime", "phase", "created", "ended", "status", "exit_code", "error", "urls",
    )  # fmt: skip
    json_fields = frozenset({"command", "env_names", "ports", "urls"})
    id: str
    name: str
    runtime: str
    address: str
    probe: str
    workspace: str
    command: list[str] | None
    env_names: list[str]
    ports: dict[str, int]
    owner_pid: int
    owner_kind: str
    sandboxed: int
    oci_runtime: str | None
    phase: str
    created: float
    ended: float | None
    status: str | None
    exit_code: int | None
    error: str | None
    urls: dict[str, str]


class LedgerRow(Row):
    """One resource: ``state`` is ``intent`` (may exist), ``live`` (exists) or ``kept`` (exists, on request)."""

    fields = ("id", "run_id", "kind", "data", "state", "created")
    json_fields = frozenset({"data"})
    id: int
    run_id: str
    kind: str
    data: dict[str, Any]
    state: str
    created: float
