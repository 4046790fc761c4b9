"""``Auth/Credentials``: how the daemon logs in at a registry, from what `docker login` left.

The methods that keep a password off the daemon (FetchToken and its kin) are not served; it then fetches tokens itself.
Source: docker's config.json reference, and the credential helpers' protocol ("get", host on stdin, JSON on stdout).
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from moat_core.fds import with_old_limit
from moat_plugins.buildkit.wire.session import CredentialsRequest, CredentialsResponse

if TYPE_CHECKING:
    from moat_plugins.buildkit.h2 import Method

__all__ = ["Credentials", "find_credentials", "methods"]

_HUB = "https://index.docker.io/v1/"
_HUB_HOSTS = {"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"}
_HELPER = re.compile(r"[A-Za-z0-9._-]+")
_HELPER_S = 20.0
_TOKEN_USER = "<token>"  # noqa: S105 - the helpers' word for an identity token, no password

Credentials = Callable[[str], Awaitable[tuple[str, str]]]
"""From a registry's host to user and password; two empty strings are nobody."""


def methods(credentials: Credentials) -> dict[str, Method]:
    """Return the service."""

    async def get(stream: Any) -> None:
        request = await stream.recv_message()
        user, password = await credentials(request.host)
        await stream.send_message(CredentialsResponse(user, password))

    return {"/moby.filesync.v1.Auth/Credentials": (get, CredentialsRequest, CredentialsResponse)}


async def find_credentials(host: str) -> tuple[str, str]:
    """Find user and password for a registry's HOST as the docker command does; what cannot be read is nobody's."""
    key = _HUB if host in _HUB_HOSTS else host
    config = _read_config()
    helper = _mapping(config.get("credHelpers")).get(key) or config.get("credsStore")
    if isinstance(helper, str) and _HELPER.fullmatch(helper):
        found = await _ask(helper, key)
        if found is not None:
            return found
    entry = _find_entry(_mapping(config.get("auths")), key)
    if token := entry.get("identitytoken"):
        return "", str(token)
    if entry.get("username"):
        return str(entry["username"]), str(entry.get("password", ""))
    try:
        user, _, password = base64.b64decode(str(entry.get("auth") or "")).decode().partition(":")
    except ValueError:
        return "", ""
    return user, password.rstrip("\0")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _find_entry(auths: dict[str, Any], key: str) -> dict[str, Any]:
    """Return what is known of KEY; entries that have a scheme or a path are known by their host."""
    if key in auths:
        return _mapping(auths[key])
    return next((_mapping(entry) for name, entry in auths.items() if _host_of(name) == key), {})


def _host_of(name: str) -> str:
    return name.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _read_config() -> dict[str, Any]:
    folder = os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker"
    try:
        config = json.loads((Path(folder) / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


async def _ask(helper: str, key: str) -> tuple[str, str] | None:
    try:
        process = await asyncio.create_subprocess_exec(
            *with_old_limit([f"docker-credential-{helper}", "get"]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except OSError:
        return None
    try:
        with anyio.fail_after(_HELPER_S):
            out, _ = await process.communicate(key.encode())  # one that does not read its input is fine
        answer = json.loads(out) if process.returncode == 0 else None
    except (ValueError, TimeoutError):
        return None
    finally:
        if process.returncode is None:
            process.kill()
            with anyio.CancelScope(shield=True):
                await process.wait()
    if not isinstance(answer, dict):
        return None
    user, secret = str(answer.get("Username", "")), str(answer.get("Secret", ""))
    return ("", secret) if user == _TOKEN_USER else (user, secret)
