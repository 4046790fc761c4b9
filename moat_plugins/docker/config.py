"""The section ``docker:`` of the config. Which engine is used is decided by DOCKER_HOST and the docker context."""

from __future__ import annotations

from typing import Literal

import attrs

from moat_core.config import BadValue, Baseline, option

__all__ = ["DockerConfig"]


def _check_timeout(value: float | None) -> None:
    if value is not None and not 0 < value <= 3600:  # noqa: PLR2004 - an hour
        raise BadValue("a deadline is more than 0 and at most 3600 seconds")


def _judge_pull(value: str, baseline: Baseline) -> str:
    return "images are pulled, which your own config forbids" if baseline.value == "never" != value else ""


@attrs.frozen
class DockerConfig:
    """How the Docker engine is talked to."""

    pull: Literal["missing", "always", "never"] = option(
        "missing",
        help="When base images are pulled: if the engine has none of that name, for every run, or not at all.",
        widens=_judge_pull,
    )
    timeout: float | None = option(
        None,
        check=_check_timeout,
        unit="s",
        widens="how long moat waits for the engine, also when it cleans up",
        help="What one call to the engine may take; MOAT_ENGINE_TIMEOUT_S, else 30 seconds, if it is not set.",
    )
