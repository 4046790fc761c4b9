"""The section ``host_ca:`` of the config."""

from __future__ import annotations

from pathlib import Path

import attrs

from moat_core.config import only, option

__all__ = ["HostCaConfig"]


@attrs.frozen
class HostCaConfig:
    """Which CAs of the host are trusted inside."""

    enabled: bool = option(
        True,
        help="Let the run and its image's build trust what this host trusts beyond its distribution's own CAs.",
        widens=only("trust in this host's own CAs, which your own config leaves out", True),
    )
    files: tuple[Path, ...] = option(
        (),
        help="Further files of certificates (PEM). A relative path starts at the config file's folder.",
        widens="files of this machine are read on the host, links followed",
    )
