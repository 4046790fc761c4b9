"""Closed standard streams: what is opened next must not become stdout."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CLOSED = pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])

SCRIPT = """
import os, subprocess, sys
from moat_core.fds import fill_standard_fds
fill_standard_fds()
fill_standard_fds()
print("said", flush=True)
print("complained", file=sys.stderr, flush=True)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.write(fd, str(fd).encode())
os.write(1, b"out")
os.write(2, b"err")
assert sys.stdin.read() == ""
subprocess.run(["sh", "-c", "echo inherited; echo inherited >&2; cat"], check=True)
assert not sys.stdin.isatty() and not sys.stdout.isatty() and not sys.stderr.isatty()
"""


def run_closed(closed, *argv, env=None):
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *argv]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=env)


@CLOSED
def test_nothing_opened_later_is_a_standard_stream(tmp_path, closed):
    """0 to 2 are open afterwards, for us, for Python's streams and for children; those that were open are the same."""
    path = tmp_path / "file"
    done = run_closed(closed, sys.executable, "-c", SCRIPT, str(path))
    assert done.returncode == 0, done.stderr
    assert path.read_text() == "3"
    assert done.stdout == (b"" if ">&-" in closed.split() else b"said\noutinherited\n")
    assert done.stderr == (b"" if "2>&-" in closed else b"complained\nerrinherited\n")


@CLOSED
@pytest.mark.parametrize(
    "argv", [["moat_core.cli", "list"], ["moat_core.cli", "plugins"], ["moat_core.ledger.reaper"]], ids=" ".join
)
def test_every_program_of_ours_fills_them_first(tmp_path, closed, argv):
    """The command and the reaper work without standard streams."""
    environ = os.environ | {"MOAT_HOME": str(tmp_path / "home")}
    done = run_closed(closed, sys.executable, "-m", *argv, env=environ)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr


LIMITS = """
import resource, subprocess, sys
from moat_core.fds import raise_file_limit, with_old_limit
assert with_old_limit(["true"]) == ["true"]
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
print(raise_file_limit(), raise_file_limit(), resource.getrlimit(resource.RLIMIT_NOFILE), flush=True)
argv = ["sh", "-c", 'ulimit -Sn; ulimit -Hn; printf "%s." "$@"', "0", "a b", "$c"]
subprocess.run(with_old_limit(argv), check=True)
"""


def test_the_limit_of_files_is_raised_for_us_and_not_for_others():
    """Children get back what we were started with, and their words as they are."""
    done = subprocess.run([sys.executable, "-c", LIMITS], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["300 300 (300, 300)", "200", "300", "a b.$c."]
