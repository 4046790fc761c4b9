"""What ``docker:dind`` adds to a plan: privileges, storage, and the step that starts the engine."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING

import attrs

from moat_core.plan import PROXY_ARGS
from moat_core.types import InitStep, Problem, Tmpfs, Volume
from moat_plugins.docker_dind.config import DockerDindConfig
from moat_plugins.docker_dind.install import FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moat_core.config import Config
    from moat_core.plan import Plan, PlanBuilder
    from moat_core.types import User

__all__ = ["STEP", "VOLUME", "WHY", "add_to_plan", "make_step", "privilege_warning", "with_privilege"]

STEP = "docker engine"
WHY = "docker:dind: an engine starts containers, which takes all that root on a machine may do"
DATA = "/var/lib/docker"
VOLUME = "docker"
KEPT = "/var/lib/moat-docker"
"""In gVisor, where images are kept as a file: on a volume it has no overlay."""
_ORDER = 60
_PROXIES = tuple(sorted(PROXY_ARGS))
"""What the engine takes of the run's environment: how it reaches registries."""


def add_to_plan(config: Config, plan: PlanBuilder) -> None:
    """Add an engine. In gVisor it has all capabilities of gVisor's own kernel; without it, those of the host's."""
    section = config.section(DockerDindConfig)
    plan.details["docker_dind"] = {"ready_s": section.ready, "storage": section.storage, "cache": section.cache}
    proxies = _build_proxies(plan.image.build_args)
    if plan.sandboxed:
        # What goes to it is kernel objects of gVisor, in its memory; nothing of the host's is within reach.
        plan.add_capability("ALL", f"{WHY}; in gVisor, that is gVisor's own kernel")
        plan.add_tmpfs(Tmpfs(DATA, section.size, ("exec", "mode=710")))
        if section.cache:
            plan.add_volume(Volume(VOLUME, KEPT, cache=plan.name))
    else:
        plan.privileged = WHY
        plan.add_volume(Volume(VOLUME, DATA, cache=plan.name if section.cache else ""))
        warning = privilege_warning()
        plan.warn(warning.message, warning.hint)
    plan.add_init_step(
        STEP,
        make_step(section, plan.user, plan.name, proxies, isolated=plan.sandboxed),
        order=_ORDER,
        env=_PROXIES,
    )
    # All that is inside goes with the run: nothing has to be cleaned up by testcontainers' Ryuk.
    plan.set_env("TESTCONTAINERS_RYUK_DISABLED", "true")
    plan.note("a Docker engine of the run's own")


def make_step(section: DockerDindConfig, user: User, name: str, proxies: Mapping[str, str], *, isolated: bool) -> str:
    """Return the init step that starts the engine and waits for it."""
    # The run's own win: they are there already.
    exports = [
        f'[ -n "${{{key}+set}}" ] || export {key}={shlex.quote(value)}' for key, value in sorted(proxies.items())
    ]
    settings = {
        "moat_gid": str(user.gid),
        "moat_ready_s": str(math.ceil(section.ready)),
        "moat_storage": section.storage,
        "moat_isolated": "1" if isolated else "",
        "moat_cached": "1" if section.cache else "",
        "moat_name": name,
    }
    lines = [f"{key}={shlex.quote(value)}" for key, value in settings.items()]
    return "\n".join([*exports, *lines, f". {FOLDER}/start"])


def with_privilege(plan: Plan, section: DockerDindConfig) -> Plan:
    """Return a PLAN that was to be in gVisor and is not, as on a desktop's engine, for a privileged container."""
    script = make_step(section, plan.user, plan.name, _build_proxies(plan.image.build_args), isolated=False)
    step = InitStep(STEP, script, _ORDER, env=_PROXIES)
    return attrs.evolve(
        plan,
        privileged=WHY,
        capabilities={key: why for key, why in plan.capabilities.items() if key != "ALL"},
        tmpfs=tuple(each for each in plan.tmpfs if each.target != DATA),
        volumes=(
            *(each for each in plan.volumes if each.target != KEPT),
            Volume(VOLUME, DATA, cache=plan.name if section.cache else ""),
        ),
        init_steps=tuple(step if each.name == STEP else each for each in plan.init_steps),
    )


def privilege_warning() -> Problem:
    """Return what the user is told of a privileged run."""
    return Problem(
        "docker:dind without gVisor: the container is privileged, so whatever runs in it can become root on the host.",
        "Leave out --no-sandbox: in gVisor it needs no privilege.",
        severity="warning",
    )


def _build_proxies(arguments: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in arguments.items() if key in PROXY_ARGS}
