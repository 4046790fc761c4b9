"""What `docker:dind` adds to a plan, and which OCI runtime it takes: every answer of an engine."""

from __future__ import annotations

import subprocess

import attrs
import pytest

from moat_core.errors import SandboxUnavailable
from moat_core.runtime.base import OciRuntimes
from moat_core.types import User
from moat_plugins import docker_dind, gvisor
from moat_plugins.docker_dind.config import DockerDindConfig
from moat_plugins.docker_dind.contribute import STEP, make_step
from moat_plugins.docker_dind.engine import CALM, KEEP, READY, RUNC, SERVE, START
from moat_plugins.docker_dind.gate import choose_runtime, pass_gate
from moat_plugins.docker_dind.install import DEPENDENCY

RUNSC = "/usr/bin/runsc"


class Wanted:
    """Stands for the plugin that installs dependencies."""

    def __init__(self, *names):
        self.names = list(names)
        self.__name__ = "x.dependencies"

    def moat_add_to_plan(self, plan):
        plan.details["dependencies"] = self.names


class FakeRun:
    """The part of a run that the gate uses."""

    def __init__(self, plan, known, locks=None):
        self.plan, self.known, self.warned = plan, known, []
        self.locks, self.name = locks, plan.name

    async def runtime(self):
        return self

    async def oci_runtimes(self):
        return self.known

    async def warn(self, problem):
        self.warned.append(problem)

    def replace_plan(self, plan):
        self.plan = plan


@pytest.fixture
def dind(planned):
    def make(text="", names=("docker-cli", "docker:dind"), **request):
        return planned(Wanted(*names), gvisor, docker_dind, text=text, **request)

    return make


def known(**commands):
    return OciRuntimes(("runc", *commands), "runc", commands={name: tuple(words) for name, words in commands.items()})


def test_who_does_not_ask_gets_nothing(dind):
    """Without the dependency, nothing at all is added."""
    plan = dind(names=("git",)).freeze()
    assert (plan.privileged, plan.capabilities, plan.volumes) == ("", {}, ())
    assert "docker_dind" not in plan.details
    assert docker_dind.moat_open_run(FakeRun(plan, None)) is None


def test_in_gvisor_nothing_is_privileged(dind):
    """All of gVisor's capabilities, scratch space where programs may be executed, no privilege, no volume."""
    plan = dind("docker_dind: {size: 1g}").freeze()
    assert plan.privileged == ""
    assert list(plan.capabilities) == ["ALL"]
    assert plan.volumes == ()
    (tmpfs,) = plan.tmpfs
    assert (tmpfs.target, tmpfs.size_bytes) == ("/var/lib/docker", 1024**3)
    assert "exec" in tmpfs.options
    assert plan.warnings == ()
    assert "moat_isolated=1" in step(plan)


@pytest.mark.parametrize(("cache", "kept"), [("false", ""), ("true", "fox")])
def test_without_gvisor_it_is_privileged_and_says_so(dind, cache, kept):
    """The container is privileged with a reason and a warning; its storage is a volume, kept if asked for."""
    plan = dind(f"docker_dind: {{cache: {cache}}}", sandbox=False).freeze()
    assert "docker:dind" in plan.privileged
    assert any("privileged" in warning.message for warning in plan.warnings)
    assert [(volume.target, volume.cache) for volume in plan.volumes] == [("/var/lib/docker", kept)]
    assert (plan.tmpfs, plan.capabilities) == ((), {})
    assert ("moat_cached=1" in step(plan)) is (kept != "")


def test_proxies_reach_the_engine(dind):
    """The host's proxy settings for builds are the engine's; what the run sets itself is left to it."""
    builder = dind()
    (made,) = [each for each in builder.freeze().init_steps if each.name == STEP]
    assert {"HTTPS_PROXY", "http_proxy", "NO_PROXY"} < set(made.env)
    made = make_step(DockerDindConfig(), User(), "fox", {"HTTPS_PROXY": "http://p q:1"}, isolated=True)
    exports = "\n".join(line for line in made.splitlines() if "export" in line)
    for env, expected in (({}, "http://p q:1"), ({"HTTPS_PROXY": "mine"}, "mine")):
        done = subprocess.run(
            ["/bin/sh", "-euc", f'{exports}\necho "$HTTPS_PROXY"'], env=env, capture_output=True, check=True
        )
        assert done.stdout.decode() == f"{expected}\n"


@pytest.mark.parametrize(
    ("commands", "wanted", "taken"),
    [
        ({"runsc": [RUNSC, "--net-raw"]}, "runsc", "runsc"),
        ({"runsc": [RUNSC, "-net-raw=true"]}, "runsc", "runsc"),
        ({"runsc": [RUNSC], "other": [RUNSC, "--net-raw"]}, "runsc", "other"),
        ({"runsc": [RUNSC], "b": [RUNSC, "--net-raw"], "a": [RUNSC, "--net-raw", "--net-raw=false"]}, "runsc", "b"),
    ],
)
def test_the_runtime_that_has_raw_sockets_is_taken(commands, wanted, taken):
    """By its options, not by its name; the one that is asked for first."""
    assert choose_runtime(known(**commands), wanted) == taken


@pytest.mark.parametrize(
    "commands",
    [
        {"runsc": [RUNSC, "--platform=systrap"]},
        {"runsc": [RUNSC], "dind": ["/elsewhere/not-gvisor", "--net-raw"]},
        {"runsc": [RUNSC, "net-raw"]},
        {"runsc": [], "dind": [RUNSC, "--net-raw"]},
    ],
)
def test_none_is_an_error_with_the_lines_to_add(commands):
    """What runs another program does not count. The hint is what to write, and how to reload."""
    with pytest.raises(SandboxUnavailable, match="--net-raw") as raised:
        choose_runtime(known(**commands), "runsc")
    hint = raised.value.hint
    assert '"runtimeArgs": [' in hint
    assert '"--net-raw"]' in hint
    assert f'"path": "{RUNSC}"' in hint
    assert "reload docker" in hint
    assert "--no-sandbox" in hint


async def test_the_gate_replaces_the_runtime(dind, tmp_path):
    """The run's container is started with what was found; everything else stays."""
    plan = dind().freeze()
    run = FakeRun(plan, known(runsc=[RUNSC], dind=[RUNSC, "--net-raw"]), tmp_path)
    async with pass_gate(run):
        assert run.plan == attrs.evolve(plan, oci_runtime="dind")


async def test_a_run_that_lost_gvisor_becomes_privileged(dind, tmp_path):
    """On a desktop's engine gVisor's gate takes it out of the plan; then this needs a privileged container."""
    plan = attrs.evolve(dind().freeze(), sandboxed=False, oci_runtime=None)
    run = FakeRun(plan, known(), tmp_path)
    async with pass_gate(run):
        assert run.plan.privileged
        assert (run.plan.tmpfs, run.plan.capabilities) == ((), {})
        assert [volume.target for volume in run.plan.volumes] == ["/var/lib/docker"]
        assert "moat_isolated=''" in step(run.plan)
    assert [problem.severity for problem in run.warned] == ["warning"]


async def test_a_runtime_that_cannot_is_told_from_one_that_can(dind):
    """What knows of no OCI runtimes cannot nest an engine; the hint says what can."""
    run = FakeRun(dind().freeze(), None)
    with pytest.raises(SandboxUnavailable, match="cannot run a Docker engine") as raised:
        async with pass_gate(run):
            pass
    assert "--runtime docker" in raised.value.hint


@pytest.mark.parametrize("sandbox", [True, False])
async def test_kept_images_are_one_runs_at_a_time(dind, tmp_path, sandbox):
    """A second run of the name at the same time gets storage of its own, and is told so."""
    plan = dind("docker_dind: {cache: true}", sandbox=sandbox).freeze()
    assert [volume.cache for volume in plan.volumes] == ["fox"]
    engine = known(runsc=[RUNSC, "--net-raw"])
    first, second = FakeRun(plan, engine, tmp_path), FakeRun(plan, engine, tmp_path)
    async with pass_gate(first), pass_gate(second):
        assert [volume.cache for volume in first.plan.volumes] == ["fox"]
        assert [volume.cache for volume in second.plan.volumes] == [""]
    assert (first.warned, len(second.warned)) == ([], 1)


def test_the_scripts_are_sh():
    """Every text that goes into the image is one that a POSIX shell can read."""
    for text in (DEPENDENCY.script, KEEP, RUNC, SERVE, START):
        subprocess.run(["dash", "-n"], input=text, text=True, check=True)
    for text in (CALM, READY):
        subprocess.run(["perl", "-c"], input=text, text=True, check=True)
    assert DEPENDENCY.implies == ("docker-cli",)


@pytest.mark.parametrize(
    ("config", "edited"),
    [
        ('{"namespaces":[{"type":"mount"},{"type":"pid"},{"type":"ipc"}]}', '{"namespaces":[{"type":"mount"},{"type":"ipc"}]}'),
        ('{"namespaces":[{"type":"mount"},{"type":"pid","path":"/proc/7/ns/pid"}]}', '{"namespaces":[{"type":"mount"}]}'),
        ('{"args":["/sbin/docker-init","--","sh"]}', '{"args":["/sbin/docker-init","-s","--","sh"]}'),
        (r'{"args":["{\"type\":\"pid\"},"]}', r'{"args":["{\"type\":\"pid\"},"]}'),
    ],
)  # fmt: skip
def test_inner_containers_share_the_runs_processes(tmp_path, config, edited):
    """The default runtime takes the PID namespace out of a real entry only, and only when a container is created."""
    (tmp_path / "runc-real").write_text('#!/bin/sh\necho "$@"\n')
    path = tmp_path / "config.json"
    for name in ("runc-shared", "runc", "runc-real"):
        if name != "runc-real":
            (tmp_path / name).write_text(RUNC)
        (tmp_path / name).chmod(0o755)
    for name, command, keyless, expected in (
        ("runc-shared", "start", "", config),
        ("runc-shared", "create", " --no-new-keyring", edited),
        ("runc", "create", " --no-new-keyring", config),
        ("runc", "run", " --no-new-keyring", config),
    ):
        path.write_text(config)
        argv = [tmp_path / name, "--root", "/r s", command, "--bundle", tmp_path, "abc"]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        assert done.stdout == f"--root /r s {command}{keyless} --bundle {tmp_path} abc\n"
        assert path.read_text() == expected


def step(plan):
    (script,) = (step.script for step in plan.init_steps if step.name == STEP)
    return script
