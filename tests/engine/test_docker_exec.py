"""Commands in a live container, in runc and in gVisor: streams, ends, trees."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import anyio
import pytest
from docker_support import get_engine, open_live, run_command

from moat_core.errors import SandboxGone
from moat_core.types import Command, User

OCI = pytest.mark.parametrize("oci", ["runc", "runsc"])
MIB = 1024 * 1024


@OCI
async def test_ends_as_a_shell_would_say(engine, tmp_path, oci):
    """Exit codes are the command's own, 126 and 127 with a word on stderr, 128 + n for signals."""
    async with open_live(engine, tmp_path, oci_runtime=oci) as (_, sandbox):
        for argv, expected in {
            ("true",): (0, b"", b""),
            ("sh", "-c", "exit 37"): (37, b"", b""),
            ("sh", "-c", "kill -9 $$"): (137, b"", b""),
            ("sh", "-c", "kill -15 $$"): (143, b"", b""),
            ("no-such-program", "x"): (127, b"", b"moat: no-such-program: command not found\n"),
            ("/no/such",): (127, b"", b"moat: /no/such: command not found\n"),
            ("/etc/passwd",): (126, b"", b"moat: /etc/passwd: permission denied\n"),
        }.items():
            assert await run_command(sandbox, *argv) == expected, argv
        assert await run_command(sandbox, "true", cwd="/nope") == (126, b"", b"moat: /nope: no such folder\n")
        assert await run_command(sandbox, "pwd", cwd="/tmp", env={"A": "1"}) == (0, b"/tmp\n", b"")


@OCI
async def test_engines_words_from_a_program_are_its_output(engine, tmp_path, oci):
    """A program that prints what the engine says of missing programs is not taken for one."""
    text = b'OCI runtime exec failed: exec: "x": executable file not found in $PATH: unknown'
    async with open_live(engine, tmp_path, oci_runtime=oci) as (_, sandbox):
        assert await run_command(sandbox, "sh", "-c", 'printf %s "$1"; exit 126', "sh", text.decode()) == (
            126,
            text,
            b"",
        )
        ends_later = await run_command(
            sandbox, "sh", "-c", 'printf %s "$1"; cat; printf more', "sh", text.decode(), stdin=b""
        )
        assert ends_later == (0, text + b"more", b"")


@OCI
async def test_streams_stay_apart_byte_for_byte(engine, tmp_path, oci):
    """Binary output without a final newline arrives as it was written, each on its own stream."""
    script = r"printf 'a\000\377\r\n\001b'; printf 'e\376\000' >&2"
    async with open_live(engine, tmp_path, oci_runtime=oci) as (_, sandbox):
        assert await run_command(sandbox, "sh", "-c", script) == (0, b"a\0\xff\r\n\x01b", b"e\xfe\0")
        every = bytes(range(256)) * 4096
        assert await run_command(sandbox, "cat", stdin=every) == (0, every, b"")


@OCI
async def test_much_output_needs_little_memory_and_slows_its_writer(engine, tmp_path, oci):
    """50 MB pass with flat memory, and the writer gets no further than what is read."""
    script = "head -c 52428800 /dev/zero; touch /tmp/done"
    async with open_live(engine, tmp_path, oci_runtime=oci) as (_, sandbox):
        async with sandbox.open_process(Command(("sh", "-c", script))) as process:
            pieces = aiter(process)
            total = len((await anext(pieces)).data)
            assert (await run_command(sandbox, "test", "-e", "/tmp/done"))[0] == 1
            before, most = resident(), 0
            async for piece in pieces:
                assert len(piece.data) <= 64 * 1024
                total += len(piece.data)
                most = max(most, resident())
            assert await process.wait() == 0
        assert total == 50 * MIB
        assert most - before < 8 * MIB
        assert (await run_command(sandbox, "test", "-e", "/tmp/done"))[0] == 0


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@OCI
async def test_half_close_lets_the_output_go_on(engine, tmp_path, oci):
    """After its standard input is closed a command can still answer: tar unpacks and tells how it went."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("deep/file")
        entry.size = MIB
        tar.addfile(entry, io.BytesIO(b"x" * MIB))
    async with open_live(engine, tmp_path, oci_runtime=oci) as (_, sandbox):
        script = "tar x -C /tmp; echo $?; wc -c </tmp/deep/file"
        assert await run_command(sandbox, "sh", "-c", script, stdin=buffer.getvalue()) == (0, b"0\n1048576\n", b"")
        assert await run_command(sandbox, "cat") == (0, b"", b"")  # none was asked for: end-of-file at once


@OCI
async def test_writing_to_what_does_not_read_is_a_broken_pipe(engine, tmp_path, oci):
    """A command that has ended takes no more input, and a closed input stays closed."""
    async with open_live(engine, tmp_path, oci_runtime=oci) as (_, sandbox):
        async with sandbox.open_process(Command(("true",), stdin=True)) as process:
            assert await process.wait() == 0
            with pytest.raises(BrokenPipeError):
                for _ in range(1000):
                    await process.write(b"x" * 65536)
        async with sandbox.open_process(Command(("cat",), stdin=True)) as process:
            await process.close_stdin()
            await process.close_stdin()
            with pytest.raises(BrokenPipeError):
                await process.write(b"x")
            assert await process.wait() == 0


@OCI
async def test_leaving_kills_the_whole_tree(engine, tmp_path, oci):
    """Children in sessions of their own, orphans and those with an emptied environment end with the command."""
    script = """
    setsid sh -c 'sleep 1111 & sleep 1112' &
    (sleep 1113 &)
    setsid sh -c '(setsid sleep 1114 &)' &
    env -i sleep 1115 &
    trap '' TERM HUP INT
    while ! pgrep -f 'sleep 111[4]' >/dev/null 2>&1 && ! grep -qsz 1114 /proc/[0-9]*/cmdline; do :; done
    echo up; while :; do sleep 1116; done
    """
    fields = {"oci_runtime": oci, "user": User(1234, 1234, "agent", "/home/agent")}
    async with open_live(engine, tmp_path, **fields) as (_, sandbox):
        async with sandbox.open_process(Command(("sh", "-c", script))) as process:
            assert (await anext(aiter(process))).data == b"up\n"
            assert (await sleepers(sandbox)) == {1111, 1112, 1113, 1114, 1115, 1116}
        assert await sleepers(sandbox) == set()
        assert (await run_command(sandbox, "true"))[0] == 0


async def sleepers(sandbox):
    _, out, _ = await run_command(
        sandbox, "sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'", user="root"
    )
    return {int(line) for line in out.decode().split("\n") if line.startswith("111") and len(line) == 4}


@OCI
async def test_cancellation_kills_the_tree(engine, tmp_path, oci):
    """A task that is cancelled while its command runs leaves no process behind."""
    async with open_live(engine, tmp_path, oci_runtime=oci) as (_, sandbox):
        with anyio.CancelScope() as scope:
            async with sandbox.open_process(Command(("sh", "-c", "sleep 1111 & echo up; sleep 1112"))) as process:
                async for _ in process:
                    scope.cancel()
        assert scope.cancelled_caught
        assert await sleepers(sandbox) == set()


@OCI
async def test_signal_reaches_the_tree(engine, tmp_path, oci):
    """A signal goes to every process of the command, and to no other's."""
    script = "trap 'echo caught; exit 5' USR1; sleep 1111 & echo up; while :; do wait; done"
    async with open_live(engine, tmp_path, oci_runtime=oci) as (_, sandbox):
        async with sandbox.open_process(Command(("sh", "-c", "echo other; sleep 1112"))) as other:
            assert (await anext(aiter(other))).data == b"other\n"
            async with sandbox.open_process(Command(("sh", "-c", script))) as process:
                pieces = aiter(process)
                assert (await anext(pieces)).data == b"up\n"
                await process.signal(10)
                assert b"caught\n" in b"".join([piece.data async for piece in pieces if piece.stream == "stdout"])
                assert await process.wait() == 5
            assert await sleepers(sandbox) == {1112}


@OCI
async def test_terminal_has_its_size_before_the_first_byte(engine, tmp_path, oci):
    """The size is there when the command starts, and a new one is seen."""
    script = "stty size; read -r _; stty size"
    async with open_live(engine, tmp_path, oci_runtime=oci) as (_, sandbox):
        command = Command(("sh", "-c", script), tty=True, stdin=True, size=(33, 101))
        async with sandbox.open_process(command) as process:
            text = ""
            async for piece in process:
                assert piece.stream == "stdout"
                text += piece.data.decode()
                if text == "33 101\r\n":
                    await process.resize(44, 111)
                    await process.write(b"\n")
            assert text.split() == ["33", "101", "44", "111"]
            assert await process.wait() == 0
        assert await run_command(sandbox, "nope", tty=True) == (127, b"moat: nope: command not found\n", b"")


@OCI
async def test_user_is_the_runs_unless_asked(engine, tmp_path, oci):
    """A command is the run's user, without a right of root's; root can be asked for, still without new privileges."""
    fields = {"oci_runtime": oci, "user": User(1234, 1235, "agent", "/home/agent"), "groups": (4321,)}
    async with open_live(engine, tmp_path, **fields) as (_, sandbox):
        script = "id -u; id -g; echo $HOME; whoami; grep -E '^(CapEff|NoNewPrivs)' /proc/self/status | tr -d '\\t '"
        _, out, err = await run_command(sandbox, "sh", "-c", script)
        assert out.decode().split()[:4] == ["1234", "1235", "/home/agent", "agent"], err
        assert "CapEff:0000000000000000" in out.decode()
        assert (await run_command(sandbox, "id", "-u", user="root"))[1] == b"0\n"
        assert (await run_command(sandbox, "id", "-u", user="0:0"))[1] == b"0\n"
        if oci == "runc":
            assert b"NoNewPrivs:1" in out


@OCI
async def test_waiting_drops_what_nobody_reads(engine, tmp_path, oci):
    """`wait` alone ends although more is written than any buffer holds; beside a reader it takes nothing away."""
    async with open_live(engine, tmp_path, oci_runtime=oci) as (_, sandbox):
        async with sandbox.open_process(Command(("head", "-c", "5000000", "/dev/zero"))) as process:
            assert await process.wait() == 0
            assert [piece async for piece in process] == []
        async with sandbox.open_process(Command(("head", "-c", "5000000", "/dev/zero"))) as process:
            total, codes = 0, []

            async def wait(process=process, codes=codes):
                codes.append(await process.wait())

            async with anyio.create_task_group() as group:
                async for piece in process:
                    if not total:
                        group.start_soon(wait)
                    total += len(piece.data)
            assert (total, codes) == (5_000_000, [0])


async def test_fork_bomb_is_killed(engine, tmp_path):
    """A command that has used up every process of the container is killed all the same."""
    from moat_core.types import Limits

    async with open_live(engine, tmp_path, limits=Limits(pids=64)) as (_, sandbox):
        script = "echo up; while :; do sleep 1111 & done"
        async with sandbox.open_process(Command(("sh", "-c", script))) as process:
            # Two streams: the shell's complaints on stderr may overtake what it said before on stdout.
            async for piece in process:
                if piece.data == b"up\n":
                    break
        assert await sleepers(sandbox) == set()


async def test_exec_in_a_removed_container_says_so(engine, tmp_path):
    """A command for a container that is gone is `SandboxGone`, and one that was running ends with it."""
    async with open_live(engine, tmp_path) as (run, sandbox):
        async with sandbox.open_process(Command(("sh", "-c", "echo up; sleep 100"))) as process:
            assert (await anext(aiter(process))).data == b"up\n"
            await (await get_engine(run)).containers.remove(sandbox.info.id)
            with pytest.raises(SandboxGone):
                await process.wait()
        with pytest.raises(SandboxGone):
            await run_command(sandbox, "true")
