"""`moat config trust`, what shows that something needs it, and the question at a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time

import pytest

MOAT = [sys.executable, "-m", "moat_core.cli"]
WIDE = "name: fox\nsandbox: none\nmounts: ['/etc:/x:ro', './d:/d']\n"


@pytest.fixture
def workspace(tmp_path, machine):
    """A folder whose file widens, by its own path."""
    folder = tmp_path / "w"
    (folder / "d").mkdir(parents=True)
    (folder / "agent.yaml").write_text(WIDE)
    return folder


def test_trusting_shows_what_widens_and_remembers_it(moat, workspace):
    """Once; then it is trusted already, until it changes."""
    first = moat("config", "trust", "--yes", str(workspace))
    assert (first.status, first.out) == (0, "")
    for words in ("agent.yaml:2", "sandbox: none", "agent.yaml:3", "mounts[0]: /etc:/x:ro", "outside the workspace"):
        assert words in first.err
    assert "/d" not in first.err.replace(str(workspace), "")
    assert "already" in moat("config", "trust", str(workspace)).err
    (workspace / "agent.yaml").write_text(WIDE + "network: none\n")
    assert moat("config", "trust", str(workspace)).status == 2  # nobody can be asked


def test_what_is_trusted_is_listed_and_taken_back(moat, workspace, machine):
    """The state folder has it, for its owner alone."""
    moat("config", "trust", "-y", str(workspace))
    (entry,) = moat("config", "trust", "--list", "--json").json
    assert (entry["workspace"], entry["name"]) == (str(workspace), "agent.yaml")
    assert [each["key"] for each in entry["widens"]] == ["sandbox", "mounts[0]"]
    assert str(workspace) in moat("config", "trust", "--list").out
    folder = os.path.join(machine.home.path, "trust")
    (name,) = os.listdir(folder)
    assert os.stat(os.path.join(folder, name)).st_mode & 0o777 == 0o600
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert "Forgotten: 1" in moat("config", "trust", "--revoke", str(workspace)).err
    assert moat("config", "trust", "--list", "--json").json == []
    assert os.listdir(folder) == []


def test_there_may_be_nothing_to_trust(moat, tmp_path):
    """Nothing is asked or written."""
    (tmp_path / "agent.yaml").write_text("network: none\n")
    done = moat("config", "trust", str(tmp_path))
    assert (done.status, "nothing to trust" in done.err) == (0, True)
    assert moat("config", "trust", "--list", "--json").json == []


def test_views_mark_what_needs_trust(moat, workspace):
    """`config show` by value, `config check` in words; both say nothing of it once it is trusted."""
    marked = {each["key"]: each["needs_trust"] for each in moat("config", "show", str(workspace), "--json").json}
    assert [key for key, is_marked in marked.items() if is_marked] == ["sandbox", "mounts"]
    assert "agent.yaml:2 (needs trust)" in moat("config", "show", str(workspace)).out
    check = moat("config", "check", str(workspace))
    assert (check.status, "is valid" in check.out, "sandbox: none" in check.err) == (0, True, True)
    moat("config", "trust", "-y", str(workspace))
    assert not any(each["needs_trust"] for each in moat("config", "show", str(workspace), "--json").json)
    assert moat("config", "check", str(workspace)).err == ""


def test_a_record_that_is_broken_is_no_yes(moat, workspace, machine):
    """Neither a traceback nor trust."""
    moat("config", "trust", "-y", str(workspace))
    folder = os.path.join(machine.home.path, "trust")
    (name,) = os.listdir(folder)
    for text in ("", "{", "[]", '{"accepted": 1}', json.dumps({"accepted": [], "workspace": "x"})):
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)
        assert moat("config", "show", str(workspace), "--json").json[2]["needs_trust"] is True
        assert moat("config", "trust", "--list", "--json").json == []


def at_a_terminal(argv, folder, answer, *, early=b""):
    """Run a command on a terminal, and ANSWER its question; its status, and what was seen."""
    master, slave = pty.openpty()
    if early:
        os.write(master, early)
    process = subprocess.Popen([*MOAT, *argv], cwd=folder, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    seen, deadline, is_answered = b"", time.monotonic() + 60, False
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.2)[0]:
            try:
                piece = os.read(master, 4096)
            except OSError:
                piece = b""  # EIO: nobody has the other side open any more
            if not piece:
                break
            seen += piece
        if not is_answered and b"[y/N]" in seen:
            os.write(master, answer)
            is_answered = True
    os.close(master)
    return process.wait(10), seen.decode()


@pytest.mark.parametrize(("answer", "status"), [(b"y\n", 0), (b"n\n", 130), (b"\n", 130)])
def test_at_a_terminal_it_is_asked(moat, workspace, answer, status):
    """Only yes is yes, and what is shown is what is trusted."""
    found, seen = at_a_terminal(["config", "trust"], workspace, answer)
    assert found == status, seen
    assert "mounts[0]: /etc:/x:ro" in seen
    assert "all 2 of these" in seen
    assert len(moat("config", "trust", "--list", "--json").json) == (status == 0)


def test_run_asks_too_and_no_is_an_error(moat, workspace):
    """Before anything is made."""
    status, seen = at_a_terminal(["run", "--", "true"], workspace, b"n\n")
    assert status == 2, seen
    assert "needs trust" in seen
    assert "--no-trust" in seen


def test_what_was_typed_before_the_question_is_no_answer(moat, workspace):
    """A yes in the keyboard's buffer was meant for something else."""
    status, seen = at_a_terminal(["config", "trust"], workspace, b"n\n", early=b"y\ny\n")
    assert status == 130, seen


def test_a_value_cannot_paint_over_the_question(workspace, moat):
    """Escape sequences and line breaks in the file are shown as text."""
    (workspace / "agent.yaml").write_text('mounts: ["/etc/\\e[2J\\e[1A\\r:/x"]\n')
    seen = at_a_terminal(["config", "trust"], workspace, b"n\n")[1]
    assert "\x1b[2J" not in seen
    assert "\\x1b[2J" in seen


def test_a_long_list_says_how_long(workspace, moat):
    """What scrolls away is counted in the question."""
    mounts = "".join(f"  - /etc:/x{number}\n" for number in range(200))
    (workspace / "agent.yaml").write_text(f"sandbox: none\nmounts:\n{mounts}")
    assert "all 201 of these" in at_a_terminal(["config", "trust"], workspace, b"n\n")[1]


def test_a_dry_run_never_asks_and_changes_nothing(workspace, moat, machine):
    """At a terminal, and with --trust."""
    for argv in ([], ["--trust"], ["--no-trust"]):
        _, seen = at_a_terminal(["run", "--dry-run", *argv, "--", "true"], workspace, b"y\n")
        assert "[y/N]" not in seen
        assert moat("config", "trust", "--list", "--json").json == []
