"""gVisor on a real engine: it is there, it is verified, names resolve, and its absence is explained."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from moat_core.api import Moat
from moat_core.errors import SandboxUnavailable
from moat_core.hooks import hookimpl
from moat_core.types import InitStep


@pytest.mark.parametrize(("sandbox", "runtime"), [(None, "runsc"), (True, "runsc"), (False, "runc")])
async def test_the_kernel_inside_is_gvisors(world, workspace, sandbox, runtime):
    """By default the run's kernel is gVisor's, without it the host's; the engine says the same."""
    async with Moat() as moat, moat.run(workspace, sandbox=sandbox) as run:
        inside = (await run.exec(["cat", "/proc/version"], check=True)).text
        host = Path("/proc/version").read_text()
        assert (inside == host) is (runtime == "runc")
        assert run.sandbox.info.oci_runtime == runtime


@pytest.mark.parametrize(("where", "value"), [("environment", "1"), ("file", "none"), ("flag", "--no-sandbox")])
def test_going_without_is_warned_about_once(moat, workspace, where, value):
    """Each way of going without gives one visible warning, and dmesg is not gVisor's."""
    if where == "file":
        (workspace / "agent.yaml").write_text("sandbox: none\n")
    argv = {"flag": ["--no-sandbox"], "file": ["--trust"]}.get(where, [])
    done = moat(
        "run", *argv, "--", "cat", "/proc/version", env={"MOAT_NO_SANDBOX": value} if where == "environment" else {}
    )
    assert done.returncode == 0
    assert done.stderr.count(b"without gVisor") == 1
    assert done.stdout.decode() == Path("/proc/version").read_text()


def test_not_installed_is_an_error_with_the_way_out(moat, world, workspace):
    """An engine without the registered name makes nothing, and says what to install and how to go without."""
    (workspace / "agent.yaml").write_text("gvisor: {runtime: runsc-nowhere}\n")
    done = moat("run", "--trust", "--", "true")
    assert done.returncode == 125
    for words in (b"not installed", b"runsc install", b"--no-sandbox", b"MOAT_NO_SANDBOX=1"):
        assert words in done.stderr
    assert b"Traceback" not in done.stderr
    assert world.containers() == []


def test_upkeep_needs_no_gvisor(moat, workspace):
    """Listing, status and cleaning work where no run could start."""
    (workspace / "agent.yaml").write_text("gvisor: {runtime: runsc-nowhere}\n")
    for argv in (["list"], ["status"], ["clean", "--dry-run"], ["deps", "list"]):
        assert moat(*argv).returncode == 0, argv


class Pretender:
    """A plugin that lets the engine start what is to be isolated with its default runtime."""

    @staticmethod
    @hookimpl(trylast=True)
    def moat_add_to_plan(plan):
        plan.oci_runtime = None


def test_a_container_that_is_not_isolated_ends_itself(moat, workspace):
    """The first init step, run in a container that the engine started without gVisor, fails closed."""
    from moat_plugins.gvisor.intent import _CHECK

    step = InitStep("check", _CHECK)
    done = moat("run", "--no-sandbox", "--", "sh", "-c", f"( set -eu\n{step.script}\n) && echo isolated")
    assert done.returncode == 125
    assert b"was to be isolated by gVisor and is not" in done.stderr
    assert done.stdout == b""


async def test_a_downgrade_is_refused(world, workspace):
    """A plan that promises isolation and loses its runtime on the way does not run anything."""
    async with Moat(plugins={"pretender": Pretender()}) as moat:
        with pytest.raises(SandboxUnavailable):
            async with moat.run(workspace):
                pytest.fail("it opened")


async def test_names_resolve_on_every_network(world, workspace):
    """Names of the outside resolve in gVisor, although the engine's own resolver does not exist in it."""
    async with Moat() as moat, moat.run(workspace) as run:
        find = "grep -rhoE 'https?://[^/ ]+' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | head -n 1"
        server = (await run.exec(["sh", "-c", find])).text.strip().rpartition("/")[2]
        assert server, "the base image names the server that its packages come from"
        result = await run.exec(["getent", "hosts", server])
        assert result.ok, (await run.exec(["cat", "/etc/resolv.conf"])).text
        assert "127.0.0.11" not in (await run.exec(["cat", "/etc/resolv.conf"])).text


async def test_detection_is_once_per_connection(world, workspace, monkeypatch):
    """Many runs of one program ask the engine once what it has."""
    from moat_plugins.docker.client import Engine

    asked = []
    call = Engine.call

    async def counted(self, doing, method, path, *rest, **arguments):
        asked.append(path)
        return await call(self, doing, method, path, *rest, **arguments)

    monkeypatch.setattr(Engine, "call", counted)
    async with Moat() as moat:
        for _ in range(3):
            async with moat.run(workspace, command=["true"]) as run:
                assert (await run.wait()).exit_code == 0
    assert asked.count("/info") == 1


def test_doctor_knows_it(moat):
    """Doctor says that it is registered, and how old it is."""
    done = moat("doctor", "--json")
    assert b"gVisor is registered as runsc" in done.stdout, done.stderr


def test_the_engine_under_test_has_it(engine):
    """What these tests stand on: without runsc they would prove nothing."""
    out = subprocess.run(
        ["docker", "info", "--format", "{{json .Runtimes}}"], capture_output=True, text=True, check=True
    )
    assert '"runsc"' in out.stdout
