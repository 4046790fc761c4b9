"""The quick look behind `moat list`: one GET /containers/json over a plain socket.

Stdlib only, and little of it: no asyncio, no http.client, no ssl on a Unix socket. HTTP/1.0 is asked for, so that the
answer is neither chunked nor kept open. Source: Docker Engine API v1.45, ContainerList.
"""

from __future__ import annotations

import json
import re

from moat_core.runtime.proof import Proof
from moat_plugins.docker import labels
from moat_plugins.docker.endpoint import connect_socket, find_endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

__all__ = ["states"]

_LIMIT_BYTES = 64 * 1024 * 1024
_FILTER = "%7B%22label%22%3A%5B%22moat.run-id%22%5D%7D"  # {"label":["moat.run-id"]}
_EXITED = re.compile(r"Exited \((\d+)\)")
_STATES = {
    "created": "starting",
    "running": "running",
    "restarting": "running",
    "paused": "paused",
    "removing": "stopping",
    "exited": "exited",
}


def states(address: str, timeout_s: float, home: str) -> list[dict[str, Any]]:
    """Return what the engine says of all containers of ours; see `moat_core.runtime.base.RuntimeInfo.probe`.

    Args:
        address: The engine's; ``""`` looks for it as the docker command does.
        timeout_s: For each step on the socket.
        home: Whose containers are wanted.

    Raises:
        OSError: It does not answer, or not as an engine does.
    """
    with connect_socket(find_endpoint(address), timeout_s) as connection:
        connection.sendall(f"GET /containers/json?all=1&filters={_FILTER} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
        answer = _read_all(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"]:
        raise OSError(f"the engine answered {b''.join(status).decode('latin-1') or 'nothing'}")
    try:
        proof = Proof(home)
        return [_state_of(item) for item in json.loads(body) if _is_ours(proof, item)]
    except (ValueError, KeyError, TypeError) as error:
        raise OSError(f"the engine's answer cannot be read: {error}") from error


def _read_all(connection: socket.socket) -> bytes:
    answer = bytearray()
    while data := connection.recv(65536):
        answer += data
        if len(answer) > _LIMIT_BYTES:
            raise OSError("the engine's answer does not end")
    return bytes(answer)


def _is_ours(proof: Proof, item: dict[str, Any]) -> bool:
    """An entry is one container under all its names: those that links gave it have a second slash."""
    return any(labels.is_ours(proof, "container", name, item["Labels"]) for name in item["Names"])


def _state_of(item: dict[str, Any]) -> dict[str, Any]:
    marks = item["Labels"]
    state = _STATES.get(item["State"], "failed")
    if state == "exited" and marks.get(labels.KEEP) == "true":
        state = "kept"
    exited = _EXITED.match(item["Status"])
    return {
        "run_id": marks[labels.RUN_ID],
        "role": marks.get(labels.ROLE, "main"),
        "state": state,
        "exit_code": int(exited.group(1)) if exited else None,
        "oci_runtime": marks.get(labels.OCI_RUNTIME, ""),
        "name": marks.get(labels.NAME, ""),
        "id": item["Id"],
    }
