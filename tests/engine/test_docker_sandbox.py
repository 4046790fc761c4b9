"""The run's container on the real engine: made, watched, hardened, undone in every state."""

from __future__ import annotations

import anyio
import attrs
import pytest
from docker_support import get_engine, make_plan, open_live, open_run, run_command

from moat_core.errors import EngineError, SandboxGone, SandboxNotReady, SandboxUnavailable
from moat_core.ledger import Connections
from moat_core.types import Command, InitStep, Limits, Mount, Port, RunState, Tmpfs, User
from moat_plugins.docker.network import open_network
from moat_plugins.docker.open_sandbox import open_sandbox
from moat_plugins.docker.resources import DockerContainer, DockerNetwork, DockerVolume
from moat_plugins.docker.runtime import DockerRuntime

OCI = pytest.mark.parametrize("oci", ["runc", "runsc"])


@OCI
async def test_main_process_loses_no_byte(engine, tmp_path, oci):
    """What the command prints first and last arrives, apart, with its exit code and how it ended."""
    script = r"printf 'first\000'; printf err >&2; head -c 300000 /dev/zero; printf last; exit 41"
    async with open_live(engine, tmp_path, oci_runtime=oci, command=("sh", "-c", script)) as (_, sandbox):
        out = {"stdout": b"", "stderr": b""}
        async with sandbox.open_main() as main:
            async for piece in main:
                out[piece.stream] += piece.data
            assert await main.wait() == 41
        ended = await sandbox.wait()
    assert out == {"stdout": b"first\0" + bytes(300_000) + b"last", "stderr": b"err"}
    assert (ended.state, ended.exit_code, ended.oom_killed, ended.oci_runtime) == (RunState.EXITED, 41, False, oci)


@OCI
async def test_main_process_has_an_input_and_a_half_close(engine, tmp_path, oci):
    """Input reaches the command, and its end does, too."""
    async with (
        open_live(engine, tmp_path, oci_runtime=oci, command=("sh", "-c", "cat; echo end"), stdin=True) as (_, sandbox),
        sandbox.open_main() as main,
    ):
        await main.write(b"one\0two")
        await main.close_stdin()
        assert b"".join([piece.data async for piece in main]) == b"one\0twoend\n"
        assert await main.wait() == 0


@OCI
async def test_main_process_terminal_has_its_size(engine, tmp_path, oci):
    """A run with a terminal has its size from the first byte on, and a new one is seen."""
    fields = {"tty": True, "stdin": True, "size": (31, 97), "oci_runtime": oci, "sandboxed": oci == "runsc"}
    command = ("sh", "-c", "stty size; read -r _; stty size")
    async with open_live(engine, tmp_path, command=command, **fields) as (_, sandbox), sandbox.open_main() as main:
        text = ""
        async for piece in main:
            text += piece.data.decode()
            if text == "31 97\r\n":
                await main.resize(40, 80)
                await main.write(b"\n")
        assert text.split() == ["31", "97", "40", "80"]


async def test_main_process_is_signalled_and_stopped(engine, tmp_path):
    """A signal passes the init and reaches the command; stopping is SIGTERM, then SIGKILL; twice is fine."""
    script = "trap 'echo caught' USR1; trap '' TERM; echo up; while :; do sleep 0.05; done"
    async with open_live(engine, tmp_path, command=("sh", "-c", script)) as (_, sandbox):
        async with sandbox.open_main() as main:
            pieces = aiter(main)
            assert (await anext(pieces)).data == b"up\n"
            await main.signal(10)
            assert (await anext(pieces)).data == b"caught\n"
            await sandbox.stop(0.2)
            assert await main.wait() == 137
        await sandbox.stop(1)


async def test_many_waiters_ask_the_engine_once(engine, tmp_path):
    """Everybody who waits hears the same; one who gives up takes nothing from the others."""
    async with open_live(engine, tmp_path, command=("sh", "-c", "read -r _; exit 5"), stdin=True) as (_, sandbox):
        codes = []

        async def wait():
            codes.append((await sandbox.wait()).exit_code)

        async with anyio.create_task_group() as group:
            with anyio.move_on_after(0.01):
                await sandbox.wait()
            for _ in range(3):
                group.start_soon(wait)
            async with sandbox.open_main() as main:
                await main.close_stdin()
                assert await main.wait() == 5
        assert codes == [5, 5, 5]


@OCI
async def test_failing_init_step_is_told(engine, tmp_path, oci):
    """A run without a command whose init fails is not ready, and says what was printed last."""
    steps = (InitStep("good", "echo fine"), InitStep("bad", "echo the reason >&2; exit 3"))
    async with open_run(engine, tmp_path, oci_runtime=oci, init_steps=steps) as run, open_network(run):
        with pytest.raises(SandboxNotReady, match="exit code 125") as caught:
            async with open_sandbox(run) as sandbox:
                await sandbox.admit()
        assert "the reason" in caught.value.hint
        assert "'bad' failed" in caught.value.hint


async def test_hanging_init_is_given_up(engine, tmp_path, monkeypatch):
    """An init step that does not end is not waited for longer than the deadline."""
    monkeypatch.setattr("moat_plugins.docker.ready.READY_S", 0.5)
    steps = (InitStep("slow", "echo working; sleep 1000"),)
    async with open_run(engine, tmp_path, init_steps=steps) as run, open_network(run):
        with pytest.raises(SandboxNotReady, match="did not finish") as caught:
            async with open_sandbox(run) as sandbox:
                await sandbox.admit()
        assert caught.value.hint == "working"


async def test_unknown_oci_runtime_says_that_it_has_gone(engine, tmp_path):
    """An OCI runtime that the engine does not know is unavailable isolation, in either place where it tells."""
    async with open_run(engine, tmp_path, oci_runtime="gone-runtime") as run, open_network(run):
        with pytest.raises(SandboxUnavailable, match="gone-runtime"):
            async with open_sandbox(run):
                pytest.fail("it cannot start")


async def test_container_is_hardened(engine, tmp_path):
    """What a security reviewer looks for, as the engine and the kernel see it."""
    async with open_live(engine, tmp_path, capabilities={"SYS_NICE": "test"}, limits=Limits(64 * 2**20, 0.5, 99)) as (
        run,
        sandbox,
    ):
        found = await (await get_engine(run)).containers.inspect(sandbox.info.id)
        host = found["HostConfig"]
        assert host["CapDrop"] == ["ALL"]
        assert "NET_RAW" not in host["CapAdd"]
        assert host["Privileged"] is False
        assert host["SecurityOpt"] == ["no-new-privileges"]
        assert (host["PidsLimit"], host["Memory"], host["MemorySwap"]) == (99, 64 * 2**20, 64 * 2**20)
        assert host["NanoCpus"] == 500_000_000
        assert host["LogConfig"] == {"Type": "local", "Config": {"max-size": "10m", "max-file": "2"}}
        assert (host["PidMode"], host["UTSMode"], host["UsernsMode"], host["IpcMode"]) == ("", "", "", "private")
        assert found["Config"]["Healthcheck"] == {"Test": ["NONE"]}
        _, out, _ = await run_command(sandbox, "grep", "-E", "^(CapBnd|NoNewPrivs)", "/proc/self/status", user="root")
        # CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, FSETID 4, KILL 5, SETGID 6, SETUID 7, SYS_NICE 23
        assert out.split() == [b"CapBnd:", b"00000000008000fb", b"NoNewPrivs:", b"1"]
        assert (await run_command(sandbox, "test", "-e", "/var/run/docker.sock"))[0] == 1


async def test_out_of_memory_is_told(engine, tmp_path):
    """A command that the kernel kills for want of memory ends with 137 and says why."""
    fields = {"command": ("sh", "-c", "exec tail /dev/zero"), "limits": Limits(memory_bytes=32 * 2**20)}
    async with open_live(engine, tmp_path, **fields) as (_, sandbox):
        ended = await sandbox.wait()
    assert (ended.exit_code, ended.oom_killed) == (137, True)


@OCI
async def test_plan_arrives_inside(engine, tmp_path, oci):
    """Environment, mounts, scratch space, hosts, name, user and folder are what the plan says."""
    source = tmp_path / "data"
    source.mkdir()
    (source / "file").write_text("content")
    source.chmod(0o777)
    fields = {
        "oci_runtime": oci,
        "user": User(1234, 1235, "agent", "/home/agent"),
        "env": {"A": "b c=d", "EMPTY": ""},
        "mounts": (Mount(str(source), "/rw"), Mount(str(source), "/ro", read_only=True)),
        "tmpfs": (Tmpfs("/scratch", 1024 * 1024, ("mode=1777",)),),
        "hosts": {"db.internal": "10.9.8.7"},
        "working_dir": "/tmp",
    }
    async with open_live(engine, tmp_path, **fields) as (run, sandbox):
        for script, expected in {
            'printf "%s|%s|%s" "$A" "${EMPTY-unset}" "$MOAT_RUN_ID"': f"b c=d||{run.id}",
            'echo "$HOME $USER $MOAT_NAME $(hostname) $(pwd)"': "/home/agent agent testling testling /tmp\n",
            "cat /ro/file; touch /ro/new 2>/dev/null || echo refused": "contentrefused\n",
            "touch /rw/new && stat -c %u:%g /rw/new": "1234:1235\n",
            "head -c 2000000 /dev/zero 2>/dev/null >/scratch/big || echo full": "full\n",
            "getent hosts db.internal | tr -s ' '": "10.9.8.7 db.internal\n",
        }.items():
            assert (await run_command(sandbox, "sh", "-c", script))[1] == expected.encode(), script
    assert (source / "new").stat().st_uid == 1234


@OCI
async def test_ports_are_on_this_machine_only(engine, tmp_path, oci):
    """A published port answers on 127.0.0.1 at a number that the engine chose, and nowhere else."""
    server = "use IO::Socket::INET; $s=IO::Socket::INET->new(LocalPort=>8000,Listen=>5); print qq(up\\n); $|=1; while($c=$s->accept){print $c q(hello); close $c}"
    async with open_live(engine, tmp_path, oci_runtime=oci, ports=(Port("web", 8000),)) as (run, sandbox):
        number = sandbox.info.ports[8000]
        found = await (await get_engine(run)).containers.inspect(sandbox.info.id)
        assert [binding["HostIp"] for binding in found["NetworkSettings"]["Ports"]["8000/tcp"]] == ["127.0.0.1"]
        async with sandbox.open_process(Command(("perl", "-e", "$|=1;" + server))) as process:
            assert (await anext(aiter(process))).data == b"up\n"
            async with await anyio.connect_tcp("127.0.0.1", number) as stream:
                assert await stream.receive() == b"hello"


async def test_logs_keep_the_streams_apart(engine, tmp_path):
    """The engine's log gives the last lines, and on while the command lives."""
    script = "echo one; echo two >&2; echo three; read -r _; echo four"
    async with open_live(engine, tmp_path, command=("sh", "-c", script), stdin=True) as (_, sandbox):
        async with sandbox.open_main() as main:
            text = b""
            async for piece in main:
                text += piece.data
                if text.count(b"\n") == 3:
                    break
            last = [piece async for piece in sandbox.logs(tail=1, follow=False)]
            assert [piece.data for piece in last] in ([b"three\n"], [b"two\n"])
            seen = []
            async for piece in sandbox.logs(tail=None, follow=True):
                seen.append((piece.stream, piece.data))
                if len(seen) == 3:
                    await main.close_stdin()
        assert sorted(seen) == [
            ("stderr", b"two\n"),
            ("stdout", b"four\n"),
            ("stdout", b"one\n"),
            ("stdout", b"three\n"),
        ]


async def test_other_process_finds_the_container_and_works_in_it(engine, tmp_path):
    """By its label, over a connection of its own, with the run's user; the probe says the same."""
    from moat_plugins.docker.probe import states

    user = User(1234, 1235, "agent", "/home/agent")
    async with open_live(engine, tmp_path, user=user, oci_runtime="runsc") as (run, sandbox):
        async with Connections(tmp_path) as others:
            other = await others.get(DockerRuntime, engine)
            (info,) = await other.find_sandboxes(run.id)
            assert info == sandbox.info
            assert info in await other.find_sandboxes()
            found = await other.get_sandbox(info)
            assert (await run_command(found, "id", "-u"))[1] == b"1234\n"
        (state,) = [state for state in states(engine, 5, str(tmp_path)) if state["run_id"] == run.id]
        assert state == {
            "run_id": run.id,
            "role": "main",
            "state": "running",
            "exit_code": None,
            "oci_runtime": "runsc",
            "name": "testling",
            "id": sandbox.info.id,
        }
        await sandbox.stop(0)
        while state["state"] == "running":  # the engine's listing lags a moment behind what it answers to a stop
            (state,) = [state for state in states(engine, 5, str(tmp_path)) if state["run_id"] == run.id]
        assert (state["state"], state["exit_code"]) == ("exited", (await sandbox.refresh()).exit_code)


@pytest.mark.parametrize("state", ["absent", "created", "running", "paused", "exited"])
async def test_release_is_idempotent_in_every_state(engine, tmp_path, state):
    """A container goes whatever it is doing; that there is none is success, and is told."""
    async with open_run(engine, tmp_path) as run:
        containers = (await get_engine(run)).containers
        config = {"Image": "debian:bookworm-slim", "Cmd": ["sleep", "1000"], "Labels": run.labels}
        resource = DockerContainer(engine, f"moat-{run.id}", config)
        if state != "absent":
            name = await resource.create(run)
            if state != "created":
                await containers.start(name)
            if state == "paused":
                await containers._engine.call("pause", "POST", f"/containers/{name}/pause")
            if state == "exited":
                await containers.kill(name, 9)
                await containers.wait(name)
        assert await resource.release(run) is (state != "absent")
        assert await resource.release(run) is False


async def test_release_by_several_at_once(engine, tmp_path):
    """Two who remove the same container both succeed: "already in progress" is waited for."""
    async with open_run(engine, tmp_path) as run:
        config = {"Image": "debian:bookworm-slim", "Cmd": ["sleep", "1000"], "Labels": run.labels}
        resource = DockerContainer(engine, f"moat-{run.id}", config)
        await (await get_engine(run)).containers.start(await resource.create(run))
        found = []

        async def release():
            found.append(await resource.release(run))

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(release)
        assert any(found)
        assert await resource.release(run) is False


async def test_network_is_released_with_what_is_on_it(engine, tmp_path):
    """A network goes although a container is still connected to it."""
    async with open_run(engine, tmp_path) as run:
        network = DockerNetwork(engine, f"moat-{run.id}", {"Driver": "bridge", "Labels": run.labels})
        await network.create(run)
        config = {
            "Image": "debian:bookworm-slim",
            "Cmd": ["sleep", "1000"],
            "Labels": run.labels,
            "HostConfig": {"NetworkMode": network.name},
        }
        container = DockerContainer(engine, f"moat-{run.id}", config)
        try:
            await (await get_engine(run)).containers.start(await container.create(run))
            assert await network.release(run) is True
            assert await network.release(run) is False
        finally:
            assert await container.release(run) is True


async def test_volume_is_made_and_released(engine, tmp_path):
    """A volume is labelled, and goes; a missing one is success."""
    async with open_run(engine, tmp_path) as run:
        volume = DockerVolume(engine, f"moat-{run.id}-data", run.labels)
        assert await volume.create(run) == volume.name
        labelled = await (await get_engine(run)).volumes.list_labelled(f"moat.run-id={run.id}")
        assert [item["Name"] for item in labelled] == [volume.name]
        assert await volume.release(run) is True
        assert await volume.release(run) is False


async def test_cancelled_creation_leaves_nothing(engine, tmp_path):
    """A container whose creation is given up is not left to the engine: releasing it right away removes it."""
    async with open_run(engine, tmp_path) as run:
        containers = (await get_engine(run)).containers
        for delay in (0, 0.0005, 0.001, 0.002, 0.004):
            config = {"Image": "debian:bookworm-slim", "Cmd": ["true"], "Labels": run.labels}
            resource = DockerContainer(engine, f"moat-{run.id}", config)
            with anyio.move_on_after(delay):
                await resource.create(run)
            await resource.release(run)
            assert await containers.list_labelled(f"moat.run-id={run.id}") == []


async def test_removed_from_outside_is_gone(engine, tmp_path):
    """Whoever still holds a sandbox whose container was removed hears `SandboxGone`."""
    async with open_live(engine, tmp_path) as (run, sandbox):
        await (await get_engine(run)).containers.remove(sandbox.info.id)
        with pytest.raises(SandboxGone):
            await sandbox.refresh()
        with pytest.raises(SandboxGone):
            await sandbox.wait()
        with pytest.raises(SandboxGone):
            async with sandbox.open_main():
                pytest.fail("there is nothing to attach to")
        await sandbox.stop(1)


async def test_kept_container_is_stopped_and_marked(engine, tmp_path):
    """A run that is to be kept leaves a stopped container that says so."""
    async with open_run(engine, tmp_path, keep=True) as run, open_network(run):
        async with open_sandbox(run) as sandbox:
            assert sandbox.info.state is RunState.RUNNING
        assert (await sandbox.refresh()).state is RunState.KEPT


async def test_missing_mount_source_is_explained(engine, tmp_path):
    """The engine's refusal becomes one sentence and a hint; its own words are kept."""
    plan = {"mounts": (Mount(str(tmp_path / "missing"), "/x"),)}
    async with open_run(engine, tmp_path, **plan) as run, open_network(run):
        with pytest.raises(EngineError, match="bind source path does not exist") as caught:
            async with open_sandbox(run):
                pytest.fail("it cannot be created")
        assert "engine's own machine" in caught.value.hint
        assert "bind source path" in caught.value.details["engine_message"]


def test_stored_row_holds_no_secret():
    """What the ledger stores of a container names it, and nothing of its environment."""
    from moat_core.ledger.resource import from_row, to_row
    from moat_plugins.docker.container import make_config

    config = make_config(make_plan(env={"TOKEN": "hunter2"}), image="x", labels_={}, hosts={}, network="none")
    resource = DockerContainer("unix:///x", "moat-run-1", config)
    assert "hunter2" in str(attrs.asdict(resource))
    assert "hunter2" not in repr(resource)
    row = to_row(resource)
    assert row == {"address": "unix:///x", "name": "moat-run-1", "owner": ""}
    assert from_row(DockerContainer, row) == DockerContainer("unix:///x", "moat-run-1")
