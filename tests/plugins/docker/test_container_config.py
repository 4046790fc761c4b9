"""From a plan to what the engine is asked for."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from moat_core.plan import ROOT_PATH, PlanBuilder
from moat_core.types import EnvValue, InitStep, Limits, Mount, Port, Tmpfs, User
from moat_plugins.docker.container import BASE_CAPABILITIES, make_config, make_name, make_start_env
from moat_plugins.docker.environment import make_exec_env


def plan(**fields):
    made = PlanBuilder(run_id="run-0123abcd", name="fox", runtime="docker", workspace=Path("/w")).freeze()
    return attrs.evolve(made, **fields)


def config(made, network="moat", hosts=None):
    return make_config(made, image="img", labels_={"moat.run-id": "run-0123abcd"}, hosts=hosts or {}, network=network)


def test_defaults_are_hardened():
    """A plan that asks for nothing gets nothing: the list of what is given is short and complete."""
    host = config(plan())["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert set(host["CapAdd"]) == set(BASE_CAPABILITIES)
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert (host["Privileged"], host["IpcMode"], host["Init"]) == (False, "private", True)
    assert host["PidsLimit"] == 4096
    assert not {"PidMode", "UTSMode", "UsernsMode", "Devices", "Binds", "VolumesFrom"} & host.keys()


def test_dangerous_capabilities_are_not_in_the_base():
    """What lets a run forge packets, make devices or load modules has to be asked for by name."""
    assert not {"NET_RAW", "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE", "MKNOD", "SYS_MODULE"} & set(BASE_CAPABILITIES)


def test_plan_is_carried_over():
    """Every field of the plan that the engine knows is there, in the engine's words."""
    made = plan(
        capabilities={"NET_RAW": "ping"},
        groups=(5, 6),
        limits=Limits(1024, 1.5, 77),
        mounts=(Mount("/a", "/b", read_only=True),),
        tmpfs=(Tmpfs("/t", 99, ("exec",)),),
        hosts={"db": "1.2.3.4"},
        dns=("9.9.9.9",),
        ports=(Port("web", 80),),
        oci_runtime="runsc",
        working_dir="/workspace",
        tty=True,
        stdin=True,
        size=(24, 80),
    )
    made_config = config(made, hosts={"sidecar": "5.6.7.8"})
    host = made_config["HostConfig"]
    assert "NET_RAW" in host["CapAdd"]
    assert host["GroupAdd"] == ["5", "6"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (1024, 1024, 1_500_000_000, 77)
    assert host["Mounts"] == [{"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True}]
    assert host["Tmpfs"] == {"/t": "rw,nosuid,nodev,size=99,exec"}
    assert host["ExtraHosts"] == ["db:1.2.3.4", "sidecar:5.6.7.8"]
    assert host["Dns"] == ["9.9.9.9"]
    assert host["PortBindings"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
    assert (host["Runtime"], host["ConsoleSize"], host["NetworkMode"]) == ("runsc", [24, 80], "moat")
    assert made_config["ExposedPorts"] == {"80/tcp": {}}
    assert (made_config["WorkingDir"], made_config["Hostname"], made_config["User"]) == ("/workspace", "fox", "0:0")
    assert all(made_config[key] is True for key in ("Tty", "OpenStdin", "StdinOnce", "AttachStdin"))


def test_no_network_publishes_nothing():
    """Without a network there are no ports, hosts or name servers to be refused by the engine."""
    made = config(plan(ports=(Port("web", 80),), hosts={"a": "b"}, dns=("1.1.1.1",)), network="none")
    assert made["HostConfig"]["NetworkMode"] == "none"
    assert not {"PortBindings", "ExtraHosts", "Dns"} & made["HostConfig"].keys()
    assert "ExposedPorts" not in made


def test_the_engine_is_told_of_variables_by_names_that_mean_nothing():
    """The image's own are taken away, and handed over like the plan's, who one is among them; the plan's win."""
    made = plan(
        user=User(7, 7, "agent", "/home/agent"),
        env={"HOME": EnvValue("/else", "flag"), "A": EnvValue("=\n", "x"), "LD_PRELOAD": EnvValue("/x.so", "x")},
    )
    env = make_start_env(made, {"PATH": "/image/bin", "A": "image", "LD_LIBRARY_PATH": "/x"})
    hidden = dict(line.split("=", 1) for line in env if line.startswith("MOAT_ENV_"))
    assert sorted(set(env) - {f"{key}={value}" for key, value in hidden.items()}) == [
        "A",
        "LD_LIBRARY_PATH",
        f"PATH={ROOT_PATH}",
    ]
    assert dict(value.split("=", 1) for value in hidden.values()) == {
        "PATH": "/image/bin",
        "LD_LIBRARY_PATH": "/x",
        "LD_PRELOAD": "/x.so",
        "A": "=\n",
        "HOME": "/else",
        "USER": "agent",
        "LOGNAME": "agent",
        "MOAT_NAME": "fox",
        "MOAT_RUN_ID": "run-0123abcd",
    }


def test_a_command_is_given_the_runs_variables_and_another_user_is_not():
    """What the container was started with is taken away in either case."""
    env = make_start_env(plan(env={"A": EnvValue("b=c", "x")}), {})
    names = [line.partition("=")[0] for line in env if line.startswith("MOAT_ENV_")]
    own = make_exec_env(env, is_own=True)
    assert own[: len(names)] == names
    assert {"A=b=c", "HOME=/root", "MOAT_NAME=fox"} < set(own[len(names) :])
    assert make_exec_env(env, is_own=False) == names


@pytest.mark.parametrize(
    ("sandboxed", "size", "step"), [(True, (24, 80), True), (False, (24, 80), False), (True, None, False)]
)
def test_terminal_size_is_set_inside_where_the_engine_cannot(sandboxed, size, step):
    """gVisor gets the size by an init step, before all others; runc from the engine."""
    steps = (InitStep("other", "echo other"),)
    text = config(plan(sandboxed=sandboxed, tty=True, size=size, init_steps=steps))["Entrypoint"][2]
    assert ("stty rows 24 cols 80" in text) is step
    assert not step or text.index("stty") < text.index("echo other")


def test_labels_tell_what_other_processes_need():
    """Run, role, name, user, isolation and whether it is to be kept: never a value of the environment."""
    made = plan(user=User(7, 8), oci_runtime="runsc", keep=True, env={"TOKEN": EnvValue("hunter2", "flag")})
    labels = config(made)["Labels"]
    assert labels == {
        "moat.run-id": "run-0123abcd",
        "moat.role": "main",
        "moat.name": "fox",
        "moat.user": "7:8",
        "moat.oci-runtime": "runsc",
        "moat.keep": "true",
    }


def test_names_are_known_beforehand():
    """A container's name is made of the run's id and its role."""
    assert make_name("run-1") == "moat-run-1"
    assert make_name("run-1", "buildkit") == "moat-run-1-buildkit"
