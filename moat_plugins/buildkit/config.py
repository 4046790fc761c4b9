"""The section ``buildkit:`` of the config."""

from __future__ import annotations

from typing import Literal

import attrs

from moat_core.config import BadValue, above, check_image, option, size_bytes

__all__ = ["DEFAULT_IMAGE", "BuildKitConfig"]

DEFAULT_IMAGE = "moby/buildkit:v0.16.0"
"""A release, not ``latest``: a run of today is a run of tomorrow."""

_LEAST_BYTES = 64 * 1024 * 1024


def _check_limit(value: int) -> None:
    if value < _LEAST_BYTES:
        raise BadValue("a cache of less than 64m is of no use")


@attrs.frozen
class BuildKitConfig:
    """The BuildKit that comes with ``docker:dind``, in a container beside the run's."""

    mode: Literal["on", "auto", "off"] = option(
        "on",
        help="With docker:dind: `on` fails the run if the sidecar does not get ready, `auto` warns and builds with the "
        "inner engine instead, `off` starts none.",
        shorthand=True,
        widens=False,
    )
    image: str = option(
        DEFAULT_IMAGE,
        check=check_image,
        widens="another image of a container that without gVisor is privileged",
        help="The sidecar's image: a buildkitd, as in moby/buildkit.",
    )
    cache_limit: int = option(
        10 * 1024**3,
        convert=size_bytes,
        check=_check_limit,
        unit="bytes",
        help="What its cache, which the runs of one agent name share, may hold.",
        widens=above("more of this machine's disk"),
    )
