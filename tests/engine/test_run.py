"""`moat run` against the real engine: exit codes, streams, signals, isolation."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time

import pytest
from world import MOAT

SANDBOX = pytest.mark.parametrize("sandbox", ["--sandbox", "--no-sandbox"])


@pytest.fixture(autouse=True)
def started():
    """Processes of this test; none outlives it."""
    yield _started
    while _started:
        process = _started.pop()
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


_started = []


def start(*argv, cwd, **kwargs):
    process = subprocess.Popen(
        [*MOAT, *argv], cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs
    )
    _started.append(process)
    return process


@SANDBOX
@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 37"], 37),
        (["sh", "-c", "exit 255"], 255),
        (["no-such-program"], 127),
        (["/etc/passwd"], 126),
        (["sh", "-c", "kill -9 $$"], 137),
        (["sh", "-c", "kill -TERM $$"], 143),
    ],
    ids=lambda value: "-".join(value)[:20] if isinstance(value, list) else str(value),
)
def test_exit_code_is_the_commands_own(moat, sandbox, command, code):
    """The command's exit code is moat's, 126, 127 and signals included."""
    done = moat("run", sandbox, "--", *command)
    assert done.returncode == code, done.stderr


@SANDBOX
def test_streams_stay_apart_byte_for_byte(moat, sandbox):
    """stdout and stderr are what the command wrote: binary, without a final newline, apart."""
    script = r"printf 'a\000\377\r\nb'; printf 'x\001\376\ny' >&2"
    done = moat("run", sandbox, "--", "sh", "-c", script)
    assert done.stdout == b"a\0\xff\r\nb"
    expected = b"x\x01\xfe\ny"
    assert done.stderr.endswith(expected)
    noise = done.stderr.removesuffix(expected)
    assert (b"without gVisor" in noise) == (sandbox == "--no-sandbox")
    assert noise == b"" or sandbox == "--no-sandbox"


def test_gvisor_is_the_default(moat):
    """Without a word about it, the run is in gVisor: its kernel log says so."""
    done = moat("run", "--", "dmesg")
    assert done.returncode == 0
    assert b"gVisor" in done.stdout


def test_without_sandbox_it_is_not_gvisor_and_says_so(moat):
    """--no-sandbox runs on the host's kernel, with one visible warning."""
    done = moat("run", "--no-sandbox", "--", "sh", "-c", "dmesg; cat /proc/version")
    assert b"gVisor" not in done.stdout
    assert os.uname().release.encode() in done.stdout
    assert done.stderr.count(b"warning:") == 1


@pytest.mark.parametrize("how", ["env", "config"])
def test_sandbox_can_be_switched_off_by_env_and_config(moat, workspace, how):
    """MOAT_NO_SANDBOX=1 and `sandbox: none` do what --no-sandbox does."""
    if how == "config":
        (workspace / "agent.yaml").write_text("sandbox: none\n")
    done = moat("run", "--trust", "--", "cat", "/proc/version", env={"MOAT_NO_SANDBOX": "1"} if how == "env" else {})
    assert os.uname().release.encode() in done.stdout


@SANDBOX
def test_big_output_arrives_whole(moat, sandbox):
    """20 MB come through complete and in order."""
    done = moat("run", sandbox, "--", "sh", "-c", "seq 1 2600000")
    assert done.stdout == b"".join(b"%d\n" % n for n in range(1, 2600001))


@SANDBOX
def test_stdin_is_passed_on_and_half_closed(moat, sandbox):
    """With -i, what we read the command reads, up to the end, and it can answer after that."""
    data = os.urandom(300_000)
    done = moat("run", "-i", sandbox, "--", "sh", "-c", "sha256sum; echo after", stdin=data)
    import hashlib

    assert done.stdout == f"{hashlib.sha256(data).hexdigest()}  -\nafter\n".encode()


def test_stdin_is_empty_without_interactive(moat):
    """Without -i the command reads end-of-file at once."""
    assert moat("run", "--no-sandbox", "--", "wc", "-c", stdin=b"data").stdout.strip() == b"0"


@SANDBOX
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_stops_the_container(world, workspace, sandbox, number, code):
    """Ctrl-C and its like end the container, leave nothing and are told by the exit code."""
    process = start("run", sandbox, "--", "sh", "-c", "echo up; sleep 1000", cwd=workspace)
    assert process.stdout.readline() == b"up\n"
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code, stderr
    assert b"Traceback" not in stderr
    assert not world.wait_until_empty(2)


def test_signal_lets_the_command_clean_up(world, workspace):
    """The command hears SIGTERM and what it then says still arrives."""
    script = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done"
    process = start("run", "--no-sandbox", "--", "sh", "-c", script, cwd=workspace)
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=30)
    assert stdout == b"bye\n"
    assert process.returncode == 130


def test_second_signal_takes_all_patience(world, workspace):
    """A command that ignores SIGTERM is killed at once by a second Ctrl-C."""
    process = start("run", "--no-sandbox", "--", "sh", "-c", "trap '' TERM; echo up; sleep 1000", cwd=workspace)
    assert process.stdout.readline() == b"up\n"
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert any(b"Stopping" in line for line in iter(process.stderr.readline, b""))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - started < 8


def test_signal_while_opening_calls_it_off(world, workspace, tmp_path):
    """A Ctrl-C before the container is up leaves nothing either."""
    for delay in (0.35, 0.45, 0.55, 0.65, 0.8):
        process = start("run", "--no-sandbox", "--", "sleep", "1000", cwd=workspace)
        time.sleep(delay)  # the moment is the test's input, not a synchronisation
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode in {130, -signal.SIGINT}, stderr
        assert b"Traceback" not in stderr, stderr
        assert not world.wait_until_empty(5)


def test_timeout_kills_the_command(moat):
    """--timeout ends it with 137 and says why."""
    done = moat("run", "--no-sandbox", "--timeout", "1", "--", "sleep", "1000")
    assert done.returncode == 137
    assert b"time limit" in done.stderr


def test_reader_that_leaves_ends_the_run(world, workspace):
    """`moat run … | head -1` does not hang and leaves nothing."""
    shell = f"{' '.join(MOAT)} run --no-sandbox -- yes | head -1"
    done = subprocess.run(["sh", "-c", shell], cwd=workspace, capture_output=True, timeout=60, check=False)
    assert done.stdout == b"y\n"
    assert b"Traceback" not in done.stderr


def test_the_workspace_is_there_and_files_belong_to_its_owner(moat, workspace):
    """/workspace is the folder, and what is made in it belongs to whoever owns it."""
    os.chown(workspace, 1234, 1234)
    done = moat("run", "--no-sandbox", "--", "sh", "-c", "pwd; id -un; echo $HOME; touch made; echo x >$HOME/f")
    assert done.stdout == b"/workspace\nmoat\n/home/moat\n", done.stderr
    assert (workspace / "made").stat().st_uid == 1234


def test_hardening_is_what_the_security_page_says(moat):
    """No new privileges, few capabilities, a pids limit, no engine socket, a network without the neighbours."""
    done = moat("run", "--no-sandbox", "--", "sh", "-c", "grep -E 'NoNewPrivs|CapEff' /proc/self/status; ls /var/run")
    assert b"NoNewPrivs:\t1" in done.stdout
    effective = int(re.search(rb"CapEff:\t([0-9a-f]+)", done.stdout)[1], 16)
    for number, name in {12: "NET_ADMIN", 13: "NET_RAW", 21: "SYS_ADMIN", 19: "SYS_PTRACE", 27: "MKNOD"}.items():
        assert not effective >> number & 1, name
    assert b"docker" not in done.stdout


def test_two_runs_cannot_see_each_other(moat, world, workspace):
    """On the shared network one run cannot reach another's open port, not even by address."""
    script = (
        "hostname -I; exec perl -MIO::Socket::INET -e '$s=IO::Socket::INET->new(Listen=>1,LocalPort=>7777); $s->accept'"
    )
    server = start("run", "--no-sandbox", "--", "sh", "-c", script, cwd=workspace)
    address = server.stdout.readline().decode().split()[0]
    client = f"$s=IO::Socket::INET->new(PeerAddr=>'{address}',PeerPort=>7777,Timeout=>2); print $s ? 'open' : 'closed'"
    try:
        for sandbox in ("--no-sandbox", "--sandbox"):
            done = moat("run", sandbox, "--", "perl", "-MIO::Socket::INET", "-e", client)
            assert done.stdout == b"closed", (sandbox, done)
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)


@SANDBOX
def test_names_resolve(moat, sandbox):
    """Outside names resolve on the network we make, in gVisor too."""
    host = subprocess.run(
        ["sh", "-c", "apt-get indextargets --format '$(REPO_URI)' | head -1 | cut -d/ -f3"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    done = moat("run", sandbox, "--", "getent", "hosts", host)
    assert done.returncode == 0, done


def test_interactive_terminal(world, workspace):
    """-i on a terminal gives a PTY: its size from the first byte, changes of it, keys, and the modes come back."""
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        [*MOAT, "run", "-i", "--no-sandbox", "--", "sh", "-c",
         "stty size; trap 'stty size' WINCH; echo ready; read x; echo got:$x; read y; printf '\\033[?1049h'; exit 5"],
        cwd=workspace, stdin=slave, stdout=slave, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    _started.append(process)
    seen = b""

    def read_until(text):
        nonlocal seen
        deadline = time.monotonic() + 30
        while text not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([master], [], [], 0.2)[0]:
                seen += os.read(master, 4096)

    read_until(b"ready")
    assert b"33 101" in seen.split(b"ready")[0]
    os.write(master, b"hello\r")
    read_until(b"got:hello")
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    read_until(b"40 120")
    os.write(master, b"\r")
    process.wait(timeout=30)
    read_until(b"\x1b[?1049l")
    assert process.returncode == 5, process.stderr.read()
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_detached_run_lives_on_and_can_be_used(moat, world, workspace):
    """-d returns when the run is up; logs, exec, list and stop reach it; nothing is left after."""
    import json

    done = moat("run", "-d", "--name", "web", "--no-sandbox", "--", "sh", "-c", "echo started; sleep 1000")
    assert done.returncode == 0, done.stderr
    run_id = done.stdout.decode().strip()
    assert re.fullmatch(r"run-[0-9a-f]{8}", run_id)
    listed = json.loads(moat("list", "--json").stdout)
    assert [(run["id"], run["name"], run["state"], run["oci_runtime"]) for run in listed] == [
        (run_id, "web", "running", "runc")
    ]
    assert moat("exec", "web", "--", "sh", "-c", "echo in; exit 9").returncode == 9
    assert moat("logs", "web").stdout == b"started\n"
    assert moat("stop", "web").returncode == 0
    assert not world.wait_until_empty(5)
    assert moat("logs", run_id).stdout == b"started\n"
    assert json.loads(moat("list", "--json").stdout) == []


def test_detached_failure_is_told(moat, world):
    """What keeps a detached run from opening is the command's error, not a log line somewhere."""
    done = moat("run", "-d", "--base-image", "no-such-registry.invalid/image:1", "--no-sandbox")
    assert done.returncode == 125
    assert b"error: The image no-such-registry.invalid/image:1 cannot be pulled" in done.stderr
    assert b"Traceback" not in done.stderr


def test_no_secret_is_where_others_can_read_it(moat, world, workspace, home):
    """A value given with -e is in no argv of ours, no label, no store and no log."""
    secret = "s3cr3t-" + os.urandom(8).hex()
    done = moat("run", "-d", "--no-sandbox", "-e", "TOKEN", "--", "sh", "-c", "sleep 1000", env={"TOKEN": secret})
    run_id = done.stdout.decode().strip()
    try:
        assert moat("exec", run_id, "--", "printenv", "TOKEN").stdout.decode().strip() == secret
        for path in home.rglob("*"):
            if path.is_file():
                assert secret.encode() not in path.read_bytes(), path
        for _, command in world.processes():
            assert secret not in command
        labels = subprocess.run(
            ["docker", "inspect", "-f", "{{json .Config.Labels}}", f"moat-{run_id}"], capture_output=True, check=True
        )
        assert secret.encode() not in labels.stdout
    finally:
        moat("stop", run_id)
