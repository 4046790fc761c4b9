"""Asking an engine by the probe that its runtime registered: stdlib only, a few ms, no plugin is loaded.

See `moat_core.runtime.base.RuntimeInfo.probe`. ``moat list`` does it for its quick answer, and whoever waits for an
engine to come back.
"""

from __future__ import annotations

import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["FAILURES", "call_probe", "is_probe"]

FAILURES = (OSError, ImportError, AttributeError, ValueError, TypeError)
"""What `call_probe` raises when the engine cannot be asked."""
_importing = threading.Lock()


def is_probe(name: str) -> bool:
    """Whether NAME has the form that is prescribed.

    It comes out of the database: a file there must not have us call just any function of this machine.
    """
    module, _, function = name.partition(":")
    words = module.split(".")
    return function == "states" and len(words) > 1 and words[-1] == "probe" and all(map(str.isidentifier, words))


def call_probe(probe: str, address: str, timeout_s: float, home: str) -> list[dict[str, Any]]:
    """Return what the engine at ADDRESS says of all containers of ours.

    Args:
        timeout_s: For each step.
        home: ``MOAT_HOME``, whose key proves what is ours.

    Raises:
        OSError, ImportError, AttributeError, ValueError, TypeError: It does not answer, or cannot be asked: `FAILURES`.
    """
    with _importing:
        function = _load(probe)
    found: list[dict[str, Any]] = function(address, timeout_s, home)
    return found


def _load(probe: str) -> Any:
    """Import a probe without running its package's ``__init__``: the hooks there import attrs and pluggy, 25 ms."""
    from importlib import import_module
    from importlib.util import find_spec, module_from_spec

    module, _, function = probe.partition(":")
    package = module.rpartition(".")[0]
    is_bare = package not in sys.modules
    if is_bare:
        spec = find_spec(package)
        if spec is None:
            raise ImportError(package)
        sys.modules[package] = module_from_spec(spec)
    try:
        return getattr(import_module(module), function)
    finally:
        if is_bare:  # whoever goes the long way from here shall find the whole one
            for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
                del sys.modules[name]
