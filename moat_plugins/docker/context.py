"""Docker contexts: the files under ``$DOCKER_CONFIG`` that say which engine is the current one.

Layout as the docker command writes it: ``config.json`` names the context; ``contexts/meta/<sha256 of the name>/
meta.json`` holds the address; ``contexts/tls/<same>/docker/`` the TLS material.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from moat_core.errors import RuntimeUnavailable
from moat_plugins.docker.endpoint import Endpoint, make_tcp, parse_address

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["config_folder", "find_context", "read_config"]

_HINT = "`docker context ls` lists the contexts, `docker context use default` leaves this one."


def config_folder(environ: Mapping[str, str]) -> str:
    """Return the docker command's folder, ``$DOCKER_CONFIG`` or ``~/.docker``."""
    home = environ.get("HOME") or os.path.expanduser("~")
    return environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker")


def read_config(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the docker command's ``config.json``; ``{}`` if there is none.

    Raises:
        RuntimeUnavailable: It is not JSON.
    """
    return _read(os.path.join(config_folder(environ), "config.json")) or {}


def find_context(environ: Mapping[str, str]) -> Endpoint | None:
    """Return the endpoint of the current context; ``None`` for ``default``, which has no files.

    Raises:
        RuntimeUnavailable: The context is named but cannot be used.
    """
    name = environ.get("DOCKER_CONTEXT")
    source = "DOCKER_CONTEXT"
    if not name:
        name = read_config(environ).get("currentContext")
        source = "the current docker context"
    if not name or name == "default":
        return None
    source = f"{source} '{name}'"
    digest = hashlib.sha256(str(name).encode()).hexdigest()
    contexts = os.path.join(config_folder(environ), "contexts")
    meta = _read(os.path.join(contexts, "meta", digest, "meta.json"))
    if meta is None:
        raise RuntimeUnavailable(f"There is no docker context '{name}' ({source}).", hint=_HINT)
    docker = meta.get("Endpoints", {}).get("docker", {})
    endpoint = parse_address(str(docker.get("Host", "")), source)
    if endpoint.path:
        return endpoint
    folder = os.path.join(contexts, "tls", digest, "docker")
    files = {key: os.path.join(folder, f"{key}.pem") for key in ("ca", "cert", "key")}
    options = {key: path for key, path in files.items() if os.path.exists(path)}
    if options or endpoint.tls:
        options |= {"tls": "1", "verify": "0" if docker.get("SkipTLSVerify") else "1"}
    return make_tcp(endpoint.host, endpoint.port, options, source)


def _read(path: str) -> dict[str, Any] | None:
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise RuntimeUnavailable(f"{path} cannot be read: {error}.", hint=_HINT) from error
    if not isinstance(data, dict):
        raise RuntimeUnavailable(f"{path} does not hold a JSON object.", hint=_HINT)
    return data
