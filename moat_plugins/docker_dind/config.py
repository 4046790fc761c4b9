"""The section ``docker_dind:`` of the config."""

from __future__ import annotations

from typing import Literal

import attrs

from moat_core.config import BadValue, above, duration_s, only, option, size_bytes

__all__ = ["DockerDindConfig"]

_LEAST_S, _MOST_S = 1.0, 600.0
_LEAST_BYTES = 64 * 1024 * 1024


def _check_ready(value: float) -> None:
    if not _LEAST_S <= value <= _MOST_S:
        raise BadValue("it is a duration from 1s to 10m")


def _check_size(value: int) -> None:
    if value < _LEAST_BYTES:
        raise BadValue("an engine needs 64m at the least")


@attrs.frozen
class DockerDindConfig:
    """The engine inside a run (``docker:dind``)."""

    ready: float = option(
        30.0,
        convert=duration_s,
        check=_check_ready,
        unit="s",
        help="How long the engine may take until it answers.",
        widens=False,
    )
    size: int = option(
        8 * 1024**3,
        convert=size_bytes,
        check=_check_size,
        unit="bytes",
        help="The most that its images, containers and volumes may take. In gVisor they are in memory.",
        widens=above("more of this machine's memory or disk"),
    )
    cache: bool = option(
        False,
        help="Keep its images between runs of one agent name; containers and volumes are never kept.",
        widens=only("what a run leaves behind is there for the next ones", True),
    )
    storage: Literal["auto", "overlay2", "fuse-overlayfs", "vfs"] = option(
        "auto",
        help="Its storage driver; `auto` is the first that works, of overlay2, fuse-overlayfs and vfs.",
        widens=False,
    )
