"""When a run opens: which OCI runtime lets an engine work in gVisor, and is there one?"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs

from moat_core.errors import SandboxUnavailable
from moat_core.runtime.locks import hold_cache
from moat_core.types import Problem
from moat_plugins.docker_dind.config import DockerDindConfig
from moat_plugins.docker_dind.contribute import VOLUME, privilege_warning, with_privilege

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from moat_core.lifecycle import Run
    from moat_core.runtime.base import OciRuntimes
    from moat_core.types import Volume

__all__ = ["choose_runtime", "pass_gate"]

_NET_RAW = "--net-raw"


@asynccontextmanager
async def pass_gate(run: Run) -> AsyncIterator[None]:
    """Set the OCI runtime of RUN's plan to a gVisor that lets an engine work.

    Raises:
        SandboxUnavailable: There is none, or the run's runtime can do nothing of the kind.
    """
    known = await (await run.runtime()).oci_runtimes()
    if known is None:
        raise SandboxUnavailable(
            f"The runtime {run.plan.runtime} cannot run a Docker engine inside a container (docker:dind).",
            hint="A Docker engine can: --runtime docker, with gVisor or with --no-sandbox.",
        )
    plan = run.plan
    if plan.sandboxed:
        run.replace_plan(attrs.evolve(plan, oci_runtime=choose_runtime(known, plan.oci_runtime or "")))
    elif not plan.privileged:
        details = plan.details["docker_dind"]
        section = DockerDindConfig(ready=details["ready_s"], storage=details["storage"], cache=details["cache"])
        run.replace_plan(with_privilege(plan, section))
        await run.warn(privilege_warning())
    with hold_cache(run.locks, "docker-dind", run.name, plan.workspace) as is_ours:
        if not is_ours and plan.details["docker_dind"]["cache"]:
            run.replace_plan(attrs.evolve(run.plan, volumes=tuple(map(_not_kept, run.plan.volumes))))
            message = f"Another run of {run.name} here uses its kept images; this one starts with none, and keeps none."
            await run.warn(Problem(message, "Give runs at the same time different names.", "docker_dind"))
        yield


def _not_kept(volume: Volume) -> Volume:
    return attrs.evolve(volume, cache="") if volume.name == VOLUME else volume


def choose_runtime(known: OciRuntimes, wanted: str) -> str:
    """Return the registered gVisor that has ``--net-raw``, preferring WANTED.

    Only those count that run the same program as WANTED: a name proves nothing.

    Raises:
        SandboxUnavailable: None has; the hint says how to register one.
    """
    command = known.commands.get(wanted, ())
    if _has_net_raw(command):
        return wanted
    for name in sorted(known.commands):
        other = known.commands[name]
        if command and other and other[0] == command[0] and _has_net_raw(other):
            return name
    raise SandboxUnavailable(
        f"docker:dind needs a gVisor that is registered with {_NET_RAW}, and this engine has none.",
        hint=_how_to_register(command or ("/usr/bin/runsc",)),
        oci_runtimes=list(known.names),
    )


def _has_net_raw(command: Sequence[str]) -> bool:
    """Tell whether runsc is told to. Its flags are Go's: one dash or two, ``=true`` or nothing; the last one wins."""
    value = False
    for word in command[1:]:
        flag, _, said = word.partition("=")
        if flag.lstrip("-") == "net-raw" and flag != flag.lstrip("-"):
            value = said.lower() in {"", "1", "t", "true"}
    return value


def _how_to_register(command: Sequence[str]) -> str:
    arguments = ", ".join(f'"{word}"' for word in (*command[1:], _NET_RAW))
    return (
        'Add it to "runtimes" in /etc/docker/daemon.json:\n'
        f'  "runsc-dind": {{"path": "{command[0]}", "runtimeArgs": [{arguments}]}}\n'
        "Then: sudo systemctl reload docker (or: sudo kill -HUP $(pidof dockerd))\n"
        "Or run without gVisor, in a privileged container: --no-sandbox."
    )
