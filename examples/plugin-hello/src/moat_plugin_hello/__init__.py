"""Greets every run: the hooks of this plugin, and nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core import hookimpl
from moat_core.types import CommandInfo

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from moat_core import RunRequest
    from moat_core.config import Config, ConfigSchema
    from moat_core.lifecycle import Run
    from moat_core.plan import PlanBuilder


@hookimpl
def moat_add_config(schema: ConfigSchema) -> None:
    """Add the section ``hello``."""
    from moat_plugin_hello.config import HelloConfig

    schema.add_section("hello", HelloConfig)


@hookimpl
def moat_register_commands() -> list[CommandInfo]:
    """Add ``moat hello``."""
    return [CommandInfo("hello", "Greet somebody as runs are greeted.", "moat_plugin_hello.cli:hello")]


@hookimpl
def moat_add_to_plan(request: RunRequest, config: Config, plan: PlanBuilder) -> None:
    """Add the variable ``HELLO``."""
    from moat_plugin_hello.config import HelloConfig

    section = config.section(HelloConfig)
    plan.set_env("HELLO", section.greeting(plan.name))
    plan.details["hello"] = {"guest_book": section.guest_book}
    if section.guest_book:
        plan.note(f"writes {request.workspace.name}'s run into the guest book")


@hookimpl
def moat_open_run(run: Run) -> AbstractAsyncContextManager[None] | None:
    """Keep the guest book, if it is asked for."""
    if not run.plan.details["hello"]["guest_book"]:
        return None
    from moat_plugin_hello.guest_book import guest_book

    return guest_book(run)
