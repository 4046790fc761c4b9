"""The verbs beside `moat run` against the real engine: list, exec, logs, stop, destroy, clean, doctor, status, system."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import secrets
import select
import signal
import struct
import subprocess
import termios
import time

import pytest
from world import MOAT

from moat_plugins.docker.built import remember

BOTH = pytest.mark.parametrize("sandbox", ["--sandbox", "--no-sandbox"])
FOREVER = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"]


@pytest.fixture
def up(moat):
    """Start a detached run: ``up("fox", "--no-sandbox", command=[…])`` -> its id; it is destroyed afterwards."""
    started = []

    def start(name, *options, command=FOREVER):
        done = moat("run", "-d", "--name", name, *options, "--", *command)
        assert done.returncode == 0, done.stderr
        started.append(done.stdout.decode().strip())
        return started[-1]

    yield start
    for run_id in started:
        moat("destroy", "-f", run_id)


def rows(moat, *options):
    return {run["name"]: run for run in json.loads(moat("list", "--json", *options).stdout)}


@pytest.mark.parametrize(("sandbox", "oci_runtime"), [("--sandbox", "runsc"), ("--no-sandbox", "runc")])
def test_list_shows_the_real_isolation(moat, up, sandbox, oci_runtime):
    """What the engine started it with; the quick and the long way agree to the byte."""
    run_id = up("fox", sandbox)
    run = rows(moat)["fox"]
    assert (run["id"], run["state"], run["oci_runtime"], run["owner_kind"]) == (
        run_id,
        "running",
        oci_runtime,
        "detached",
    )
    assert moat("list", "--json").stdout == moat("-v", "list", "--json").stdout
    subprocess.run(["docker", "pause", *_container(run_id)], check=True, capture_output=True)
    assert rows(moat)["fox"]["state"] == "paused"
    assert moat("list", "--json").stdout == moat("-v", "list", "--json").stdout
    subprocess.run(["docker", "unpause", *_container(run_id)], check=True, capture_output=True)


def _container(run_id):
    command = ["docker", "ps", "-aq", "--filter", f"label=moat.run-id={run_id}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


@BOTH
def test_exec_is_the_command_itself(moat, up, sandbox):
    """Exit codes, bytes, variables, folder, user."""
    up("fox", sandbox)
    for command, code in (
        (["true"], 0),
        (["sh", "-c", "exit 37"], 37),
        (["no-such-program"], 127),
        (["/etc/passwd"], 126),
        (["sh", "-c", "kill -9 $$"], 137),
    ):
        assert moat("exec", "fox", "--", *command).returncode == code, command
    done = moat("exec", "fox", "--", "sh", "-c", r"printf 'a\000\377\r\nb'; printf 'x\001\376' >&2")
    assert (done.stdout, done.stderr) == (b"a\0\xff\r\nb", b"x\x01\xfe")
    script = 'echo "$A $SECRET $PWD $(id -u)"'
    done = moat(
        "exec",
        "-e",
        "A=b c",
        "-e",
        "SECRET",
        "-w",
        "/tmp",
        "-u",
        "root",
        "fox",
        "sh",
        "-c",
        script,
        env={"SECRET": "s3"},
    )
    assert done.stdout == b"b c s3 /tmp 0\n"


@BOTH
def test_exec_passes_standard_input_on(moat, up, sandbox):
    """With -i every byte, to its end; without -i nothing."""
    up("fox", sandbox)
    data = os.urandom(3_000_000)
    done = moat("exec", "-i", "fox", "--", "sha256sum", stdin=data)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert moat("exec", "fox", "--", "cat", stdin=b"x").stdout == b""


@BOTH
def test_exec_time_limit_kills_the_whole_tree(moat, up, sandbox):
    """137, in time, and no grandchild survives."""
    up("fox", sandbox)
    mark = f"7{secrets.randbelow(10**6):06}"
    done = moat("exec", "--timeout", "1", "fox", "--", "sh", "-c", f"(sleep {mark} & sleep {mark}) & wait")
    assert done.returncode == 137
    assert b"time limit" in done.stderr
    script = f"for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $f; echo; done | grep -c '^sleep {mark}' || true"
    assert moat("exec", "fox", "--", "sh", "-c", script).stdout == b"0\n"


class Terminal:
    """A pseudo-terminal with moat at its end."""

    def __init__(self, argv, cwd):
        self.ours, theirs = pty.openpty()
        self.resize(33, 101)
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs
        self.process = subprocess.Popen(
            [*MOAT, *argv], stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, start_new_session=True
        )
        self.seen = b""

    def resize(self, lines, columns):
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def expect(self, text, seconds=30):
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.ours], [], [], max(0, deadline - time.monotonic()))
            assert ready, self.seen
            self.seen += os.read(self.ours, 65536)

    def send(self, data):
        self.seen = b""
        os.write(self.ours, data)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.theirs)
        os.close(self.ours)


@BOTH
def test_exec_at_a_terminal_is_a_terminal(moat, up, workspace, sandbox):
    """Its size from the beginning and after a change, Ctrl-C for the command, the settings back at the end."""
    up("fox", sandbox)
    terminal = Terminal(["exec", "-i", "fox", "--", "sh"], workspace)
    try:
        terminal.expect(b"$ " if os.getuid() else b"# ")
        terminal.send(b"stty size; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all-$((1+1))\r")
        terminal.expect(b"33 101")
        terminal.expect(b"all-2")
        terminal.resize(44, 90)
        os.kill(terminal.process.pid, signal.SIGWINCH)
        deadline = time.monotonic() + 10
        while b"44 90" not in terminal.seen:  # it takes a moment to get there
            assert time.monotonic() < deadline, terminal.seen
            time.sleep(0.1)
            terminal.send(b"stty size; echo done-$((1+1))\r")
            terminal.expect(b"done-2")
        terminal.send(b"sleep 1000\r")
        terminal.expect(b"sleep 1000")
        time.sleep(0.5)  # until it has begun
        terminal.send(b"\x03")
        terminal.expect(b"# ")
        terminal.send(b"exit 7\r")
        assert terminal.process.wait(30) == 7
        assert termios.tcgetattr(terminal.theirs) == terminal.before
    finally:
        terminal.close()


def test_logs_follow_a_live_run_and_survive_the_container(moat, up, world, workspace):
    """-f ends with the run; afterwards everything is still there, apart."""
    script = r"echo one; printf 'e\377\n' >&2; while [ ! -e go ]; do sleep 0.1; done; printf 'two without newline'"
    up("fox", command=["sh", "-c", script])
    process = subprocess.Popen([*MOAT, "logs", "-f", "fox"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"one\n"
    (workspace / "go").touch()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, b"two without newline", b"e\xff\n")
    assert world.containers() == []
    done = moat("logs")
    assert (done.stdout, done.stderr) == (b"one\ntwo without newline", b"e\xff\n")
    assert moat("logs", "-n", "1", "fox").stdout == b"two without newline"


@BOTH
def test_stop_leaves_nothing(moat, up, world, sandbox):
    """When it returns everything is undone already."""
    up("fox", sandbox)
    done = moat("stop", "fox")
    assert (done.returncode, done.stdout.split()[:2]) == (0, [b"stopped", b"fox"])
    assert world.containers() == []
    assert world.rows() == []
    assert rows(moat, "-a")["fox"]["exit_code"] == 0


def test_stop_kills_what_does_not_listen(moat, up, world):
    """After the grace; 137."""
    up("fox", command=["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])
    assert moat("stop", "--grace", "0.5", "fox").returncode == 0
    assert rows(moat, "-a")["fox"]["exit_code"] == 137
    assert world.containers() == []


def test_stop_of_a_foreground_run_ends_its_owner(moat, world, workspace):
    """`moat run` returns with its command's own exit code."""
    process = subprocess.Popen([*MOAT, "run", "--name", "fox", "--", *FOREVER], cwd=workspace, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + 60
    while rows(moat).get("fox", {}).get("state") != "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert moat("stop", "fox").returncode == 0
    assert process.wait(20) == 0
    assert world.containers() == []


def test_what_was_kept_is_listed_and_destroyed(moat, world):
    """--keep leaves the container, stopped; destroy removes it with the run's row and log."""
    assert moat("run", "--keep", "--name", "fox", "--", "echo", "hello").returncode == 0
    run = rows(moat)["fox"]
    assert (run["state"], run["exit_code"]) == ("kept", 0)
    assert moat("list", "--json").stdout == moat("-v", "list", "--json").stdout
    assert len(world.containers()) == 1
    assert moat("destroy", "--dry-run", "fox").returncode == 0
    assert len(world.containers()) == 1
    assert moat("destroy", "fox").returncode == 0
    assert world.containers() == []
    assert rows(moat, "-a") == {}


def test_what_was_kept_and_removed_behind_our_back_is_said_so(moat, world):
    """Whoever needs its container: the same words, and 125; its output is shown, and destroy forgets it."""
    assert moat("run", "--keep", "--name", "fox", "--", "echo", "hello").returncode == 0
    subprocess.run(["docker", "rm", *world.containers()], check=True, capture_output=True)
    assert rows(moat)["fox"]["state"] == "gone"
    for verb in (["exec", "fox", "--", "true"], ["stop", "fox"]):
        done = moat(*verb)
        assert done.returncode == 125, verb
        assert b"Its container is gone: it was kept, and has been removed from outside." in done.stderr
    assert moat("logs", "fox").stdout == b"hello\n"
    assert moat("destroy", "fox").returncode == 0
    assert rows(moat, "-a") == {}
    for verb in (["exec", "fox", "--", "true"], ["stop", "fox"], ["logs", "fox"], ["destroy", "fox"]):
        done = moat(*verb)
        assert (done.returncode, b"There is no run 'fox'" in done.stderr) == (2, True), verb


def test_a_run_that_nohup_started_outlives_its_terminal(moat, world, workspace):
    """coreutils' own: its SIGHUP, and that of a script's background job, end nothing."""
    words = 'nohup "$@" >out 2>err & echo $!'
    script = [
        "sh",
        "-c",
        words,
        "sh",
        *MOAT,
        "run",
        "--no-sandbox",
        "--",
        "sh",
        "-c",
        "echo up; until [ -e go ]; do sleep 0.1; done; echo done",
    ]
    pid = int(subprocess.run(script, cwd=workspace, capture_output=True, check=True).stdout)
    out = workspace / "out"
    deadline = time.monotonic() + 60
    while "up" not in out.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(pid, signal.SIGHUP)
    (workspace / "go").touch()
    while world.containers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert out.read_text() == "up\ndone\n"
    (run,) = rows(moat, "-a").values()
    assert (run["state"], run["exit_code"]) == ("exited", 0), run


def test_list_stop_and_clean_need_no_gvisor(moat, up, world):
    """Without its plugin a run in gVisor is listed, stopped and cleaned up."""
    up("fox", "--sandbox")
    without = {"MOAT_DISABLE": "gvisor"}
    assert json.loads(moat("-v", "list", "--json", env=without).stdout)[0]["oci_runtime"] == "runsc"
    assert moat("stop", "fox", env=without).returncode == 0
    assert moat("clean", "--dry-run", env=without).returncode == 0
    assert world.containers() == []


@pytest.mark.alone
def test_clean_removes_runs_kept_containers_and_unused_images(moat, up, world):
    """What is alive stays; what is used stays; the rest is named and goes."""
    tags = [f"moat/run:{secrets.token_hex(8)}" for _ in range(2)]
    for tag in tags:
        dockerfile = f"FROM debian:bookworm-slim\nLABEL moat.image=true test={tag}\n".encode()
        subprocess.run(["docker", "build", "-q", "-t", tag, "-"], input=dockerfile, check=True, capture_output=True,
                       env=os.environ | {"DOCKER_BUILDKIT": "0"})  # fmt: skip
    tag, other = tags
    image = subprocess.run(["docker", "inspect", "-f", "{{.Id}}", tag], check=True, capture_output=True, text=True)
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    remember(str(world.home), address, tag, image.stdout.strip())
    live = up("live")
    assert moat("run", "--keep", "--name", "kept", "--", "true").returncode == 0
    assert moat("run", "--name", "over", "--", "false").returncode == 1
    listed = json.loads(moat("clean", "--dry-run", "--json").stdout)
    assert listed["removed"] == []
    assert {tag, other} & {item["name"] for item in listed["found"]} == {tag}  # the other is called so, and is not ours
    assert len(world.containers()) == 2
    done = moat("clean", "-f", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert tag in {item["name"] for item in report["removed"]}
    assert report["freed_bytes"] >= 0
    assert list(rows(moat, "-a")) == ["live"]
    assert world.containers() == world.containers(live) != []
    images = subprocess.run(["docker", "images", "-q", tag], check=True, capture_output=True).stdout
    assert images == b""
    assert subprocess.run(["docker", "rmi", other], check=False, capture_output=True).returncode == 0


def test_status_doctor_and_system_see_the_engine(moat, up):
    """A live run, its container, the engine's version."""
    run_id = up("fox")
    status = json.loads(moat("status", "--json").stdout)
    assert [run["id"] for run in status["runs"]] == [run_id]
    assert status["sections"]["engine"][0]["data"]["version"]
    assert status["problems"] == []
    containers = json.loads(moat("system", "containers", "--json").stdout)
    assert run_id in {each["run_id"] for each in containers if each["role"] == "main" and each["state"] == "running"}
    doctor = moat("doctor", "--json")
    checks = {check["name"]: check["status"] for check in json.loads(doctor.stdout)}
    assert checks["docker engine"] == "ok"
    assert checks["gVisor"] == "ok"


def test_without_an_engine(moat):
    """doctor is exit 1 with what to do, status and list answer, exec is an error; none is a traceback."""
    nowhere = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
    doctor = moat("doctor", env=nowhere)
    assert (doctor.returncode, b"/nowhere/docker.sock" in doctor.stdout) == (1, True)
    assert moat("list", env=nowhere).returncode == 0
    assert moat("status", env=nowhere).returncode == 0
    assert moat("clean", "--dry-run", env=nowhere).returncode == 0
    assert moat("exec", "fox", "--", "true", env=nowhere).returncode == 2
    assert b"Traceback" not in doctor.stderr
