"""Where the engine is: looked for as the docker command does, without asking it anything.

Stdlib only, synchronous and quick to import, since `probe` serves quick listings with it. An address is a URL that
tells everything needed to connect again, also to a process with another environment (the reaper); TLS material
stands in it as paths: ``tcp://host:2376?tls=1&ca=…&cert=…&key=…``.
"""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING, NamedTuple

from moat_core.errors import RuntimeUnavailable

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

__all__ = ["Endpoint", "connect_socket", "find_endpoint", "make_tls", "parse_address", "unavailable"]

_INSTALL = "Install Docker and start it, or point DOCKER_HOST at an engine."
_GROUP = "Add yourself to the group that owns it (`sudo usermod -aG docker $USER`), then log in again."
_CONNECT_S = 5.0
_LOOPBACK = re.compile(r"127(?:\.\d{1,3}){3}")


class Endpoint(NamedTuple):
    """A place where an engine may be. A NamedTuple, because attrs costs `moat list` more than the look itself.

    Args:
        address: The URL that `parse_address` understands; what the ledger keeps.
        path: Of a Unix socket; ``""`` for TCP.
        tls: Speak TLS. ``ca``, ``cert`` and ``key`` are paths, ``""`` for none.
        verify: Check the server's certificate.
        source: How it was found, for messages: ``DOCKER_HOST``.
    """

    address: str
    path: str = ""
    host: str = ""
    port: int = 0
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    verify: bool = True
    source: str = ""

    @property
    def is_here(self) -> bool:
        """Whether what the engine publishes on 127.0.0.1 is reached there; a forwarded socket cannot be told."""
        return bool(self.path) or self.host in {"localhost", "::1"} or _LOOPBACK.fullmatch(self.host) is not None


def find_endpoint(address: str = "", environ: Mapping[str, str] | None = None) -> Endpoint:
    """Return the engine's place: ADDRESS, else what the docker command would take.

    Order: ``DOCKER_HOST``, ``DOCKER_CONTEXT``, the current context of ``$DOCKER_CONFIG/config.json``, then the
    first socket of the usual places that accepts a connection.

    Raises:
        RuntimeUnavailable: There is none; the hint lists what was tried and what happened to each.
    """
    environ = os.environ if environ is None else environ
    if address:
        return parse_address(address, "the address", environ)
    if host := environ.get("DOCKER_HOST"):
        return parse_address(host, "DOCKER_HOST", environ)
    from moat_plugins.docker import context  # reads JSON files; not needed in the cases above

    if found := context.find_context(environ):
        return found
    return _find_socket(environ)


def parse_address(address: str, source: str = "", environ: Mapping[str, str] | None = None) -> Endpoint:
    """Read a URL: ``unix://PATH``, ``tcp://HOST:PORT`` (or ``http``, ``https``); ENVIRON may add TLS to ``tcp``.

    Raises:
        RuntimeUnavailable: It is of a kind that cannot be used, or makes no sense.
    """
    if address.startswith("unix:///"):
        return Endpoint(address, path=address.removeprefix("unix://"), source=source)
    from urllib.parse import parse_qsl, urlsplit  # 3 ms that a Unix socket need not cost

    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise _unusable(address, source, f"is not an address ({error})") from error
    if parts.scheme == "ssh":
        raise RuntimeUnavailable(
            f"{source or 'The address'} is {address}; moat does not connect through ssh by itself.",
            hint="Forward the engine's socket and point DOCKER_HOST at it:\n"
            f"  ssh -nNT -L /tmp/docker-remote.sock:/var/run/docker.sock {parts.netloc} &\n"
            "  export DOCKER_HOST=unix:///tmp/docker-remote.sock",
        )
    if parts.scheme not in {"tcp", "http", "https"} or not parts.hostname:
        raise _unusable(address, source, "is not an address of an engine")
    options = dict(parse_qsl(parts.query))
    if "tls" not in options and parts.scheme != "http":
        options |= _tls_options(environ or {}, secure=parts.scheme == "https")
    return make_tcp(parts.hostname, port, options, source)


def make_tcp(host: str, port: int | None, options: Mapping[str, str], source: str) -> Endpoint:
    """Return the endpoint of an engine at HOST; OPTIONS are ``tls``, ``ca``, ``cert``, ``key``, ``verify``."""
    from urllib.parse import urlencode

    tls = options.get("tls") == "1"
    port = port or (2376 if tls else 2375)
    shown = f"[{host}]" if ":" in host else host
    address = f"tcp://{shown}:{port}" + (f"?{urlencode(sorted(options.items()))}" if tls else "")
    files = {name: options.get(name, "") for name in ("ca", "cert", "key")} if tls else {}
    verify = options.get("verify") != "0"
    return Endpoint(address, host=host, port=port, tls=tls, verify=verify, source=source, **files)


def _tls_options(environ: Mapping[str, str], *, secure: bool) -> dict[str, str]:
    if not secure and not environ.get("DOCKER_TLS_VERIFY") and not environ.get("DOCKER_TLS"):
        return {}
    folder = environ.get("DOCKER_CERT_PATH") or os.path.join(environ.get("HOME", ""), ".docker")
    files = {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
    paths = {name: os.path.join(folder, file) for name, file in files.items()}
    options = {name: path for name, path in paths.items() if os.path.exists(path)}
    verify = bool(environ.get("DOCKER_TLS_VERIFY")) or not environ.get("DOCKER_TLS")
    return {"tls": "1", "verify": "1" if verify else "0", **options}


def _find_socket(environ: Mapping[str, str]) -> Endpoint:
    tried: list[str] = []
    denied = False
    for path in _socket_paths(environ):
        if not os.path.exists(path):
            tried.append(f"{path}: not there")
            continue
        endpoint = Endpoint(f"unix://{path}", path=path, source="the usual places")
        try:
            connect_socket(endpoint, _CONNECT_S).close()
        except OSError as error:
            denied = denied or isinstance(error, PermissionError)
            tried.append(f"{path}: {_reason(error)}")
        else:
            return endpoint
    raise RuntimeUnavailable(
        "No Docker engine was found.",
        hint="\n".join([_GROUP if denied else _INSTALL, "Tried:", *(f"  {line}" for line in tried)]),
        tried=tried,
    )


def _socket_paths(environ: Mapping[str, str]) -> list[str]:
    home = environ.get("HOME") or os.path.expanduser("~")
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return [
        "/var/run/docker.sock",
        f"{runtime}/docker.sock",  # rootless
        f"{home}/.docker/run/docker.sock",  # Docker Desktop on a Mac
        f"{home}/.docker/desktop/docker.sock",  # Docker Desktop on Linux
        f"{home}/.rd/docker.sock",  # Rancher Desktop
        f"{home}/.colima/default/docker.sock",
        f"{home}/.orbstack/run/docker.sock",
    ]


def connect_socket(endpoint: Endpoint, timeout_s: float) -> socket.socket:
    """Return a connected blocking socket with that timeout, TLS done.

    Raises:
        OSError: Nothing accepts there.
    """
    if endpoint.path:
        raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            raw.settimeout(timeout_s)
            raw.connect(endpoint.path)
        except BaseException:
            raw.close()
            raise
        return raw
    raw = socket.create_connection((endpoint.host, endpoint.port), timeout_s)
    return make_tls(endpoint).wrap_socket(raw, server_hostname=endpoint.host) if endpoint.tls else raw


def make_tls(endpoint: Endpoint) -> ssl.SSLContext:
    """Return the TLS settings of ENDPOINT.

    Raises:
        RuntimeUnavailable: A certificate file cannot be used.
    """
    import ssl  # 10 ms that the usual engine, on a Unix socket, need not cost

    try:
        context = ssl.create_default_context(cafile=endpoint.ca or None)
        if endpoint.cert:
            context.load_cert_chain(endpoint.cert, endpoint.key or None)
    except OSError as error:  # ssl.SSLError is one
        raise RuntimeUnavailable(
            f"The TLS certificates for {endpoint.host} cannot be used: {_reason(error)}.",
            hint="Look at DOCKER_CERT_PATH: it should hold ca.pem, cert.pem and key.pem.",
        ) from error
    if not endpoint.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def unavailable(endpoint: Endpoint, error: BaseException) -> RuntimeUnavailable:
    """Return the error for an ENDPOINT that does not answer, with what to do about it."""
    hint = _INSTALL
    if isinstance(error, PermissionError):
        hint = _GROUP
    elif isinstance(error, ConnectionRefusedError | FileNotFoundError):
        hint = "Start it (`sudo systemctl start docker`, or open Docker Desktop)."
        if endpoint.source:
            hint += f"\nThe place is from {endpoint.source}: {endpoint.address}."
    elif endpoint.tls:
        hint = "Look at DOCKER_CERT_PATH and at the engine's certificate."
    where = endpoint.path or f"{endpoint.host}:{endpoint.port}"
    return RuntimeUnavailable(
        f"The Docker engine at {where} does not answer: {_reason(error)}.", hint=hint, address=endpoint.address
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    strerror = getattr(error, "strerror", None)
    return (strerror or str(error) or type(error).__name__).rstrip(".").lower()


def _unusable(address: str, source: str, why: str) -> RuntimeUnavailable:
    shown = f"{source} is '{address}', which" if source else f"'{address}'"
    return RuntimeUnavailable(
        f"{shown} {why}.", hint="Use unix:///var/run/docker.sock, tcp://HOST:2375 or tcp://HOST:2376 with TLS."
    )
