"""The bodies of POST /containers/{id}/exec and POST /exec/{id}/start (API v1.45)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moat_plugins.docker_host.policy.containers import SIZE, words
from moat_plugins.docker_host.policy.limits import free
from moat_plugins.docker_host.policy.shape import (
    boolean,
    deny,
    drop,
    optional,
    shape,
    table,
    text,
    texts,
)

if TYPE_CHECKING:
    from moat_plugins.docker_host.policy.shape import Rule
    from moat_plugins.docker_host.scope import Scope

__all__ = ["check_exec", "check_exec_start"]


def check_exec(body: Any, scope: Scope) -> dict[str, Any]:
    """Return what POST /containers/{id}/exec may be asked to do."""
    fields: dict[str, Rule] = {
        "User": text,
        "Privileged": deny(
            "a privileged command is root on the machine", "privileged", unless=free(scope, "privileged")
        ),
        "Tty": boolean,
        "ConsoleSize": SIZE,
        "AttachStdin": boolean,
        "AttachStdout": boolean,
        "AttachStderr": boolean,
        "Detach": boolean,
        "DetachKeys": text,
        "Env": texts,
        "WorkingDir": text,
        "Cmd": words,
        "Container": drop,  # docker-py says again what the path says
    }
    return shape(table(fields), body)


def check_exec_start(body: Any) -> dict[str, Any]:
    """Return what POST /exec/{id}/start takes."""
    return shape(table({"Detach": boolean, "Tty": boolean, "ConsoleSize": optional(SIZE)}), body)
