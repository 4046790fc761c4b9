"""From a plan to the body of POST /containers/create. Pure: no engine is asked.

What a security reviewer looks for is in `_make_host_config`: all capabilities dropped but a root's everyday ones, no
new privileges, no namespace of the host's, a limit for processes, ports on 127.0.0.1 only, a log of bounded size.
Source: Docker Engine API v1.45, ContainerCreate; an omitted field is the engine's default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from moat_core.plan import hold_init, make_init
from moat_core.types import InitStep
from moat_plugins.docker import labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moat_core.plan import Plan
    from moat_core.types import Limits, Tmpfs

__all__ = [
    "BASE_CAPABILITIES",
    "LOG",
    "make_config",
    "make_limits",
    "make_name",
    "make_privileges",
    "make_tmpfs",
]

BASE_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID")
"""What the init steps and a root that installs packages need. Not among them, though in Docker's default: NET_RAW
(forging packets), MKNOD, SYS_CHROOT, SETFCAP, SETPCAP, AUDIT_WRITE, NET_BIND_SERVICE (the engine opens low ports)."""

LOG = {"Type": "local", "Config": {"max-size": "10m", "max-file": "2"}}
"""A log of bounded size, whatever is printed."""


def make_name(run_id: str, role: str = "main") -> str:
    """Return the container's name, known before it is made: ``moat-run-1234abcd``, ``moat-run-1234abcd-buildkit``."""
    return f"moat-{run_id}" if role == "main" else f"moat-{run_id}-{role}"


def make_config(
    plan: Plan,
    *,
    image: str,
    labels_: Mapping[str, str],
    hosts: Mapping[str, str],
    network: str,
    volumes: Sequence[dict[str, Any]] = (),
    stop_s: int = 10,
) -> dict[str, Any]:
    """Return how to create the run's container.

    Args:
        image: Reference that the engine has.
        labels_: The run's own.
        hosts: Name -> address, beside the plan's.
        network: Name of the engine's network, or ``none``.
        volumes: Entries of ``HostConfig.Mounts`` beside the plan's mounts.
        stop_s: Seconds between SIGTERM and SIGKILL when somebody else stops it.
    """
    config: dict[str, Any] = {
        "Image": image,
        "Hostname": plan.name,
        "User": "0:0",  # the init steps are root's; the last of them drops to the plan's user
        "WorkingDir": plan.working_dir,
        "Entrypoint": list(hold_init(make_init(with_terminal_size(plan)), tty=plan.tty, stdin=plan.stdin)),
        "Cmd": [],
        "Env": make_env(plan),
        "Labels": _make_labels(plan, labels_),
        "Tty": plan.tty,
        "OpenStdin": True,  # `hold_init` waits for a word there, whether or not the command reads it
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "StopSignal": "SIGTERM",
        "StopTimeout": stop_s,
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": _make_host_config(plan, hosts, network, volumes),
    }
    if network != "none":
        config["ExposedPorts"] = {f"{port.number}/tcp": {} for port in plan.ports}
    return config


def make_env(plan: Plan) -> list[str]:
    """Return ``KEY=value`` lines: the plan's, and who one is where the plan does not say."""
    env = {
        "MOAT_RUN_ID": plan.run_id,
        "MOAT_NAME": plan.name,
        "HOME": plan.user.home,
        "USER": plan.user.name,
        "LOGNAME": plan.user.name,
    } | {key: item.value for key, item in plan.env.items()}
    return [f"{key}={value}" for key, value in env.items()]


def with_terminal_size(plan: Plan) -> Plan:
    """Return the plan with an init step that sets the terminal's size: gVisor does not take it from the engine."""
    if not plan.tty or plan.size is None or not plan.sandboxed:
        return plan
    rows, columns = plan.size
    step = InitStep("terminal size", f"stty rows {rows:d} cols {columns:d} <&1 2>/dev/null || :", -1)
    return attrs.evolve(plan, init_steps=(step, *plan.init_steps))


def _make_labels(plan: Plan, run_labels: Mapping[str, str]) -> dict[str, str]:
    made = dict(run_labels) | {
        labels.RUN_ID: plan.run_id,
        labels.ROLE: "main",
        labels.NAME: plan.name,
        labels.USER: f"{plan.user.uid}:{plan.user.gid}",
    }
    if plan.oci_runtime:
        made[labels.OCI_RUNTIME] = plan.oci_runtime
    if plan.keep:
        made[labels.KEEP] = "true"
    return made


def _make_host_config(
    plan: Plan, hosts: Mapping[str, str], network: str, volumes: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    limits = plan.limits
    config: dict[str, Any] = {
        "Init": True,
        "NetworkMode": network,
        **make_privileges(plan.capabilities, plan.privileged),
        "IpcMode": "private",
        "PidsLimit": limits.pids,
        "LogConfig": LOG,
        "RestartPolicy": {"Name": "no"},
        "GroupAdd": [str(gid) for gid in plan.groups],
        "Mounts": [
            {"Type": "bind", "Source": mount.source, "Target": mount.target, "ReadOnly": mount.read_only}
            for mount in plan.mounts
        ]
        + list(volumes),
        "Tmpfs": make_tmpfs(plan.tmpfs),
    }
    if plan.oci_runtime:
        config["Runtime"] = plan.oci_runtime
    config |= make_limits(limits)
    if plan.tty and plan.size:
        config["ConsoleSize"] = list(plan.size)  # API v1.42: rows, columns
    if network != "none":
        config |= _make_net(plan, hosts)
    return config


def make_privileges(capabilities: Mapping[str, str], privileged: str) -> dict[str, Any]:
    """Return what decides over privileges; what is kept beside the everyday ones has a reason each."""
    if privileged:
        return {"Privileged": True}
    if "ALL" in capabilities:
        return {"CapAdd": ["ALL"], "Privileged": False}
    return {
        "CapDrop": ["ALL"],
        "CapAdd": sorted({*BASE_CAPABILITIES, *capabilities}),
        "SecurityOpt": ["no-new-privileges"],
        "Privileged": False,
    }


def make_tmpfs(mounts: Sequence[Tmpfs]) -> dict[str, str]:
    """Return ``HostConfig.Tmpfs``."""
    return {
        tmpfs.target: ",".join(["rw", "nosuid", "nodev", f"size={tmpfs.size_bytes}", *tmpfs.options])
        for tmpfs in mounts
    }


def make_limits(limits: Limits) -> dict[str, Any]:
    """Return what LIMITS says of memory and processors."""
    config: dict[str, Any] = {}
    if limits.memory_bytes is not None:
        config |= {"Memory": limits.memory_bytes, "MemorySwap": limits.memory_bytes}  # equal: no swap beside it
    if limits.cpus is not None:
        config["NanoCpus"] = round(limits.cpus * 1_000_000_000)
    return config


def _make_net(plan: Plan, hosts: Mapping[str, str]) -> dict[str, Any]:
    loopback = [{"HostIp": "127.0.0.1", "HostPort": ""}]  # the engine chooses the port
    return {
        "ExtraHosts": [f"{name}:{address}" for name, address in {**plan.hosts, **hosts}.items()],
        "Dns": list(plan.dns),
        "PortBindings": {f"{port.number}/tcp": loopback for port in plan.ports},
    }
