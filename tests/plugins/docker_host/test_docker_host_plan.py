"""What a run with docker:host is given: plan, folder, certificates, the raw socket."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from moat_core.errors import HostError
from moat_core.plan import TRUST_BUNDLE, PlanBuilder
from moat_plugins import docker_host
from moat_plugins.docker_host.config import ALLOWANCES
from moat_plugins.docker_host.folder import GuardFolder, listen_in, write_private
from moat_plugins.docker_host.raw import judge


class Asked:
    """Stands for the plugin of dependencies: somebody asked for docker:host."""

    __name__ = "asked"

    def __init__(self, *names, sandboxed=False):
        self._names, self._sandboxed = names, sandboxed

    def moat_add_to_plan(self, plan: PlanBuilder):
        plan.details["dependencies"] = list(self._names)
        plan.sandboxed = self._sandboxed


def env(plan):
    return {key: plan.get_env(key) for key in ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")}


def test_nothing_unless_asked_for(planned):
    """Without the dependency the plan is as it was."""
    plan = planned(Asked("docker:dind"), docker_host)
    assert not plan.own_network
    assert plan.get_env("DOCKER_HOST") is None
    assert "docker_host" not in plan.details


def test_a_socket_without_gvisor(planned):
    """A network of its own, the socket's address, and where testcontainers find ports."""
    plan = planned(Asked("docker:host"), docker_host)
    assert plan.own_network
    assert env(plan)["DOCKER_HOST"] == "unix:///run/moat/docker/docker.sock"
    assert plan.get_env("TESTCONTAINERS_HOST_OVERRIDE") == "docker.moat.internal"
    assert plan.problems == []


def test_tls_in_gvisor(planned):
    """Which lets no run connect to a socket; and builds are warned of."""
    plan = planned(Asked("docker:host", sandboxed=True), docker_host)
    assert env(plan) == {
        "DOCKER_HOST": "tcp://docker.moat.internal:2376",
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": "/run/moat/docker-certs",
    }
    assert [problem.severity for problem in plan.problems] == ["warning"]
    quiet = planned(Asked("docker:host", sandboxed=True), docker_host, text="docker_host: {build: false}")
    assert quiet.problems == []


def test_the_guards_ca_is_trusted_by_requests_too(planned):
    """Its variable for the host's CAs goes before the CA that docker-py gives it."""

    class HostCa:
        __name__ = "host_ca"

        def moat_add_to_plan(self, plan: PlanBuilder):
            plan.set_env("REQUESTS_CA_BUNDLE", TRUST_BUNDLE)

    steps = {}
    for name, plugins in {"with": [HostCa()], "without": []}.items():
        plan = planned(Asked("docker:host", sandboxed=True), *plugins, docker_host)
        steps[name] = [step.script for step in plan.freeze().init_steps]
    assert steps == {"with": [f"cat /run/moat/docker-certs/ca.pem >>{TRUST_BUNDLE}"], "without": []}


def test_every_allowance_is_warned_of(planned):
    """One warning a word, which says what is given away."""
    words = ", ".join(ALLOWANCES)
    plan = planned(Asked("docker:host"), docker_host, text=f"docker_host: {{allow: [{words}]}}")
    assert [problem.severity for problem in plan.problems] == ["warning"] * len(ALLOWANCES)
    assert all(said in problem.message for said, problem in zip(ALLOWANCES.values(), plan.problems, strict=True))


def test_raw_is_refused_in_gvisor_with_the_reason(planned):
    """The plan says what can be done instead."""
    text = "docker_host: {access: raw}"
    plan = planned(Asked("docker:host", sandboxed=True), docker_host, text=text)
    [problem] = plan.problems
    assert problem.severity == "error"
    assert "gVisor" in problem.message
    assert "guarded" in problem.hint
    plan = planned(Asked("docker:host"), docker_host, text=text)
    assert [problem.severity for problem in plan.problems] == ["warning"]
    assert env(plan)["DOCKER_HOST"] == "unix:///var/run/docker.sock"


def test_without_a_network_it_is_an_error(planned):
    """The guard's containers could reach the world for it."""
    plan = planned(Asked("docker:host"), docker_host, network="none")
    assert [problem.severity for problem in plan.problems] == ["error"]


class Context:
    run_id = "run-0000abcd"


async def test_the_folder_is_private_and_gone(tmp_path):
    """Mode 0700, whatever the umask; removed with what is in it; nothing else is ever removed."""
    path = tmp_path / "run-0000abcd" / "docker-host"
    path.parent.mkdir()
    folder = GuardFolder(str(path), os.geteuid(), os.getegid())
    await folder.create(Context)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    write_private(str(path), "key.pem", b"secret", os.geteuid(), os.getegid())
    assert stat.S_IMODE((path / "key.pem").stat().st_mode) == 0o400
    assert await folder.release(Context)
    assert not path.exists()
    assert not await folder.release(Context)
    for other in (tmp_path / "run-0000abcd", tmp_path / "run-ffffffff/docker-host", tmp_path / "run-0000abcd/x"):
        with pytest.raises(HostError):
            await GuardFolder(str(other), 0, 0).release(Context)


def test_a_socket_in_a_folder_with_a_long_name(tmp_path):
    """An address has room for 108 bytes, a path for many more."""
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with listen_in(str(folder), "docker.sock", os.geteuid(), os.getegid()) as listener:
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert stat.S_IMODE((folder / "docker.sock").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("mode", "said"), [(0o660, ""), (0o666, "Everybody"), (0o777, "Everybody"), (0o600, "Only its owner"), (0o640, "")]
)
def test_odd_permissions_of_the_raw_socket(tmp_path, mode, said):
    """What everybody or nobody may use is told of."""
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(mode)
        problems = judge(str(path), path.stat())
    assert [said in problem for problem in problems] == ([True] if said or mode == 0o640 else [])
