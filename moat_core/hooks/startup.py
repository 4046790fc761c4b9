"""Phase 1, start-up: plugins say what they bring. Synchronous; no loop runs yet, nothing may be opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core.hooks.markers import spec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moat_core.config import ConfigSchema
    from moat_core.ledger import Resource
    from moat_core.runtime.base import RuntimeInfo
    from moat_core.types import CommandInfo, DependencyInfo


@spec.collect()
def moat_add_config(schema: ConfigSchema) -> None:
    """Add this plugin's section to the config file.

    Called once, before any config is read.

    Args:
        schema: ``schema.add_section("name", AttrsClass)`` claims a top-level key; its fields, their types,
            defaults and metadata are the section's specification. A key claimed twice is a `PluginError`.
    """


@spec.collect()
def moat_register_commands() -> Iterable[CommandInfo]:
    """Name the verbs that this plugin adds to the ``moat`` command.

    Called by the command only. A verb that exists already is a `PluginError` naming both owners.
    """


@spec.collect()
def moat_register_runtimes() -> Iterable[RuntimeInfo]:
    """Name the runtimes that this plugin brings; they are imported when they are first used."""


@spec.collect()
def moat_register_dependencies() -> Iterable[DependencyInfo]:
    """Name what this plugin lets users list under ``dependencies:``. A name that exists already is a `PluginError`."""


@spec.collect()
def moat_register_resources() -> Iterable[type[Resource]]:
    """Name the resource kinds that this plugin puts in the ledger.

    Called by whoever undoes things: the run's owner, the reaper, ``moat clean``. A kind that is not registered
    cannot be acquired, since nobody could release it after a crash.
    """
