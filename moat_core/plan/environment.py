"""The run's environment, and how it is kept from whatever root does.

A variable acts before anybody has read it: the loader obeys ``LD_PRELOAD``, shells ``ENV`` and ``BASH_ENV``, every
program ``PATH`` and the locale. So what an engine is given for a container has names that mean nothing,
``MOAT_ENV_0=NAME=value``, beside a PATH of `ROOT_PATH`; and the last step of `moat-init`, as the run's user, makes the
real variables of them. They are still the engine's to keep, so no value is in an argv.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from moat_core.plan.plan import Plan

__all__ = ["ENV_PREFIX", "ROOT_PATH", "adopt_env", "hide_env", "make_env", "reveal_env"]

ENV_PREFIX = "MOAT_ENV_"
"""What the neutral names begin with; no variable of a run may."""
ROOT_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Where root's programs are looked for: folders that belong to root in every image (FHS 3.0), and no others."""

_USER_PATH = "/usr/local/sbin:/usr/local/bin:" + ROOT_PATH
"""What a run has whose image and plan name none; the engine's own default (Docker Engine, ``DefaultPathEnv``)."""


def make_env(plan: Plan, image_env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what the command finds: the image's, who one is, the plan's; the later wins.

    Args:
        plan: The run's.
        image_env: What the image was built with (``ENV``).
    """
    return {
        "PATH": _USER_PATH,
        **(image_env or {}),
        "MOAT_RUN_ID": plan.run_id,
        "MOAT_NAME": plan.name,
        "HOME": plan.user.home,
        "USER": plan.user.name,
        "LOGNAME": plan.user.name,
        **{key: item.value for key, item in plan.env.items()},
    }


def hide_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return what a container whose `moat-init` will adopt ENV is started with, instead of it."""
    return {"PATH": ROOT_PATH, **{f"{ENV_PREFIX}{number}": f"{key}={env[key]}" for number, key in enumerate(env)}}


def reveal_env(hidden: Iterable[str]) -> dict[str, str]:
    """Undo `hide_env`, of ``KEY=value`` lines as an engine tells them."""
    found = (line.partition("=")[2].partition("=") for line in hidden if line.startswith(ENV_PREFIX))
    return {key: value for key, _, value in found}


def adopt_env(env: Mapping[str, str], wanted: Iterable[str] | None = None) -> str:
    """Return sh text, of built-ins only, that turns what `hide_env` made of ENV into the real variables.

    Args:
        env: All of the run's, in the order in which they were hidden.
        wanted: Only these, and the hidden ones stay; ``None``: all, and no hidden one is left.
    """
    numbers = {key: number for number, key in enumerate(env)}
    chosen = list(env) if wanted is None else [key for key in wanted if key in numbers]
    # What a shell cannot set (`a.b`, bash's UID) is not worth an error: `command` keeps it from being one.
    lines = [f'command export "${ENV_PREFIX}{numbers[key]}" 2>/dev/null || :' for key in chosen]
    if wanted is None:
        lines.append("unset " + " ".join(f"{ENV_PREFIX}{number}" for number in numbers.values()))
    return "\n".join(lines)
