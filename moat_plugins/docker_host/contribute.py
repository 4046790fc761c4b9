"""What a run with ``docker:host`` is given, decided before anything is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core.plan import TRUST_BUNDLE
from moat_plugins.docker_host.config import ALLOWANCES, DockerHostConfig

if TYPE_CHECKING:
    from moat_core.config import Config
    from moat_core.plan import PlanBuilder

__all__ = ["CERTIFICATES", "DETAIL", "HOST", "NAME", "PORT", "SOCKET_FOLDER", "add_to_plan"]

NAME = "docker:host"
DETAIL = "docker_host"
HOST = "docker.moat.internal"
PORT = 2376
"""Docker's own port for TLS; each run has an address of its own."""
SOCKET_FOLDER = "/run/moat/docker"
CERTIFICATES = "/run/moat/docker-certs"
RAW_SOCKET = "/var/run/docker.sock"

_LINK = """\
if [ ! -e /var/run/docker.sock ] && [ ! -L /var/run/docker.sock ]; then
  ln -s {folder}/docker.sock /var/run/docker.sock
fi
"""

# docker-py is made with requests, for which this variable goes before the CA that it is given.
_TRUST = f"cat {CERTIFICATES}/ca.pem >>{TRUST_BUNDLE}"

# Docker Desktop shows another owner inside than outside: the group is read where it is used.
_RAW_GROUP = """\
moat_gid=$(stat -c %g {socket})
moat_mode=$(stat -c %A {socket})
case $moat_mode in
  ????rw*) ;;
  *) echo "moat: the engine's socket has the unexpected permissions $moat_mode inside." >&2 ;;
esac
if ! grep -q "^[^:]*:[^:]*:$moat_gid:" /etc/group; then
  echo "moat-docker:x:$moat_gid:" >>/etc/group
fi
if [ {uid} != 0 ] && [ "$moat_gid" != {gid} ]; then
  if [ "$moat_gid" = 0 ]; then
    chgrp {gid} {socket} 2>/dev/null || echo "moat: the engine's socket belongs to root only, inside." >&2
  fi
fi
"""


def add_to_plan(config: Config, plan: PlanBuilder) -> None:
    """Add what does not depend on the engine; the mount is added when the run opens, and the paths are known."""
    if NAME not in plan.details.get("dependencies", ()):
        return
    section = config.section(DockerHostConfig)
    plan.details[DETAIL] = {"access": section.access, "allow": list(section.allow), "build": section.build}
    if plan.network == "none":
        plan.problem(
            "docker:host needs the network, which this run goes without.",
            "Leave out 'network: none', or docker:host.",
            where="dependencies",
        )
        return
    if section.access == "raw":
        _add_raw(plan, section)
    else:
        _add_guarded(plan, section)


def _add_raw(plan: PlanBuilder, section: DockerHostConfig) -> None:
    if plan.sandboxed:
        plan.problem(
            "The engine's own socket cannot be used in gVisor, which lets no run connect to a socket of the host.",
            "Use 'docker_host: {access: guarded}', which works in gVisor, or go without it: --no-sandbox.",
            where="docker_host.access",
        )
        return
    if section.allow:
        plan.problem(
            "There is nothing to allow beyond the engine's own socket.",
            "Leave out docker_host.allow, or use 'access: guarded'.",
            where="docker_host.allow",
        )
    plan.warn(
        "The run is given the engine's own socket, which is as good as root on its machine.",
        "Use 'docker_host: {access: guarded}'.",
    )
    plan.set_env("DOCKER_HOST", f"unix://{RAW_SOCKET}")
    script = _RAW_GROUP.format(socket=RAW_SOCKET, uid=plan.user.uid, gid=plan.user.gid)
    plan.add_init_step("docker:host group", script, order=40)
    plan.note("the engine's own socket, unguarded")


def _add_guarded(plan: PlanBuilder, section: DockerHostConfig) -> None:
    plan.own_network = True
    for word in section.allow:
        plan.warn(
            f"docker_host.allow: {word}: {ALLOWANCES[word]}.",
            f"Take {word} out of docker_host.allow to have it refused.",
        )
    if plan.sandboxed:
        plan.set_env("DOCKER_HOST", f"tcp://{HOST}:{PORT}")
        plan.set_env("DOCKER_TLS_VERIFY", "1")
        plan.set_env("DOCKER_CERT_PATH", CERTIFICATES)
        if plan.get_env("REQUESTS_CA_BUNDLE") == TRUST_BUNDLE:
            plan.add_init_step("docker:host CA", _TRUST, order=60)
        if section.build:
            plan.warn(
                "Steps of `docker build` do not run in gVisor: the engine's builder has its own OCI runtime.",
                "Set 'docker_host: {build: false}' to have builds refused; containers are in gVisor anyway.",
            )
    else:
        plan.set_env("DOCKER_HOST", f"unix://{SOCKET_FOLDER}/docker.sock")
        plan.add_init_step("docker:host socket", _LINK.format(folder=SOCKET_FOLDER), order=40)
    # Ports that the run's containers publish are on the gateway; and nothing has to be cleaned up by Ryuk.
    plan.set_env("TESTCONTAINERS_HOST_OVERRIDE", HOST)
    plan.set_env("TESTCONTAINERS_RYUK_DISABLED", "true")
    plan.note(f"the engine's API, guarded{': ' + ', '.join(section.allow) if section.allow else ''}")
