"""The section ``docker_host:`` of the config, and what each word of ``allow:`` gives away."""

from __future__ import annotations

from typing import Literal

import attrs

from moat_core.config import BadValue, Baseline, only, option

__all__ = ["ALLOWANCES", "DockerHostConfig"]

ALLOWANCES = {
    "privileged": "its containers may be privileged, which is root on the engine's machine",
    "host-network": "its containers and builds may use the engine machine's own network",
    "host-namespaces": "its containers may join the engine machine's processes, memory segments and users",
    "capabilities": "its containers may have any Linux capability",
    "devices": "its containers may have any device of the engine's machine",
    "security-opt": "its containers may go without seccomp, AppArmor and masked paths, and set sysctls",
    "binds": "its containers may mount any folder of the engine's machine, which is root there",
    "any-publish": "its containers' ports may be reached from everywhere",
    "runtime": "its containers may be started with any OCI runtime, a less isolated one included",
    "images": "it may replace, delete and push any image of the engine",
}
"""Word -> what the user then has to know."""


def _check_word(word: str) -> None:
    if word not in ALLOWANCES:
        raise BadValue(f"{word!r} is nothing that can be allowed", f"There are {', '.join(ALLOWANCES)}.")


def _judge_allow(value: tuple[str, ...], baseline: Baseline) -> dict[int, str]:
    return {number: ALLOWANCES[word] for number, word in enumerate(value or ()) if word not in baseline.value}


@attrs.frozen
class DockerHostConfig:
    """How a run with the dependency ``docker:host`` may use the engine that it runs on."""

    access: Literal["guarded", "raw"] = option(
        "guarded",
        help="guarded: a filter lets the run see and touch only what it made itself. "
        "raw: the engine's own socket, which is as good as root on its machine.",
        widens=only("the engine's own socket, which is as good as root on its machine", "raw"),
    )
    allow: tuple[str, ...] = option(
        (),
        help=f"What the guard lets through beyond what is safe: {', '.join(ALLOWANCES)}.",
        check_item=_check_word,
        widens=_judge_allow,
    )
    build: bool = option(
        True,
        help="Let the run build images. Steps of a build run in the engine's default OCI runtime, never in gVisor.",
        widens=only("builds on the engine, which your own config refuses", True),
    )
