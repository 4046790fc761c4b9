"""Every agent's services at ``http://<endpoint>.<agent>.localhost:8080``. In work: docs/dev/issue-4.md.

Phases: upkeep (whether this machine resolves such names).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moat_core.types import Check


@hookimpl
async def moat_find_faults() -> Iterable[Check]:
    """Ask this machine's resolver for a name under ``localhost``."""
    from moat_plugins.routing.resolver import check_resolver

    return [await check_resolver()]
