"""What `moat doctor` and `moat status` are told of the engine."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from moat_core.errors import HostError, RuntimeUnavailable
from moat_core.types import Check, StatusLine
from moat_plugins.docker import built, labels
from moat_plugins.docker.guests import read_renamed
from moat_plugins.docker.runtime import DockerRuntime

if TYPE_CHECKING:
    from moat_core.ledger import Upkeep

__all__ = ["add_to_status", "find_faults"]

_GOOD_STORAGE = {"overlay2", "overlayfs", "btrfs", "zfs", "fuse-overlayfs"}
_LOW_BYTES = 5 * 1024**3
_GIB = 1024**3
_SHOWN = 5


async def find_faults(upkeep: Upkeep) -> list[Check]:
    """Check that an engine answers, and that it can do what moat asks of it."""
    try:
        runtime = await upkeep.connection(DockerRuntime, "")
        info = await runtime.engine.info()
    except HostError as error:
        return [Check("docker engine", "error", error.message, error.hint)]
    checks = [
        Check(
            "docker engine",
            "ok",
            f"Docker {info.get('ServerVersion')} answers at {runtime.address} (API {runtime.engine.version[1:]}, "
            f"{info.get('OperatingSystem')}, {info.get('NCPU')} CPUs, {info.get('MemTotal', 0) / _GIB:.1f} GiB).",
        )
    ]
    driver = str(info.get("Driver"))
    if driver in _GOOD_STORAGE:
        checks.append(Check("docker storage", "ok", f"The storage driver is {driver}."))
    else:
        checks.append(
            Check(
                "docker storage", "warning", f"The storage driver {driver} is slow.", "Use overlay2 if the disk allows."
            )
        )
    checks += [
        Check("docker engine", "warning", str(text).removeprefix("WARNING: ").rstrip(".") + ".", "See `docker info`.")
        for text in info.get("Warnings") or []
    ]
    return [
        *checks,
        *await _check_copies(runtime, upkeep.owner),
        *_check_disk(runtime, str(info.get("DockerRootDir", ""))),
    ]


async def _check_copies(runtime: DockerRuntime, owner: str) -> list[Check]:
    """Tell of what carries our labels and is not ours: a copy, or something of before the key; nobody removes it."""
    engine, label = runtime.engine, f"{labels.OWNER}={owner}"
    named = [
        ("container", str((item["Names"] or ["/?"])[0]).removeprefix("/"), item)
        for item in await engine.containers.list_labelled(label)
    ]
    named += [("network", item["Name"], item) for item in await engine.networks.list_labelled(label)]
    named += [("volume", item["Name"], item) for item in await engine.volumes.list_labelled(label)]
    copies = [
        f"{kind} {name}"
        for kind, name, item in named
        if not labels.is_ours(runtime.proof, kind, name, item.get("Labels"))
        and item.get("Id") not in read_renamed(runtime.home, str((item.get("Labels") or {}).get(labels.RUN_ID)))
    ]
    if not copies:
        return []
    shown = ", ".join(copies[:_SHOWN]) + (", …" if len(copies) > _SHOWN else "")
    text = f"{len(copies)} things carry moat's labels and are not proven to be moat's; they are left alone: {shown}."
    return [Check("docker labels", "warning", text, "Remove by hand what you do not need.")]


def _check_disk(runtime: DockerRuntime, folder: str) -> list[Check]:
    """Look at the engine's disk where it is this machine's; inside a Desktop's VM the folder is not ours to see."""
    if not runtime.engine.endpoint.path or not os.path.isdir(folder):
        return []
    free = shutil.disk_usage(folder).free
    text = f"{free / _GIB:.1f} GiB are free under {folder}."
    if free < _LOW_BYTES:
        return [Check("docker disk", "warning", text, "`moat clean`, then `docker system prune`.")]
    return [Check("docker disk", "ok", text)]


async def add_to_status(upkeep: Upkeep) -> list[StatusLine]:
    """Tell of the engine, the images that moat built and its networks."""
    try:
        runtime = await upkeep.connection(DockerRuntime, "")
    except RuntimeUnavailable as error:
        return [StatusLine("engine", "docker", error.message)]
    info = await runtime.engine.info()
    engine = StatusLine(
        "engine",
        "docker",
        f"Docker {info.get('ServerVersion')} at {runtime.address}",
        {"version": info.get("ServerVersion"), "address": runtime.address, "api": runtime.engine.version[1:]},
    )
    return [engine, *await _images(runtime), *await _networks(runtime)]


async def _images(runtime: DockerRuntime) -> list[StatusLine]:
    known = built.read_all(runtime.home, runtime.address)
    return [
        StatusLine(
            "images",
            ", ".join(item.get("RepoTags") or [item["Id"][7:19]]),
            f"{item.get('Size', 0) / 1_000_000:.0f} MB",
            {"id": item["Id"], "size_bytes": item.get("Size", 0), "tags": item.get("RepoTags") or []},
        )
        for item in (await runtime.engine.images.list_labelled() if known else ())
        if item["Id"] in known
    ]


async def _networks(runtime: DockerRuntime) -> list[StatusLine]:
    lines = []
    for label, text in ((labels.SHARED, "shared by runs"), (labels.RUN_ID, "of one run")):
        for item in await runtime.engine.networks.list_labelled(label):
            if label == labels.RUN_ID and not labels.is_ours(runtime.proof, "network", item["Name"], item["Labels"]):
                continue
            data = {"id": item["Id"], "run_id": (item.get("Labels") or {}).get(labels.RUN_ID)}
            lines.append(StatusLine("networks", item["Name"], text, data))
    return lines
