"""What an option says about itself in ``widens=``: whether a value gives a run more than it would have without.

A workspace's file may be a stranger's, or the agent's of the last run. A judge is given a value of such a file and
what holds without the file, and returns why it widens, or ``""``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from moat_core.config.values import WORKSPACE
from moat_core.host_path import holder_of

if TYPE_CHECKING:
    from pathlib import Path

    from moat_core.types import DependencyInfo, Mount

__all__ = ["Baseline", "Judge", "above", "is_inside", "judge_dependencies", "judge_mounts", "only", "overrides"]


@attrs.frozen
class Baseline:
    """What a judge may look at beside the value.

    Args:
        value: What the option would be without the workspace's file: the user's own config, else the default.
        folder: The workspace.
        offered: What plugins offer as dependencies, by name.
    """

    value: Any
    folder: Path
    offered: Mapping[str, DependencyInfo] = attrs.field(factory=dict)


Judge = Callable[[Any, Baseline], "str | Mapping[int, str]"]
"""Returns why a value widens, ``""`` if it does not; of a list also a mapping of those positions that do."""


def above(why: str, *, unset: float | None = None) -> Judge:
    """Return a judge of numbers of which more is wider.

    Args:
        why: What a larger one gives.
        unset: What ``None`` comes to; ``None``: to no limit at all.
    """

    def judge(value: Any, baseline: Baseline) -> str:
        before = unset if baseline.value is None else baseline.value
        now = unset if value is None else value
        return why if before is not None and (now is None or now > before) else ""

    return judge


def only(why: str, *wide: Any) -> Judge:
    """Return a judge that lets everything pass but what is one of WIDE (and differs from what holds anyway)."""

    def judge(value: Any, baseline: Baseline) -> str:
        return why if value in wide and value != baseline.value else ""

    return judge


def overrides(why: str) -> Judge:
    """Return a judge of what is free until the user's own config says something else."""

    def judge(value: Any, baseline: Baseline) -> str:
        return why if baseline.value and value != baseline.value else ""

    return judge


def is_inside(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Tell whether PATH leads to FOLDER or into it, links followed."""
    real, root = os.path.realpath(path), os.path.realpath(folder)
    return real == root or real.startswith(root.rstrip("/") + "/")


_SYSTEM = frozenset({"bin", "boot", "dev", "etc", "lib", "proc", "root", "run", "sbin", "sys", "usr", "var"})
"""The container's own folders (FHS 3.0), from which its root steps may be fed; `lib` stands for `lib64` and so on."""


def judge_mounts(value: Any, baseline: Baseline) -> str | Mapping[int, str]:
    """Only folders of the workspace itself are nothing new to the run, where neither its system nor a mount is."""
    before: tuple[Mount, ...] = tuple(baseline.value or ())
    if any(mount not in (value or ()) for mount in before):
        return "it takes away what your own config mounts"
    places = [WORKSPACE, *(mount.target for mount in value)]
    inner = [mount.target for mount in before]
    found = {
        number: _judge_mount(mount, baseline.folder, places, inner)
        for number, mount in enumerate(value)
        if mount not in before
    }
    return {number: why for number, why in found.items() if why}


def _judge_mount(mount: Mount, folder: Path, places: Sequence[str], inner: Sequence[str]) -> str:
    if not is_inside(mount.source, folder):
        real, how = os.path.realpath(mount.source), "read" if mount.read_only else "write"
        where = "" if real == mount.source else f" ({real})"
        return f"a file or folder of this machine outside the workspace{where}, to {how}"
    top = mount.target.split("/")[1]
    if top in _SYSTEM or top.startswith("lib"):
        return "it takes the place of a part of the container's system, from which root works"
    # The engine walks there through what runs write, and a link that comes and goes leads it over root's programs.
    if holder_of(mount.target, places) is not None:
        return "it is inside of another mount, where whatever a run changes meanwhile says where that is"
    if any(holder_of(each, [mount.target]) is not None for each in inner):
        return "it holds a place where your own config mounts something"
    return ""


def judge_dependencies(value: Any, baseline: Baseline) -> Mapping[int, str]:
    """A plain name is installed from a list of moat's; the rest is a plugin's to say, or whoever publishes it."""
    before = tuple(baseline.value or ())
    found = {
        number: _judge_dependency(name, baseline.offered)
        for number, name in enumerate(value or ())
        if name not in before
    }
    return {number: why for number, why in found.items() if why}


def _judge_dependency(name: str, offered: Mapping[str, DependencyInfo]) -> str:
    plain = name.partition("@")[0] if not name.startswith("@") else name
    info = offered.get(name) or offered.get(plain)
    if info is not None:
        return info.widens
    if ":" in name:
        return "a package that anybody may have published; its scripts run while the image is built, not in gVisor"
    return ""
