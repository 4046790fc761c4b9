"""The fake engine's quick look behind `moat list`; see `moat_core.runtime.base.RuntimeInfo.probe`."""

from __future__ import annotations

from moat_core.testing.engine import FakeEngine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["states"]


def states(address: str, timeout_s: float, home: str) -> list[dict[str, Any]]:  # noqa: ARG001 - it answers at once or not at all, and is one home's
    """See `moat_core.runtime.base.RuntimeInfo`."""
    engine = FakeEngine(address)
    if engine.is_down:
        raise ConnectionRefusedError("The fake engine is down.")
    keys = ("run_id", "role", "state", "exit_code", "oci_runtime")
    return [
        {"id": name, "name": data["agent"], **{key: data[key] for key in keys}}
        for name, data in engine.containers().items()
    ]
