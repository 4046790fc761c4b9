"""Importing what a plugin named but did not import."""

from __future__ import annotations

import importlib
from typing import Any

from moat_core.errors import PluginLoadError

__all__ = ["load_attribute"]


def load_attribute(reference: str) -> Any:
    """Return what ``"package.module:attribute"`` names.

    Raises:
        PluginLoadError: It cannot be imported.
    """
    module, _, attribute = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise PluginLoadError(f"{reference} cannot be loaded: {error}.", hint="The plugin is broken.") from error
