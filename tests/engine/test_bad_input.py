"""What users get wrong: one clear sentence, exit code 2, never a traceback, and nothing made."""

from __future__ import annotations

import os
import sqlite3
import subprocess

import pytest


def refused(done, *words, code=2):
    text = done.stderr.decode()
    assert done.returncode == code, (done.returncode, text)
    assert "Traceback" not in text
    for word in words:
        assert word in text, text
    return text


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["run", "no/such/folder", "--", "true"], ["no/such/folder"]),
        (["run", "a-file", "--", "true"], ["a-file"]),
        (["run", "/", "--", "true"], ["/"]),
        (["run", "--name", "Not A Name", "--", "true"], ["Not A Name", "--name"]),
        (["run", "-e", "1BAD=x", "--", "true"], ["1BAD", "--env"]),
        (["run", "-m", "nonsense", "--", "true"], ["nonsense", "--mount"]),
        (["run", "-m", "/etc:relative", "--", "true"], ["relative", "--mount"]),
        (["run", "-m", "/no/such/source:/data", "--", "true"], ["/no/such/source"]),
        (["run", "-p", "web=99999", "--", "true"], ["99999", "--port"]),
        (["run", "-p", "We_b=80", "--", "true"], ["We_b", "--port"]),
        (["run", "--timeout", "-1", "--", "true"], ["--timeout"]),
        (["run", "--timeout", "nan", "--", "true"], ["--timeout"]),
        (["run", "--timeout", "soon", "--", "true"], ["soon"]),
        (["run", "--runtime", "dokcer", "--", "true"], ["dokcer", "docker"]),
        (["run", "--base-image", "UPPER CASE", "--", "true"], ["UPPER CASE"]),
        (["run", "--dep", "pyhton", "--", "true"], ["pyhton", "python"]),
        (["run", "--"], ["empty"]),
        (["run"], ["nothing to run"]),
        (["run", "-d", "-i"], ["--detach", "--interactive"]),
        (["run", "--no-such-flag"], ["--no-such-flag"]),
        (["--without", "dcoker", "list"], ["dcoker", "docker"]),
        (["logs", "no-such-run"], ["no-such-run"]),
        (["stop", "run-00000000"], ["run-00000000"]),
        (["exec", "nobody", "--", "true"], ["nobody"]),
        (["lst"], ["lst", "list"]),
    ],
    ids=lambda value: " ".join(value)[:40] if value and value[0] in {"run", "logs", "stop", "exec", "lst"} else None,
)
def test_wrong_arguments(moat, world, workspace, argv, words):
    """The sentence names what was wrong, and what would be right where that can be known."""
    (workspace / "a-file").write_text("not a folder")
    refused(moat(*argv), *words)
    assert not world.left()


def test_several_problems_are_told_at_once(moat, workspace):
    """A config with three mistakes gives three lines, each with its place."""
    (workspace / "agent.yaml").write_text("nam: x\nports: {web: 0}\nruntime: 3\n")
    text = refused(moat("run", "--", "true"), "agent.yaml:1", "agent.yaml:2", "agent.yaml:3")
    assert text.count("error:") == 3


def test_config_of_10_megabytes(moat, workspace):
    """Too big is a sentence, and quickly said."""
    (workspace / "agent.yaml").write_text("env:\n" + "".join(f"  A{n}: x\n" for n in range(800_000)))
    assert (workspace / "agent.yaml").stat().st_size > 10_000_000
    refused(moat("run", "--", "true", timeout=20), "agent.yaml")


def test_workspace_that_may_not_be_read(home, workspace):
    """A folder that its user may not enter is refused before anything is made."""
    import sys

    workspace.chmod(0o000)
    home.mkdir()
    os.chown(home, 65534, 65534)
    # As nobody: root may read everything. The interpreter lies where only root may go, so drop rights late.
    code = (
        "import os, sys; import moat_core.cli.main as m; import moat_core.cli.group, moat_core.cli.commands.run\n"
        "from moat_core.api import Moat; from moat_core.config import load_config; import yaml\n"
        "Moat().schema; os.setgid(65534); os.setuid(65534); sys.exit(m.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(workspace), "--", "true"],
        env={**os.environ, "HOME": str(home), "MOAT_HOME": str(home)}, capture_output=True, check=False,
    )  # fmt: skip
    workspace.chmod(0o755)
    refused(done, str(workspace))


def test_full_disk_under_moat_home(moat, home, world):
    """No space for the state is the user's to mend: a sentence, exit 2, and nothing is made that nobody could undo."""
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(home)], check=True)
    try:
        with pytest.raises(OSError, match="space"):
            (home / "ballast").write_bytes(b"x" * 1_000_000)
        refused(moat("run", "--no-sandbox", "--", "true"), str(home))
        assert not world.containers()
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)


def test_state_of_a_newer_version(moat, home):
    """It is not touched, and the sentence says what to do."""
    home.mkdir()
    with sqlite3.connect(home / "moat.db") as connection:
        connection.execute("PRAGMA user_version = 999")
    before = (home / "moat.db").read_bytes()
    for argv in (["list"], ["run", "--no-sandbox", "--", "true"], ["status"]):
        refused(moat(*argv), "newer")
    assert (home / "moat.db").read_bytes() == before
    (home / "moat.db").unlink()  # the fixture that looks for leftovers cannot read it either


@pytest.mark.parametrize("damage", ["header", "all", "empty-tables"])
def test_broken_state_is_kept_aside_and_runs_are_found_again(moat, home, world, damage):
    """A broken file is put aside and said so; a live run is still listed, usable and stoppable, by its label."""
    import json

    done = moat("run", "-d", "--name", "survivor", "--no-sandbox", "--", "sleep", "1000")
    run_id = done.stdout.decode().strip()
    path = home / "moat.db"
    for suffix in ("-wal", "-shm"):
        (home / f"moat.db{suffix}").unlink(missing_ok=True)
    if damage == "header":
        path.write_bytes(b"this is not a database at all" + path.read_bytes()[29:])
    elif damage == "all":
        path.write_bytes(os.urandom(8192))
    else:
        path.unlink()
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 1")
    listed = moat("list", "--json")
    assert b"put aside" in listed.stderr
    assert list(home.glob("moat.db.broken-*"))
    assert [(run["id"], run["name"], run["state"]) for run in json.loads(listed.stdout)] == [
        (run_id, "survivor", "running")
    ]
    assert moat("exec", run_id, "--", "echo", "here").stdout == b"here\n"
    stopped = moat("stop", run_id)
    assert stopped.returncode == 0, stopped.stderr
    assert not world.wait_until_empty(8)
