"""The section ``docker:`` of the config. Which engine is used is decided by DOCKER_HOST and the docker context."""

from __future__ import annotations

from typing import Literal

import attrs

from moat_core.config import BadValue, option

__all__ = ["DockerConfig"]


def _check_timeout(value: float | None) -> None:
    if value is not None and not 0 < value <= 3600:  # noqa: PLR2004 - an hour
        raise BadValue("a deadline is more than 0 and at most 3600 seconds")


@attrs.frozen
class DockerConfig:
    """How the Docker engine is talked to."""

    pull: Literal["missing", "always", "never"] = option(
        "missing",
        help="When base images are pulled: if the engine has none of that name, for every run, or not at all.",
    )
    timeout: float | None = option(
        None,
        check=_check_timeout,
        unit="s",
        help="What one call to the engine may take; MOAT_ENGINE_TIMEOUT_S, else 30 seconds, if it is not set.",
    )
