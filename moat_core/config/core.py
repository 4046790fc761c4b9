"""The keys of ``agent.yaml`` that belong to moat itself. The help texts here are the reference.

Each plugin adds a section beside them (see `moat_core.config.schema`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs

from moat_core.config.convert import INVALID
from moat_core.config.judges import Baseline, above, judge_dependencies, judge_mounts, only, overrides
from moat_core.config.options import option
from moat_core.config.values import (
    BadValue,
    check_address,
    check_argument,
    check_command,
    check_endpoint,
    check_env_name,
    check_env_value,
    check_image,
    check_mounts,
    check_name,
    check_port,
    check_ports,
    make_mount,
    parse_mount,
    show,
    size_bytes,
)
from moat_core.types import Limits, Mount

if TYPE_CHECKING:
    from moat_core.config.convert import Reader
    from moat_core.config.tree import Item

__all__ = [
    "ContainerConfig",
    "CoreConfig",
    "HistoryConfig",
    "HooksConfig",
    "check_cpus",
    "check_pids",
    "read_memory",
]

_BUILD = "commands that run while the image is built, on the engine's machine and not in gVisor"
_HISTORY = "what moat remembers of other runs is not a workspace's to throw away"

_MEMORY_MIN = 16 * 1024 * 1024
_CPUS_MIN, _CPUS_MAX = 0.01, 4096
_PIDS_MIN, _PIDS_MAX = 16, 4_194_304
_DAYS_MAX, _RUNS_MAX = 36_500, 10_000_000

_SIZE_SCHEMA = {
    "anyOf": [
        {"type": "number", "minimum": 0, "description": "MiB"},
        {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?([kKmMgGtT]([iI]?[bB])?|[bB])?$"},
    ]
}
_MOUNT_SCHEMA = {
    "type": "array",
    "items": {
        "anyOf": [
            {"type": "string", "pattern": "^[^:]+:/[^:]*(:(ro|rw))?$"},
            {
                "type": "object",
                "properties": {
                    "source": {"type": "string"},
                    "target": {"type": "string", "pattern": "^/"},
                    "mode": {"enum": ["ro", "rw"], "default": "rw"},
                },
                "required": ["source", "target"],
                "additionalProperties": False,
            },
        ]
    },
}


@attrs.frozen
class _LongMount:
    source: str = option(help="`source` is a path on the host.")
    target: str = option(help="`target` is an absolute path in the container.")
    mode: Literal["ro", "rw"] = option("rw", help="`ro` (read-only) or `rw`.")


def _read_mounts(reader: Reader, item: Item, key: str) -> Any:
    """Read both forms of every mount; relative sources start from the folder of the file."""
    if item.kind != "list":
        return reader.wrong(item, "a list", key, "Write `- ./data:/data:ro` in a line of its own.")
    mounts = [_read_mount(reader, each, f"{key}[{number}]") for number, each in enumerate(item.value)]
    return INVALID if INVALID in mounts else tuple(mounts)


def _read_mount(reader: Reader, item: Item, key: str) -> Any:
    base, home = reader.source.base, reader.source.home
    if item.kind == "object" and isinstance(item.value, Mount):
        return item.value
    if item.kind == "map":
        long = reader.read(item, _LongMount, key)
        if long is INVALID:
            return INVALID

        def make(_: Any) -> Mount:
            return make_mount(long.source, long.target, long.mode, base=base, home=home)

        return reader.checked(make, None, item, key, gives_value=True)
    text = reader.read(item, str, key)
    if text is INVALID:
        return INVALID
    return reader.checked(lambda each: parse_mount(each, base=base, home=home), text, item, key, gives_value=True)


def _read_command(reader: Reader, item: Item, key: str) -> Any:
    """Read a list of text; a string is refused, since nobody could say how to split it."""
    if item.kind == "text" and not item.is_loose:
        example = _as_list(item.raw)
        return reader.wrong(item, "a list", key, f"Write {key}: {example}" if example else "Write one item a word.")
    return reader.read(item, tuple[str, ...], key, {"check_item": check_argument})


def _as_list(text: str) -> str:
    """Return how TEXT would be written as a list: word by word, or by a shell if it needs one."""
    import json  # for this mistake only

    if not text.strip() or len(text) > 200 or not text.isprintable():  # noqa: PLR2004 - no example is longer
        return ""
    needs_shell = any(char in text for char in "|&;<>()$`\\\"'*?[]#~=%{}!")
    return json.dumps(["sh", "-c", text] if needs_shell else text.split(), ensure_ascii=False)


def _read_dependencies(reader: Reader, item: Item, key: str) -> Any:
    """Read a list of text; ``- python: 3.11`` is met often enough to be told what it should be."""
    entries = item.value if item.kind == "list" else []
    for number, each in enumerate(entries):
        if each.kind == "map" and len(each.value) == 1:
            ((name, version),) = each.value.items()
            example = f"{name}@{version.raw}" if version.raw else name
            hint = f"Write - {example}" if example.isprintable() else ""
            reader.wrong(each, "text", f"{key}[{number}]", hint)
            return INVALID
    return reader.read(item, tuple[str, ...], key, {"check_item": _check_dependency})


def _check_dependency(value: str) -> None:
    if not value.strip() or not value.isprintable() or value != value.strip():
        raise BadValue("a dependency is a name, with a version after it if one is wanted: node@22")


def _check_dependencies(value: tuple[str, ...]) -> None:
    seen: set[str] = set()
    for name in value:
        if name in seen:
            raise BadValue(f"{show(name)} is listed twice")
        seen.add(name)


def _check_script(value: str) -> None:
    check_argument(value)
    if not value.strip():
        raise BadValue("there is no command in it", "Remove the key, or write shell commands.")


def _check_runtime(value: str) -> None:
    if not value or not value.replace("-", "").replace("_", "").isalnum() or not value.isascii():
        raise BadValue("a runtime's name has letters, digits and hyphens, like docker")


def read_memory(value: Any) -> int:
    """Return a size in bytes that a container can live with.

    Raises:
        BadValue: It is none, or too small.
    """
    size = size_bytes(value)
    if size < _MEMORY_MIN:
        raise BadValue(f"a container needs at least {_MEMORY_MIN // 1024**2} MiB", "A bare number is MiB.")
    return size


def check_cpus(value: float) -> None:
    """Refuse what is no number of CPUs."""
    if not _CPUS_MIN <= value <= _CPUS_MAX:
        raise BadValue(f"it is a number of CPUs from {_CPUS_MIN} to {_CPUS_MAX}, like 1.5")


def check_pids(value: int) -> None:
    """Refuse what is no number of processes that a container can live with."""
    if not _PIDS_MIN <= value <= _PIDS_MAX:
        raise BadValue(f"it is a number of processes from {_PIDS_MIN} to {_PIDS_MAX}")


def _judge_sandbox(value: str | None, baseline: Baseline) -> str:
    if value == "none" != baseline.value:
        return "no gVisor: the run shares the host's kernel"
    return "no word that gVisor must be there, as your own config has it" if baseline.value == "gvisor" != value else ""


@attrs.frozen
class ContainerConfig:
    """``container:`` Ceilings and settings of the container."""

    memory: int | None = option(
        None,
        help="Most memory that the container may use: `512m`, `2g`, or a bare number of MiB; at least "
        "16 MiB. What goes beyond is killed. Without it the engine sets no limit.",
        convert=read_memory,
        unit="bytes",
        schema=_SIZE_SCHEMA,
        widens=above("more memory than your own config gives"),
    )
    cpus: float | None = option(
        None,
        help="How many CPUs' worth of time the container gets, fractions allowed: `1.5`. Without it, all of them.",
        check=check_cpus,
        widens=above("more CPUs than your own config gives"),
    )
    pids: int | None = option(
        None,
        help="Most processes and threads at once, so that a fork bomb stays inside; 4096 if not given.",
        check=check_pids,
        widens=above("more processes than the run would have", unset=Limits().pids),
    )
    dns: tuple[str, ...] = option(
        (),
        help="IP addresses of the name servers that the container asks; the engine's own if not given.",
        check_item=check_address,
        widens=overrides("other name servers than your own config names"),
    )


@attrs.frozen
class HooksConfig:
    """``hooks:`` Shell commands of your own at fixed points of a run."""

    pre_run: str | None = option(
        None,
        help="Shell commands that run in the container as the run's user, in the workspace, before the "
        "command; if they fail, so does the run.",
        check=_check_script,
        widens=False,
    )
    post_build: str | None = option(
        None,
        help="Shell commands that run at the end of the image build, as an ordinary user. The workspace is "
        "not there yet; the result is cached with the image.",
        check=_check_script,
        widens=_BUILD,
    )
    post_build_root: str | None = option(
        None, help="The same as `post_build`, but as root, and before it.", check=_check_script, widens=_BUILD
    )


def _check_age(value: float) -> None:
    if not 0 <= value <= _DAYS_MAX:
        raise BadValue(f"it is a number of days from 0 to {_DAYS_MAX}")


def _check_count(value: int) -> None:
    if not 0 <= value <= _RUNS_MAX:
        raise BadValue(f"it is a number of runs from 0 to {_RUNS_MAX}")


@attrs.frozen
class HistoryConfig:
    """``history:`` How long runs that are over are remembered, with their logs. In the user's own config only."""

    days: float = option(
        30.0,
        help="Runs that ended longer ago are forgotten, with their logs; never live ones, nor what was kept. In your "
        "own config only.",
        check=_check_age,
        unit="days",
        widens=_HISTORY,
    )
    runs: int = option(
        1000,
        help="Of the runs that are over so many are remembered, the newest. In your own config only.",
        check=_check_count,
        widens=_HISTORY,
    )


@attrs.frozen
class CoreConfig:
    """The base keys, merged from all sources. ``None`` and empty mean: not set, the run's default holds."""

    name: str | None = option(
        None,
        help="What the agent is called: a DNS label. Without it every run gets a random name.",
        check=check_name,
        widens=False,
    )
    runtime: str | None = option(
        None,
        help="What makes the containers, `docker` for one. Without it the first runtime that works is taken.",
        check=_check_runtime,
        widens="another maker of containers than would be taken",
    )
    sandbox: Literal["none", "gvisor"] | None = option(
        None,
        help="`gvisor` insists on gVisor; `none` runs without it, isolated by namespaces only. Without the "
        "key runs on a Linux engine are in gVisor.",
        widens=_judge_sandbox,
    )
    dependencies: tuple[str, ...] = option(
        (),
        help="What to install in the image, by name, with a version if it matters: `python`, `node@22`. "
        "`moat deps list` shows what there is.",
        read=_read_dependencies,
        check=_check_dependencies,
        widens=judge_dependencies,
    )
    base_image: str | None = option(
        None,
        help="The image that the container is made from, based on Debian; `debian:bookworm-slim` if not given.",
        check=check_image,
        widens="a base image that anybody may have made; what is in it runs as root",
    )
    command: tuple[str, ...] | None = option(
        None,
        help="The command to run, as a list of program and arguments; no shell is involved. What follows "
        "`--` on the command line replaces it.",
        read=_read_command,
        check=check_command,
        widens=False,
    )
    interactive: bool = option(
        False,
        help="Give the command a terminal and your keyboard, as `-i` does.",
        widens=only("your keyboard, or what else your standard input is", True),
    )
    env: Mapping[str, str] = option(
        {},
        help="Environment variables of the command. Values are text: quote numbers and words like `on`.",
        check_key=check_env_name,
        check_item=check_env_value,
        secret=True,
        widens=False,
    )
    mounts: tuple[Mount, ...] = option(
        (),
        help="Further host files and folders in the container: `source:target`, `source:target:ro`, or a "
        "mapping of `source`, `target` and `mode`. A relative source starts at the config file's folder, "
        "`~/` at your home.",
        read=_read_mounts,
        check=check_mounts,
        schema=_MOUNT_SCHEMA,
        widens=judge_mounts,
    )
    ports: Mapping[str, int] = option(
        {},
        help="Ports of the container that you want to reach, by a name of your choice: `web: 3000`. "
        "They are published on 127.0.0.1 only.",
        check=check_ports,
        check_key=check_endpoint,
        check_item=check_port,
        widens=False,
    )
    network: Literal["bridge", "none"] = option(
        "bridge",
        help="`bridge` reaches the outside; with `none` the container has no network at all.",
        widens=only("the network, which your own config takes away", "bridge"),
    )
    container: ContainerConfig = option(
        attrs.Factory(ContainerConfig),
        help="Ceilings and settings of the container.",
    )
    hooks: HooksConfig = option(
        attrs.Factory(HooksConfig),
        help="Shell commands of your own at fixed points of a run.",
    )
    history: HistoryConfig = option(
        attrs.Factory(HistoryConfig),
        help="How long runs that are over are remembered.",
    )
