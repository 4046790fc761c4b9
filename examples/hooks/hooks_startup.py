"""Phase 1: a plugin says what it brings."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from typing import ClassVar

import anyio.to_thread
import attrs
import click

from moat_core import hookimpl
from moat_core.config import ConfigSchema, option
from moat_core.ledger import Resource, ResourceContext
from moat_core.types import CommandInfo, DependencyInfo


# --- config ---
@attrs.frozen
class GreetingConfig:
    """How runs are greeted."""

    word: str = option("Hello", help="The first word of the greeting.", widens=False)
    loud: bool = option(False, help="Use capitals.", widens=False)


@hookimpl
def moat_add_config(schema: ConfigSchema) -> None:
    schema.add_section("greeting", GreetingConfig)


# --- commands ---
@click.command()
@click.argument("name")
def greet(name: str) -> None:
    """Greet NAME."""
    print(f"Hello, {name}!")


@hookimpl
def moat_register_commands() -> Iterable[CommandInfo]:
    return [CommandInfo("greet", "Greet somebody.", "hooks_startup:greet")]


# --- dependencies ---
@hookimpl
def moat_register_dependencies() -> Iterable[DependencyInfo]:
    return [DependencyInfo("motto:kind", "A motto in every image", script="echo 'be kind' >/etc/motto", widens="")]


# --- resources ---
@attrs.frozen
class ScratchFolder(Resource):
    """A folder on the host that lives as long as its run."""

    kind: ClassVar[str] = "example.scratch"
    path: str

    async def create(self, ctx: ResourceContext) -> str:  # noqa: ARG002 - others connect to an engine with it
        await anyio.Path(self.path).mkdir(mode=0o700)
        return self.path

    async def release(self, ctx: ResourceContext) -> bool:  # noqa: ARG002
        try:
            await anyio.to_thread.run_sync(shutil.rmtree, self.path)
        except FileNotFoundError:
            return False
        return True


@hookimpl
def moat_register_resources() -> Iterable[type[Resource]]:
    return [ScratchFolder]
