"""What shall be installed in a run's image: ``dependencies:``, ``base_image:`` and the build hooks.

Phases: startup (``moat deps``), plan (an image with a Dockerfile; the runtime's plugin builds it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core.hooks import hookimpl
from moat_core.types import CommandInfo

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moat_core.config import Config
    from moat_core.plan import PlanBuilder, RunRequest


@hookimpl
def moat_register_commands() -> Iterable[CommandInfo]:
    """Add ``moat deps``."""
    return [CommandInfo("deps", "Show what a run's image can have.", "moat_plugins.dependencies.cli:deps")]


@hookimpl
def moat_add_to_plan(request: RunRequest, config: Config, plan: PlanBuilder) -> None:
    """Choose the base image, and what is built on it if anything is asked for."""
    from moat_plugins.dependencies.contribute import add_to_plan

    add_to_plan(request, config, plan)
