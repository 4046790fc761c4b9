"""The CAs that this host trusts beyond its distribution's, a company's proxy for one, are trusted inside, too.

Phase: plan (the image's `trust`, an init step, the environment; proxy settings for builds).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core.hooks import hookimpl

if TYPE_CHECKING:
    from moat_core.config import Config, ConfigSchema
    from moat_core.plan import PlanBuilder


@hookimpl
def moat_add_config(schema: ConfigSchema) -> None:
    """Claim ``host_ca:``."""
    from moat_plugins.host_ca.config import HostCaConfig

    schema.add_section("host_ca", HostCaConfig)


@hookimpl
def moat_add_to_plan(config: Config, plan: PlanBuilder) -> None:
    """Add what the host trusts, if there is anything of its own."""
    from moat_plugins.host_ca.contribute import add_to_plan

    add_to_plan(config, plan)
