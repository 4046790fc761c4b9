"""What the hooks of upkeep find, for ``moat doctor``, ``status`` and ``clean``; public by `moat_core.types`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import attrs

__all__ = ["Check", "Leftover", "StatusLine"]


@attrs.frozen
class Check:
    """One finding of ``moat doctor``.

    Args:
        name: What was looked at.
        message: One sentence.
        fix: The command or the step that mends it.
    """

    name: str
    status: Literal["ok", "warning", "error"]
    message: str
    fix: str = ""


@attrs.frozen
class StatusLine:
    """One line of ``moat status``: ``section`` groups, ``data`` is for ``--json``."""

    section: str
    name: str
    text: str
    data: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class Leftover:
    """Something of moat's that nobody needs any more, found outside the ledger.

    Args:
        kind: ``container``, ``network``, ``volume``, ``image``, ``run-folder`` …
        name: As its engine calls it; ``reason``: why it may go, in one sentence.
        resource: The resource kind that releases it (see `moat_core.ledger.Resource`), with its fields.
        run_id: Whose it was, if known.
        automatic: The reaper may remove it by itself; else only ``moat clean`` does, after asking.
        created: When it was made; ``size_bytes``: what removing it frees; both if known.
    """

    kind: str
    name: str
    reason: str
    resource: Any
    run_id: str | None = None
    automatic: bool = False
    created: datetime | None = None
    size_bytes: int | None = None
