"""Environments as the engine keeps them: an image's own, and what a command in a live container is given.

An exec inherits what its container was created with, which is the hidden form (`moat_core.plan.hide_env`). So each
command is told to drop that, and given the run's variables by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from moat_core.plan import ENV_PREFIX, reveal_env

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ImageEnv", "make_exec_env"]


@attrs.frozen
class ImageEnv:
    """``ENV`` of the run's image; ``run.get(ImageEnv)`` once the image is resolved."""

    values: Mapping[str, str]

    @classmethod
    def of(cls, image: Mapping[str, Any]) -> ImageEnv:
        """Read the answer of GET /images/{name}/json."""
        lines = (image.get("Config") or {}).get("Env") or ()
        return cls({key: value for key, _, value in (line.partition("=") for line in lines)})


def make_exec_env(start_env: Sequence[str], *, is_own: bool) -> list[str]:
    """Return the beginning of an exec's ``Env``: ``KEY=value`` sets, ``KEY`` takes away.

    Args:
        start_env: What the container was created with.
        is_own: The command runs as the run's user. Another one, root perhaps, does not get the run's variables.
    """
    hidden = [line.partition("=")[0] for line in start_env if line.startswith(ENV_PREFIX)]
    values = reveal_env(start_env) if is_own else {}
    return [*hidden, *(f"{key}={value}" for key, value in values.items())]
