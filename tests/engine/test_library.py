"""The library against the real engine: what a program that imports moat_core relies on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import urllib.request

import pytest

from moat_core import CommandFailed, CommandTimeout, Moat
from moat_core.errors import RunOver, SandboxGone, UsageError
from moat_core.events import ExecEnded, ExecStarted, RunEnded, RunStarted

SANDBOX = pytest.mark.parametrize("sandbox", [True, False], ids=["gvisor", "runc"])


@SANDBOX
async def test_exec_tells_everything(world, home, workspace, sandbox):
    """Exit code, streams, time limit, truncation: all in the result; check= raises with it."""
    async with Moat(home=home) as moat, moat.run(workspace, sandbox=sandbox) as run:
        assert run.oci_runtime == ("runsc" if sandbox else "runc")
        result = await run.exec(["sh", "-c", "echo out; echo err >&2; exit 3"])
        assert (result.exit_code, result.returncode, result.stdout, result.stderr) == (3, 3, b"out\n", b"err\n")
        late = await run.exec(["sh", "-c", "echo early; sleep 1000"], timeout_s=1.0)
        assert late.timed_out
        assert late.stdout == b"early\n"
        big = await run.exec(["sh", "-c", "head -c 300000 /dev/zero"], limit_bytes=1000)
        assert big.truncated
        assert len(big.stdout) == 1000
        with pytest.raises(CommandFailed) as failed:
            await run.exec(["false"], check=True)
        assert failed.value.result.exit_code == 1
        with pytest.raises(CommandTimeout):
            await run.exec(["sleep", "100"], timeout_s=0.5, check=True)
        assert (await run.exec(["cat"], stdin="héllo")).text == "héllo"
        assert (await run.exec(["no-such-program"])).exit_code == 127


@SANDBOX
async def test_a_timeout_kills_the_whole_tree(world, home, workspace, sandbox):
    """Children in sessions of their own, double forks and orphans die with the command."""
    tree = "setsid sleep 1001 & (setsid sh -c 'sleep 1002 & exec sleep 1003' &) ; sleep 1004"
    async with Moat(home=home) as moat, moat.run(workspace, sandbox=sandbox) as run:
        assert (await run.exec(["sh", "-c", tree], timeout_s=1.5)).timed_out
        left = await run.exec(
            ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o 'sleep 100[0-9]' || true"]
        )
        assert left.stdout == b""


async def test_files_in_and_out(world, home, workspace, tmp_path):
    """Files and trees survive the way in and out, and their errors are Python's own, too."""
    source = tmp_path / "tree"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "data.bin").write_bytes(bytes(range(256)) * 1000)
    (source / "link").symlink_to("sub/data.bin")
    async with Moat(home=home) as moat, moat.run(workspace) as run:
        await run.write("deep/er/file.txt", "text")
        assert await run.read("deep/er/file.txt") == b"text"
        assert (workspace / "deep/er/file.txt").read_text() == "text"
        await run.upload(source, "/tmp/in")
        await run.download("/tmp/in/tree", tmp_path / "back")
        assert (tmp_path / "back/tree/sub/data.bin").read_bytes() == bytes(range(256)) * 1000
        assert (tmp_path / "back/tree/link").readlink().as_posix() == "sub/data.bin"
        with pytest.raises(FileNotFoundError):
            await run.read("/no/such/file")
        with pytest.raises(IsADirectoryError):
            await run.read("/etc")
        with pytest.raises(NotADirectoryError):
            await run.write("/etc/passwd/x", "y")


async def test_a_process_can_be_talked_to(world, home, workspace):
    """start() yields a live process: output as it comes, stdin, and it is gone when the block is left."""
    async with Moat(home=home) as moat, moat.run(workspace) as run:
        async with run.start(
            ["sh", "-c", "while read line; do echo got:$line; done; sleep 1000"], stdin=True
        ) as process:
            output = aiter(process)
            await process.write(b"one\n")
            assert (await anext(output)).data == b"got:one\n"
            await process.write(b"two\n")
            assert (await anext(output)).data == b"got:two\n"
        listed = await run.exec(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[g]ot:' || true"])
        assert int(listed.stdout) == 0


@SANDBOX
async def test_ports_are_published_on_loopback_only(world, home, workspace, sandbox):
    """address() answers from this machine, and the engine publishes on 127.0.0.1 alone."""
    script = (
        "use IO::Socket::INET; $s=IO::Socket::INET->new(Listen=>5,LocalPort=>8000,ReuseAddr=>1); $|=1; print qq(up\n);"
        "while($c=$s->accept){<$c>; print $c qq(HTTP/1.0 200 OK\r\n\r\nhello); close $c}"
    )
    async with Moat(home=home) as moat, moat.run(workspace, sandbox=sandbox, ports={"web": 8000}) as run:
        async with run.start(["perl", "-e", script]) as server:
            assert (await anext(aiter(server))).data == b"up\n"
            host, port = run.address("web")
            body = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{host}:{port}", timeout=10).read())
            assert body == b"hello"
            assert host == "127.0.0.1"
        for ask in (run.url, run.address):
            with pytest.raises(UsageError):
                ask("api")
        ports = subprocess.run(["docker", "port", f"moat-{run.id}"], capture_output=True, text=True, check=True).stdout
        assert ports.split("-> ")[1].startswith("127.0.0.1:")
        assert "0.0.0.0" not in ports


async def test_events_tell_the_story(world, home, workspace):
    """A listener sees the run start, its commands and its end."""
    seen = []
    async with Moat(home=home) as moat, moat.run(workspace, sandbox=False, on_event=seen.append) as run:
        await run.exec(["true"])
    kinds = [type(event) for event in seen]
    assert [kind for kind in kinds if kind in {RunStarted, ExecStarted, ExecEnded, RunEnded}] == [
        RunStarted, ExecStarted, ExecEnded, RunEnded,
    ]  # fmt: skip


async def test_a_container_that_goes_away_is_told_apart_from_a_failing_command(world, home, workspace):
    """Killed from outside: exec raises SandboxGone (or the run is over), and leaving raises it too; nothing leaks."""
    async with Moat(home=home) as moat:
        with pytest.raises(SandboxGone):
            async with moat.run(workspace, sandbox=False) as run:
                await asyncio.to_thread(
                    subprocess.run, ["docker", "kill", f"moat-{run.id}"], capture_output=True, check=True
                )
                async with asyncio.timeout(20):
                    while True:
                        await run.exec(["sleep", "0.1"])
    assert not world.wait_until_empty(5)


@pytest.mark.parametrize("when", ["opening", "exec", "leaving"])
async def test_cancelling_leaves_nothing(world, home, workspace, when):
    """A cancelled task ends its run in order, and within the grace."""
    inside = asyncio.Event()

    async def life(moat):
        async with moat.run(workspace, sandbox=False) as run:
            if when == "exec":
                inside.set()
                await run.exec(["sleep", "1000"])
            if when == "leaving":
                asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)

    async with Moat(home=home) as moat:
        task = asyncio.create_task(life(moat))
        if when == "opening":
            while not world.run_ids():
                await asyncio.sleep(0)
            task.cancel()
        elif when == "exec":
            await inside.wait()
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(30):
                await task
        assert moat.store.resources() == []
    assert not world.wait_until_empty(15)


async def test_keep_leaves_the_container_and_destroy_takes_it(world, home, workspace, moat):
    """keep=True leaves a stopped container that is listed as kept, until somebody destroys it."""
    import json

    async with Moat(home=home) as library:
        async with library.run(workspace, sandbox=False, keep=True, command=["sh", "-c", "echo hi >/made"]) as run:
            await run.wait()
            run_id = run.id
    assert [row[2] for row in world.rows()] == ["kept"]
    listed = json.loads((await asyncio.to_thread(moat, "list", "--json")).stdout)
    assert [(each["id"], each["state"]) for each in listed] == [(run_id, "kept")]
    done = await asyncio.to_thread(moat, "destroy", "-f", run_id)
    assert done.returncode == 0, done.stderr
    assert not world.wait_until_empty(15)


_LINES = "for i in 1 2 3 4 5 6 7 8; do echo line $i; until [ -e go ]; do sleep 0.1; done; done"


@pytest.mark.parametrize("command", [None, ["sh", "-c", _LINES]], ids=["held", "lines"])
async def test_a_detached_run_outlives_its_program(world, home, workspace, moat, command):
    """detach() hands the run to a supervisor: it is alive after our program's end, and whole is its log."""
    program = (
        "import asyncio, sys\nfrom moat_core import Moat\n"
        "async def main():\n"
        "    async with Moat() as moat:\n"
        f"        async with moat.run(sys.argv[1], sandbox=False, name='alone', command={command!r}) as run:\n"
        "            await run.detach()\n"
        "            print(run.id)\n"
        "asyncio.run(main())\n"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program, str(workspace)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    run_id = done.stdout.strip()
    assert world.containers(run_id)
    if command is None:
        assert (await asyncio.to_thread(moat, "exec", run_id, "--", "echo", "alive")).stdout == b"alive\n"
        assert (await asyncio.to_thread(moat, "stop", run_id)).returncode == 0
    (workspace / "go").touch()
    left = await asyncio.to_thread(world.wait_until_empty, 15)
    assert not left
    if command is not None:
        logged = (await asyncio.to_thread(moat, "logs", run_id)).stdout
        assert logged == b"".join(b"line %d\n" % n for n in range(1, 9))


async def test_a_supervisor_killed_after_adoption_leaves_nothing(world, home, workspace):
    """The new owner has a watchdog of its own."""
    import os
    import signal

    async with Moat(home=home) as library:
        async with library.run(workspace, sandbox=False) as run:
            run_id = run.id
            await run.detach()
        pid = library.store.run(run_id).owner_pid
        assert pid != os.getpid()
        os.kill(pid, signal.SIGKILL)
    assert not await asyncio.to_thread(world.wait_until_empty, 30)


async def test_after_the_end_everything_says_so(world, home, workspace):
    """A handle whose run is over raises RunOver, whatever is asked of it."""
    async with Moat(home=home) as moat:
        async with moat.run(workspace, sandbox=False) as run:
            pass
        with pytest.raises(RunOver):
            await run.exec(["true"])
        with pytest.raises(UsageError):
            await run.__aenter__()
