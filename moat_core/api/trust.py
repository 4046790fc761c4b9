"""Whose word a run's config is: the caller's, or a workspace's that may be a stranger's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moat_core import checks
from moat_core.config import Config, ConfigFile, distrust, load_config
from moat_core.errors import UsageError
from moat_core.store.trusted import TrustedFiles

if TYPE_CHECKING:
    from moat_core.config import ConfigSchema, Trust
    from moat_core.store import Home

__all__ = ["read_config"]


def read_config(
    schema: ConfigSchema,
    folder: Path,
    choice: str | os.PathLike[str] | Mapping[str, Any] | ConfigFile | None,
    *,
    home: Home,
    overrides: Mapping[str, tuple[Any, str]],
    trust: Trust | None = None,
) -> Config:
    """Return the config of the workspace FOLDER.

    Args:
        choice: See `Moat.run`, ``config``.
        home: Where it is written down what the user trusts.
        trust: Decides about the workspace's file, where CHOICE leaves that open.

    Raises:
        ConfigError: With every problem found.
        UsageError: CHOICE is none.
    """
    source: ConfigFile | Path | Mapping[str, Any] | None = None
    if choice == "workspace":
        trust = _always
    elif choice == "trusted":
        trust = TrustedFiles(home).covers
    elif isinstance(choice, (ConfigFile, Mapping)):
        source = choice
    elif isinstance(choice, (str, os.PathLike)) and os.fspath(choice):
        source = Path(os.path.abspath(checks.path(choice, "config")))
    elif choice is not None:
        raise UsageError(
            f"A config cannot be {choice!r}.",
            hint='It is "workspace", "trusted", the path of a file, a mapping, or None.',
        )
    return load_config(schema, folder, environ=os.environ, overrides=overrides, source=source, trust=trust or distrust)


def _always(*_: object) -> bool:
    return True
