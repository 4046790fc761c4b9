"""The section ``gvisor:`` of the config."""

from __future__ import annotations

import re

import attrs

from moat_core.config import BadValue, option

__all__ = ["GvisorConfig"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def _check_runtime(value: str) -> None:
    if _NAME.fullmatch(value) is None:
        raise BadValue("an OCI runtime's name has letters, digits, dots, dashes and underscores")


@attrs.frozen
class GvisorConfig:
    """How gVisor is called on the engine."""

    runtime: str = option(
        "runsc",
        check=_check_runtime,
        widens="another OCI runtime, which may isolate less",
        help="The name that gVisor's runsc is registered with in the engine's daemon.json.",
    )
