"""git worktrees made by git itself, and what a hostile workspace may pretend to be."""

from __future__ import annotations

import os
import subprocess

import pytest

from moat_plugins import workspace
from moat_plugins.workspace.worktree import Refusal, Repository, find_repository


def git(*argv, cwd):
    environ = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environ |= {f"GIT_{who}_{what}": "a@b.example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(["git", *argv], cwd=cwd, env=environ, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit, made by git."""
    path = tmp_path / "main"
    path.mkdir()
    git("init", "-q", cwd=path)
    git("commit", "-q", "--allow-empty", "-m", "one", cwd=path)
    return path


@pytest.fixture
def worktree(repository, tmp_path):
    """A worktree of it."""
    git("worktree", "add", "-q", str(tmp_path / "tree"), cwd=repository)
    return tmp_path / "tree"


def test_worktrees_repository_is_mounted(planned, repository, worktree):
    """The main repository's folder is at its own path, git trusts it, and forgets no other worktree."""
    plan = planned(workspace, workspace=worktree).freeze()
    assert [(mount.source, mount.target) for mount in plan.mounts] == [
        (str(repository / ".git"), str(repository / ".git")),
        (str(worktree), "/workspace"),
    ]
    env = {key: item.value for key, item in plan.env.items() if key.startswith("GIT_CONFIG")}
    assert env["GIT_CONFIG_COUNT"] == "3"
    assert {env["GIT_CONFIG_VALUE_0"], env["GIT_CONFIG_VALUE_1"]} == {"/workspace", str(repository / ".git")}
    assert (env["GIT_CONFIG_KEY_2"], env["GIT_CONFIG_VALUE_2"]) == ("gc.worktreePruneExpire", "never")
    assert plan.warnings == ()


def test_relative_link_leads_to_where_git_looks(worktree, repository):
    """A relative link (git 2.48, worktree.useRelativePaths) is resolved from /workspace inside."""
    (worktree / ".git").write_text("gitdir: ../main/.git/worktrees/tree\n")
    found = find_repository(worktree)
    assert isinstance(found, Repository)
    assert (found.source.path, found.target) == (str(repository / ".git"), "/main/.git")


@pytest.mark.parametrize("text", [None, "", "no link", "gitdir", b"gitdir: \0x", b"\xff\xfe"])
def test_no_worktree_is_nothing(tmp_path, text):
    """No .git, an empty or a broken one: nothing is mounted and nothing is said."""
    if text is not None:
        (tmp_path / ".git").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert find_repository(tmp_path) is None


def test_main_checkout_is_nothing(repository):
    """A repository of its own needs no other folder."""
    assert find_repository(repository) is None


def test_fifo_does_not_block(tmp_path):
    """A .git that would block whoever reads it is passed over."""
    os.mkfifo(tmp_path / ".git")
    assert find_repository(tmp_path) is None


def refused(path):
    found = find_repository(path)
    assert isinstance(found, Refusal), found
    return found


def test_folder_that_knows_nothing_of_us_is_refused(planned, tmp_path, repository):
    """A workspace that only claims to be a worktree of somebody's repository gets no mount, and a warning."""
    evil = tmp_path / "evil"
    evil.mkdir()
    git("worktree", "add", "-q", str(tmp_path / "tree"), cwd=repository)
    (evil / ".git").write_text(f"gitdir: {repository}/.git/worktrees/tree\n")
    refused(evil)
    plan = planned(workspace, workspace=evil).freeze()
    assert [mount.target for mount in plan.mounts] == ["/workspace"]
    assert len(plan.warnings) == 1


@pytest.mark.parametrize("target", ["/", "/etc", "/root", "/proc/self/root", "../../..", "/nonexistent/worktrees/x"])
def test_any_host_folder_is_refused(tmp_path, target):
    """No folder of the host is mounted because a file in the workspace names it."""
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / ".git").write_text(f"gitdir: {target}\n")
    refused(evil)


def test_forged_way_back_within_the_workspace_is_no_way_out(tmp_path):
    """A workspace called "worktrees" that forges the way back in itself does not get its parent folder."""
    home = tmp_path / "home"
    evil = home / "worktrees"
    private = evil / "x"
    private.mkdir(parents=True)
    for name in ("objects", "refs"):
        (home / name).mkdir()
    (home / "HEAD").write_text("ref: refs/heads/main\n")
    (evil / ".git").write_text(f"gitdir: {private}\n")
    (private / "gitdir").write_text(f"{evil}/.git\n")
    (private / "commondir").write_text("../..\n")
    assert find_repository(evil) is None


def test_forged_repository_in_a_shared_one_is_refused(repository, worktree, tmp_path):
    """A run that was given a repository cannot make a second one in it and swap that for a link later."""
    forged = repository / ".git/forged"
    private = forged / "worktrees/x"
    private.mkdir(parents=True)
    for name in ("objects", "refs"):
        (forged / name).mkdir()
    (forged / "HEAD").write_text("ref: refs/heads/main\n")
    (worktree / ".git").write_text(f"gitdir: {private}\n")
    (private / "gitdir").write_text(f"{worktree}/.git\n")
    (private / "commondir").write_text("../..\n")
    refused(worktree)
    (repository / ".git/HEAD").unlink()  # the name above it still tells
    refused(worktree)


def test_link_out_of_the_repository_is_followed_before_judging(repository, worktree, tmp_path):
    """A worktree's folder that is a link to elsewhere is judged where it leads."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (repository / ".git/worktrees/link").symlink_to(elsewhere)
    (worktree / ".git").write_text(f"gitdir: {repository}/.git/worktrees/link\n")
    refused(worktree)


def test_commondir_that_leads_elsewhere_is_refused(repository, worktree):
    """The common folder must be the one that the worktree's folder is in."""
    (repository / ".git/worktrees/tree/commondir").write_text("/etc\n")
    refused(worktree)


def test_submodule_is_refused_with_a_warning(repository):
    """A submodule's .git leads outside without a way back; git will not work there, which is said."""
    sub = repository / "sub"
    sub.mkdir()
    (repository / ".git/modules/sub").mkdir(parents=True)
    (sub / ".git").write_text("gitdir: ../.git/modules/sub\n")
    assert "no worktree's" in refused(sub).reason


def test_terminal_is_not_steered(tmp_path):
    """Escape sequences in a hostile link do not reach the message."""
    (tmp_path / ".git").write_text("gitdir: /\x1b[31mred\n")
    assert "\x1b" not in refused(tmp_path).reason
