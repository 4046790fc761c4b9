"""Volumes of a run: its own, which the ledger undoes, and caches, which outlive it until `moat clean`."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

from moat_core.runtime.locks import make_cache_key
from moat_plugins.docker import labels, objects
from moat_plugins.docker.resources import DockerVolume

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moat_core.lifecycle import Run
    from moat_core.types import Volume
    from moat_plugins.docker.runtime import DockerRuntime

__all__ = ["make_volumes"]


async def make_volumes(run: Run, runtime: DockerRuntime, volumes: Iterable[Volume]) -> list[dict[str, Any]]:
    """Make what is not there yet and return the entries of ``HostConfig.Mounts``.

    Raises:
        EngineError: A volume of that name is somebody else's.
    """
    mounts = []
    for volume in volumes:
        name = await (_make_cache(run, runtime, volume) if volume.cache else _make_own(run, runtime, volume))
        # NoCopy: an image may have something at the target, and the volume is to be empty.
        options = {"NoCopy": True}
        mounts.append({"Type": "volume", "Source": name, "Target": volume.target, "VolumeOptions": options})
    return mounts


async def _make_own(run: Run, runtime: DockerRuntime, volume: Volume) -> str:
    marks = {**run.labels, labels.ROLE: volume.name}
    made: str = await run.acquire(DockerVolume(runtime.address, f"moat-{run.id}-{volume.name}", marks))
    return made


async def _make_cache(run: Run, runtime: DockerRuntime, volume: Volume) -> str:
    """Several MOAT_HOMEs may use one engine, and several folders have agents of one name: the volume's tells both."""
    owner, workspace = run.labels[labels.OWNER], run.plan.workspace
    key = make_cache_key(volume.cache, workspace)
    name = f"moat-cache-{owner}-{key}-{volume.name}"
    marks = {
        labels.OWNER: owner,
        labels.CACHE: key,
        labels.NAME: volume.cache,
        labels.WORKSPACE: os.fsencode(os.path.realpath(workspace)).decode("utf-8", "replace"),
    }
    signed = labels.sign(runtime.proof, "volume", name, marks)
    is_ours = functools.partial(labels.is_ours, runtime.proof, "volume")
    return await objects.create_volume(runtime.engine, name, signed, is_ours)
