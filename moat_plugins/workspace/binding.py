"""The bind at ``/workspace``, and whom the run works as.

The run's user has the numeric ids of the folder's owner, so that files made inside belong to them outside,
and a real name and home inside, without which many programs fail.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from moat_core.config import WORKSPACE
from moat_core.types import User
from moat_plugins.workspace.worktree import Refusal, find_repository

if TYPE_CHECKING:
    from moat_core.host_path import HostPath
    from moat_core.plan import PlanBuilder

__all__ = ["HOME", "NAME", "add_to_plan"]

NAME = "moat"
HOME = "/home/moat"

_SYSTEM = ("/proc", "/sys", "/dev")


def add_to_plan(workspace: Path, pre_run: str | None, plan: PlanBuilder) -> None:
    """Add the workspace to PLAN, or the reason why it cannot be used.

    Args:
        workspace: Absolute path on the host.
        pre_run: The user's sh text to run at each start, as the run's user, in the workspace.
        plan: What is added to.
    """
    found = _look_at(workspace, plan)
    if found is None:
        return
    _warn_if_home(found.path, workspace, plan)
    plan.add_mount(found, WORKSPACE)
    plan.working_dir = WORKSPACE
    if found.status.st_uid != 0:
        plan.user = User(found.status.st_uid, found.status.st_gid, NAME, HOME)
    plan.set_env("HOME", plan.user.home)
    plan.set_env("USER", plan.user.name)
    plan.note(f"works in {workspace} as its owner, {plan.user.uid}:{plan.user.gid}")
    _add_git(workspace, plan)
    if pre_run is not None:
        plan.add_init_step("the hook pre_run", pre_run, as_user=True)


def _look_at(workspace: Path, plan: PlanBuilder) -> HostPath | None:
    """Return a folder that can be worked in; else record why not."""
    found = plan.find(workspace)
    try:
        workspace.stat()
    except FileNotFoundError:
        plan.problem(f"The workspace {workspace} does not exist.", "Name an existing folder.")
        return None
    except OSError as error:
        plan.problem(f"The workspace {workspace} cannot be looked at: {error.strerror}.", "Look at its path.")
        return None
    if found is None:
        if not plan.problems:  # else `find` has said why
            plan.problem(f"The workspace {workspace} changes while it is looked at.", "See who does it.")
        return None
    if not found.is_folder:
        plan.problem(f"The workspace {workspace} is not a folder.", "Name the folder that it is in.")
    elif not os.access(workspace, os.R_OK | os.X_OK):
        plan.problem(f"You may not read the workspace {workspace}.", f"Make it readable: chmod u+rx {workspace}")
    elif _is_system(found.path):
        plan.problem(
            f"{workspace} cannot be a workspace: the run could change this machine's system.",
            "Make a folder for it, and name that.",
        )
    else:
        return found
    return None


def _is_system(real: str) -> bool:
    return real == "/" or any(real == root or real.startswith(root + "/") for root in _SYSTEM)


def _warn_if_home(real: str, workspace: Path, plan: PlanBuilder) -> None:
    home = os.path.realpath(os.path.expanduser("~"))
    if Path(home).is_relative_to(real):
        plan.warn(
            f"The workspace {workspace} holds your home folder: the run can change all of it, keys included.",
            "Name a project's folder instead.",
        )


def _add_git(workspace: Path, plan: PlanBuilder) -> None:
    """Make git work: it refuses repositories of other owners, and a worktree needs its main repository."""
    settings = {"safe.directory": [WORKSPACE]}
    repository = find_repository(workspace, plan.is_shared)
    if isinstance(repository, Refusal):
        plan.warn(f"git will not work in this workspace: {repository.reason}", repository.hint)
    elif repository is not None:
        plan.add_mount(repository.source, repository.target)
        plan.note(f"a git worktree: its repository {repository.source.path} is shared, too")
        settings["safe.directory"].append(repository.target)
        # Other worktrees' folders are not there, and git would forget them when it tidies up.
        settings["gc.worktreePruneExpire"] = ["never"]
    pairs = [(key, value) for key, values in settings.items() for value in values]
    # git(1), "environment variables": settings without a file, so nothing of the user's is in the way.
    plan.set_env("GIT_CONFIG_COUNT", str(len(pairs)))
    for number, (key, value) in enumerate(pairs):
        plan.set_env(f"GIT_CONFIG_KEY_{number}", key)
        plan.set_env(f"GIT_CONFIG_VALUE_{number}", value)
