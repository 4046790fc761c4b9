"""The workspace on a real engine: whose the files are, who the run is, git, hooks, and what stays hidden."""

from __future__ import annotations

import os
import pwd
import subprocess

import pytest
from built import PYTHON

from moat_core.api import Moat
from moat_core.errors import PlanError, SandboxNotReady

SANDBOXES = pytest.mark.parametrize("sandbox", [True, False], ids=["runsc", "runc"])


def give(path, uid=1234, gid=5678):
    """Let the folder PATH and all in it belong to somebody else, and be reachable by them."""
    for folder, folders, files in os.walk(path):
        for name in (".", *folders, *files):
            os.lchown(os.path.join(folder, name), uid, gid)


@SANDBOXES
async def test_files_made_inside_belong_to_the_owner(world, workspace, sandbox):
    """A run in somebody's folder is that somebody, by number, with a name, a home that it can write, and no more."""
    give(workspace)
    async with Moat() as moat, moat.run(workspace, sandbox=sandbox) as run:
        script = "umask 022; echo hi >made; id -u; id -g; id -un; id -gn; cd; pwd; touch here; echo $HOME $USER"
        result = await run.exec(["sh", "-c", script], check=True)
        assert result.text.split() == ["1234", "5678", "moat", "moat", "/home/moat", "/home/moat", "moat"]
        denied = await run.exec(["sh", "-c", "echo x >>/etc/passwd"])
        assert not denied.ok
    made = (workspace / "made").stat()
    assert (made.st_uid, made.st_gid) == (1234, 5678)


@SANDBOXES
async def test_roots_folder_is_worked_in_by_root(world, workspace, sandbox):
    """Root's own folder is worked in by root, at home in /root."""
    async with Moat() as moat, moat.run(workspace, sandbox=sandbox) as run:
        result = await run.exec(["sh", "-c", "id -u; echo $HOME; pwd"], check=True)
    assert result.text.split() == ["0", "/root", "/workspace"]


async def test_a_user_of_the_image_gives_way(world, workspace):
    """Where the image has a user of the owner's number, the run's has its own name all the same."""
    number = pwd.getpwnam("www-data")
    give(workspace, number.pw_uid, number.pw_gid)
    async with Moat() as moat, moat.run(workspace) as run:
        result = await run.exec(["sh", "-c", "id -un; cd ~ && pwd"], check=True)
    assert result.text.split() == ["moat", "/home/moat"]


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_bad_workspace_is_one_sentence(moat, tmp_path, kind):
    """No folder, no run: exit 2 with a sentence, and never a traceback."""
    path = tmp_path / "odd"
    if kind == "file":
        path.write_text("")
    done = moat("run", str(path), "--", "true")
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert str(path).encode() in done.stderr


async def test_root_of_the_machine_is_refused(world):
    """The whole machine is no workspace."""
    async with Moat() as moat:
        with pytest.raises(PlanError):
            async with moat.run("/"):
                pytest.fail("it opened")


@SANDBOXES
def test_pre_run_runs_first_as_the_user(moat, workspace, sandbox):
    """The hook runs in the workspace as the run's user, before the command, and its output is not the command's."""
    (workspace / "agent.yaml").write_text(
        'hooks:\n  pre_run: |\n    id -un >who\n    echo "it\'s" from the hook\n    cd /; touch ~/there\n'
    )
    give(workspace)
    done = moat("run", "--sandbox" if sandbox else "--no-sandbox", "--", "sh", "-c", "cat who; pwd; ls ~")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [b"moat", b"/workspace", b"there"]
    assert b"it's from the hook" in done.stderr


def test_failing_pre_run_says_so(moat, workspace):
    """A hook that fails stops the run before its command, by name and with its code."""
    (workspace / "agent.yaml").write_text("hooks: {pre_run: 'echo why >&2; exit 9'}\n")
    done = moat("run", "--", "echo", "command")
    assert done.returncode == 125
    assert done.stdout == b""
    assert b"why" in done.stderr
    assert b"pre_run ended with exit code 9" in done.stderr


async def test_failing_pre_run_is_an_error_of_the_library(world, workspace):
    """Without a command of its own, a run whose hook fails does not open."""
    (workspace / "agent.yaml").write_text("hooks: {pre_run: exit 9}\n")
    async with Moat() as moat:
        with pytest.raises(SandboxNotReady):
            async with moat.run(workspace):
                pytest.fail("it opened")


@SANDBOXES
@pytest.mark.parametrize("place", ["state", ".cache/moat", "link/moat"])
def test_agent_cannot_replace_the_state(moat, workspace, tmp_path, sandbox, place):
    """A run that could rename what leads to moat's own state, and put a forged one there, does not open."""
    if place.startswith("link"):
        (tmp_path / "elsewhere").mkdir()
        (workspace / "link").symlink_to(tmp_path / "elsewhere")
    first = place.split("/")[0]
    give(workspace)
    attack = f"mv {first} gone; mkdir -p {place}; echo forged >{place}/moat.db"
    home = workspace / place
    argv = ("run", "--sandbox" if sandbox else "--no-sandbox", "--", "sh", "-c", attack)
    done = moat(*argv, env={"MOAT_HOME": str(home)})
    assert not (home / "moat.db").exists() or (home / "moat.db").read_bytes().startswith(b"SQLite")
    assert done.returncode == 2, done.stderr
    assert b"MOAT_HOME" in done.stderr
    assert b"Traceback" not in done.stderr


@SANDBOXES
async def test_state_folder_below_a_mount_is_hidden(engine, workspace, tmp_path, sandbox):
    """A run that may read the folder above moat's own state sees an empty one in its place, and cannot write to it."""
    home = tmp_path / "above/state/moat"
    home.mkdir(parents=True)
    give(workspace)
    mounts = [f"{tmp_path / 'above'}:/above:ro"]
    async with Moat(home=home) as moat, moat.run(workspace, sandbox=sandbox, mounts=mounts) as run:
        result = await run.exec(["sh", "-c", "ls -A /above/state/moat; echo forged >/above/state/moat/moat.db"])
        assert result.stdout == b""
        assert not result.ok
        moved = await run.exec(["mv", "/above/state", "/above/gone"], user="root")
        assert not moved.ok
        assert (home / "moat.db").read_bytes().startswith(b"SQLite")


@pytest.fixture
def worktree(tmp_path):
    """A worktree of a repository with one commit, both of the same owner."""
    main, tree = tmp_path / "main", tmp_path / "tree"
    main.mkdir()
    environ = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environ |= {f"GIT_{who}_{what}": "a@b.example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for argv in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "one"], ["worktree", "add", "-q", str(tree)]):
        subprocess.run(["git", *argv], cwd=main, env=environ, check=True, capture_output=True)
    return main, tree


@pytest.mark.slow
@SANDBOXES
async def test_git_works_in_a_worktree(world, worktree, sandbox):
    """In a worktree git reads and commits inside, and the commit is in the main repository outside."""
    main, tree = worktree
    give(main)
    give(tree)
    async with Moat() as moat, moat.run(tree, sandbox=sandbox, dependencies=PYTHON) as run:
        await run.exec(["git", "status"], check=True)
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
        await run.exec(["git", *identity, "commit", "--allow-empty", "-m", "two"], check=True)
        await run.exec(["git", "gc", "-q"], check=True)
    log = subprocess.run(
        ["git", "-c", "safe.directory=*", "log", "--format=%s", "tree"],
        cwd=main,
        capture_output=True,
        text=True,
        check=True,
    )
    assert log.stdout.split() == ["two", "one"]
    assert (main / ".git/worktrees/tree/HEAD").stat().st_uid == 1234


@pytest.mark.slow
async def test_git_works_in_a_plain_checkout(world, worktree):
    """A checkout of another number than root's needs no setting by hand."""
    main, _ = worktree
    give(main)
    async with Moat() as moat, moat.run(main, dependencies=PYTHON) as run:
        await run.exec(["git", "log"], check=True)
        # Another user than the run's own gets none of its variables, and so not its `safe.directory` (ADR 22).
        assert (await run.exec(["git", "-c", "safe.directory=/workspace", "log"], user="root")).ok
