"""The bind at /workspace: which folders will do, and whom the run works as."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from moat_core.errors import WorkspaceError
from moat_core.plan import hide_env, make_env, make_init
from moat_core.types import Mount, Tmpfs, User
from moat_plugins import workspace
from moat_plugins.workspace import shield
from moat_plugins.workspace.shield import fit_user, hide


def problems(plan, severity="error"):
    return [problem.message for problem in plan.problems if problem.severity == severity]


def test_folder_is_bound_and_worked_in(planned, tmp_path):
    """The workspace is at /workspace, writable, and is where the command runs."""
    plan = planned(workspace).freeze()
    assert plan.mounts == (Mount(str(tmp_path / "workspace"), "/workspace"),)
    assert plan.working_dir == "/workspace"


@pytest.mark.parametrize(
    ("owner", "user"),
    [
        ((1234, 5678), User(1234, 5678, "moat", "/home/moat")),
        ((0, 0), User()),
        ((0, 50), User()),
    ],
)
def test_run_works_as_the_owner(planned, tmp_path, owner, user):
    """Ids are the folder's owner's, with a name and a home; root's folder is worked in by root."""
    (tmp_path / "workspace").mkdir()
    os.chown(tmp_path / "workspace", *owner)
    plan = planned(workspace).freeze()
    assert plan.user == user
    assert plan.env["HOME"].value == user.home


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text(""), "is not a folder"),
        (lambda path: path.symlink_to("/"), "cannot be a workspace"),
        (lambda path: path.symlink_to("/proc/self"), "cannot be a workspace"),
        (lambda path: path.symlink_to(path), "cannot be looked at"),
        (os.mkfifo, "is not a folder"),
    ],
)
def test_what_will_not_do_is_said(planned, tmp_path, make, says):
    """A missing folder, a file, the system and loops are problems of the plan, never a traceback."""
    path = tmp_path / "odd"
    make(path)
    plan = planned(workspace, workspace=path)
    assert [says in text for text in problems(plan)] == [True]
    assert plan.mounts == ()


def test_unreadable_folder_is_said(planned, tmp_path):
    """A folder that the user may not read is a problem with its mending."""
    path = tmp_path / "closed"
    path.mkdir(mode=0o000)
    child = os.fork()
    if child == 0:  # pragma: no cover - as somebody else, since root may read everything
        os.chmod(tmp_path, 0o777)
        for parent in tmp_path.parents:
            if str(parent) != "/" and "pytest" in str(parent):
                os.chmod(parent, 0o755)
        os.setuid(65534)
        found = problems(planned(workspace, workspace=path))
        os._exit(0 if found and "may not read" in found[0] else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_home_is_warned_about(planned, tmp_path, monkeypatch):
    """The home folder, or one that holds it, is allowed with a warning."""
    home = tmp_path / "workspace/me"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    assert len(problems(planned(workspace), "warning")) == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    assert problems(planned(workspace), "warning") == []


def test_git_trusts_the_workspace(planned):
    """git's settings come by environment, numbered without a gap."""
    env = planned(workspace).freeze().env
    assert env["GIT_CONFIG_COUNT"].value == "1"
    assert (env["GIT_CONFIG_KEY_0"].value, env["GIT_CONFIG_VALUE_0"].value) == ("safe.directory", "/workspace")


def test_pre_run_is_the_users_step(planned):
    """The hook pre_run is an init step of the run's user."""
    plan = planned(workspace, text="hooks:\n  pre_run: |\n    npm ci\n    echo 'it''s'\n").freeze()
    (step,) = plan.init_steps
    assert step.as_user
    assert step.script == "npm ci\necho 'it''s'\n"


@pytest.mark.parametrize(
    ("script", "code", "says"), [("exit 3", 125, "exit code 3"), ("false\ntrue", 125, "exit code 1")]
)
def test_failing_pre_run_stops_the_run(planned, script, code, says):
    """A hook that fails ends the run before its command, with its name and code; the shell is a real one."""
    import subprocess

    import attrs

    plan = planned(
        workspace, text=f"hooks:\n  pre_run: |\n    echo out\n    {script.replace(chr(10), chr(10) + '    ')}\n"
    )
    plan.command = ("echo", "command")
    made = attrs.evolve(plan.freeze(), user=User(), working_dir="/")
    env = hide_env(make_env(made))
    done = subprocess.run(make_init(made), capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == f"out\nmoat: the hook pre_run ended with {says}.\n"


def test_state_folder_is_hidden(planned, tmp_path):
    """Where a mount that cannot be written to would show moat's own state, an empty folder lies over it."""
    state = tmp_path / "above/state/moat"
    state.mkdir(parents=True)
    builder = planned(workspace)
    builder.add_mount(tmp_path / "above", "/above", read_only=True)
    plan = hide(builder.freeze(), state)
    assert [cover.target for cover in plan.tmpfs] == ["/above/state/moat"]
    assert isinstance(plan.tmpfs[0], Tmpfs)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    before = planned(workspace).freeze()
    assert hide(before, elsewhere) is before


def test_state_folder_is_hidden_behind_links(planned, tmp_path):
    """A mounted link to a folder with the state in it hides it, too."""
    real = tmp_path / "real"
    (real / "moat").mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(real)
    builder = planned(workspace)
    builder.add_mount(link, "/above", read_only=True)
    plan = hide(builder.freeze(), link / "moat")
    assert [cover.target for cover in plan.tmpfs] == ["/above/moat"]


def in_workspace(root):
    """Just below what is mounted."""
    return root / "workspace/moat"


def deep_in_workspace(root):
    """A folder between may be renamed although what is mounted over the last one may not."""
    return root / "workspace/.local/state/moat"


def is_workspace(root):
    """The workspace is the state itself."""
    return root / "workspace"


def above_workspace(root):
    """The workspace is in the state."""
    return root


def through_workspace(root):
    """The way there is a link that the run could change."""
    (root / "real").mkdir()
    (root / "workspace/link").symlink_to(root / "real")
    return root / "workspace/link/moat"


def through_link_to_link(root):
    """A link outside leads to one inside."""
    (root / "real").mkdir()
    (root / "workspace/inner").symlink_to("../real")
    (root / "outer").symlink_to("workspace/inner")
    return root / "outer/moat"


def through_dots(root):
    """The way leads in by a link and out again."""
    (root / "workspace/folder").mkdir()
    (root / "in").symlink_to("workspace/folder")
    return root / "in/../../moat"


@pytest.mark.parametrize(
    "place",
    [
        in_workspace,
        deep_in_workspace,
        is_workspace,
        above_workspace,
        through_workspace,
        through_link_to_link,
        through_dots,
    ],
)
@pytest.mark.parametrize("mounted", [False, True], ids=["workspace", "mount"])
def test_state_that_a_run_could_replace_is_refused(planned, tmp_path, place, mounted):
    """No run opens that could write to moat's own state, or to whatever leads there."""
    from moat_core.errors import WorkspaceError

    (tmp_path / "workspace").mkdir()
    (tmp_path / "other").mkdir()
    state = place(tmp_path)
    state.mkdir(parents=True, exist_ok=True)
    builder = planned(workspace)
    if mounted:
        builder = planned(workspace, workspace=Path(tempfile.mkdtemp(prefix="other", dir=tmp_path.parent)))
        builder.add_mount(tmp_path / "workspace", "/more")
    with pytest.raises(WorkspaceError) as caught:
        hide(builder.freeze(), state)
    assert "MOAT_HOME" in (caught.value.hint or "")


def test_state_beside_the_workspace_is_no_matter(planned, tmp_path):
    """Neighbours with the same beginning of a name, links that lead elsewhere and loops hinder nobody."""
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace-state").mkdir()
    (tmp_path / "workspace/link").symlink_to(tmp_path / "workspace-state")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = planned(workspace).freeze()
    assert hide(before, tmp_path / "workspace-state") is before
    assert hide(before, tmp_path / "loop/moat") is before


def test_rootless_engine_gets_root_inside(planned, tmp_path):
    """Where user ids are mapped, root inside is the engine's user outside; a HOME of the user's own stays."""
    (tmp_path / "workspace").mkdir()
    os.chown(tmp_path / "workspace", 1234, 1234)
    builder = planned(workspace)
    plan = fit_user(builder.freeze())
    assert (plan.user, plan.env["HOME"].value, plan.env["USER"].value) == (User(), "/root", "root")
    builder.set_env("HOME", "/data", by="config")
    assert fit_user(builder.freeze()).env["HOME"].value == "/data"


class FakeRun:
    """The part of a run that is used here."""

    def __init__(self, plan, state, known):
        self.plan, self.locks, self.known, self.asked = plan, state / "locks", known, 0

    async def runtime(self):
        return self

    async def oci_runtimes(self):
        self.asked += 1
        return self.known

    def replace_plan(self, plan):
        self.plan = plan


async def test_opening_asks_the_engine_only_if_it_matters(planned, tmp_path):
    """Root needs no mapping, so that no engine is asked for it."""
    from moat_core.runtime.base import OciRuntimes

    (tmp_path / "workspace").mkdir()
    for uid, asked in ((0, 0), (1234, 1)):
        os.chown(tmp_path / "workspace", uid, uid)
        run = FakeRun(planned(workspace).freeze(), tmp_path / "state", OciRuntimes(("runc",), "runc", maps_users=True))
        async with workspace.moat_open_run(run):
            assert run.asked == asked
            assert run.plan.user == User()


def test_paths_with_odd_characters(planned, tmp_path):
    """Spaces, quotes, newlines and colons in a path are no trouble."""
    path = tmp_path / "a b'\"\n:c"
    path.mkdir()
    plan = planned(workspace, workspace=path).freeze()
    assert Path(plan.mounts[0].source) == path


def test_the_folder_of_the_users_own_config_is_out_of_reach(planned, tmp_path):
    """A run that could write it would trust itself, and have no ceiling; it is called by its name."""
    (tmp_path / "workspace/conf/moat").mkdir(parents=True)
    with pytest.raises(WorkspaceError, match="holds the folder of your own config"):
        hide(planned(workspace).freeze(), tmp_path / "workspace/conf/moat", "the folder of your own config")


def test_what_moat_runs_from_is_shown_read_only(planned, tmp_path, monkeypatch):
    """At the top of what can be written to; what lies deeper is told, and what the user mounts stays."""
    for place in ("workspace/.venv", "workspace/deep/src", "workspace/mine", "elsewhere"):
        (tmp_path / place).mkdir(parents=True)
    builder = planned(workspace)
    builder.add_mount(tmp_path / "workspace/mine", "/workspace/mine", read_only=True)
    before = builder.freeze()
    monkeypatch.setattr(
        shield, "own_code", lambda: [str(tmp_path / f"workspace/{each}") for each in (".venv", "deep/src", "mine")]
    )
    plan, exposed = shield.protect_code(before)
    (cover,) = set(plan.mounts) - set(before.mounts)
    assert (cover.source, cover.target, cover.read_only) == (
        str(tmp_path / "workspace/.venv"),
        "/workspace/.venv",
        True,
    )
    assert exposed == [str(tmp_path / "workspace/deep/src")]
    monkeypatch.setattr(shield, "own_code", lambda: [str(tmp_path / "workspace")])
    assert shield.protect_code(before) == (before, [str(tmp_path / "workspace")])
    monkeypatch.setattr(shield, "own_code", lambda: [str(tmp_path / "elsewhere"), str(tmp_path)])
    assert shield.protect_code(before) == (before, [])
