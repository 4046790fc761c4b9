"""Opening connections to a BuildKit: one function dials, whatever the address.

A BuildKit daemon speaks HTTP/2 at once. A Docker engine (API 1.31 to 1.52) has it behind ``POST /grpc``, an HTTP/1.1
upgrade, and takes sessions behind ``POST /session``. API 1.53 deprecates both and speaks HTTP/2 on its own socket with
prior knowledge; sessions then go through ``Control.Session``. Source: Docker Engine API, "Start interactive session".
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import anyio
import attrs

from moat_plugins.buildkit.errors import BuildKitUnavailable

if TYPE_CHECKING:
    from anyio.abc import ByteStream

__all__ = ["Connect", "Endpoint", "find_endpoint", "open_grpc", "open_session"]

Connect = Callable[[], Awaitable["ByteStream"]]
_HEAD_LIMIT = 64 * 1024
_TIMEOUT_S = 30.0
_SWITCHING = 101
_NATIVE = (1, 53)
_ADDRESS = re.compile(r"(?P<engine>docker\+)?(?P<kind>tcp|unix)://(?P<rest>.+)")


@attrs.frozen
class Endpoint:
    """Where a BuildKit is.

    Args:
        address: For messages.
        connect: Opens a connection on which nothing was said.
        is_engine: A Docker engine, rather than a BuildKit daemon.
        version: The engine's API version, if known.
    """

    address: str
    connect: Connect
    is_engine: bool = False
    version: tuple[int, int] | None = None

    @property
    def upgrades(self) -> bool:
        """Whether HTTP/2 is behind an upgrade."""
        return self.is_engine and not (self.version is not None and self.version >= _NATIVE)


def find_endpoint(address: str, tls: ssl.SSLContext | None = None, server_name: str = "") -> Endpoint:
    """Read an address: ``tcp://host:port`` and ``unix:///path`` are a BuildKit daemon's, with ``docker+`` an engine's.

    Args:
        address: See above.
        tls: How TLS is spoken there, over TCP; ``None``: it is not.
        server_name: Whose certificate is asked for; ``""``: the host's.

    Raises:
        BuildKitUnavailable: It is none of these.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise BuildKitUnavailable(
            f"'{address}' is not the address of a BuildKit.",
            hint="Write tcp://HOST:PORT or unix:///PATH, and docker+unix:///PATH for a Docker engine's.",
        )
    rest, is_engine = match["rest"], match["engine"] is not None
    if match["kind"] == "unix":
        return Endpoint(address, lambda: anyio.connect_unix(rest), is_engine)
    host, colon, port = rest.rpartition(":")
    if not colon or not port.isdecimal():
        raise BuildKitUnavailable(f"'{address}' names no port.", hint="Write tcp://HOST:PORT.")
    if tls is None:
        return Endpoint(address, lambda: anyio.connect_tcp(host.strip("[]"), int(port)), is_engine)
    return Endpoint(address, _dial_tls(host.strip("[]"), int(port), tls, server_name), is_engine)


def _dial_tls(host: str, port: int, tls: ssl.SSLContext, server_name: str) -> Connect:
    async def connect() -> ByteStream:
        try:
            return await anyio.connect_tcp(
                host, port, ssl_context=tls, tls_hostname=server_name or host, tls_standard_compatible=False
            )
        except ssl.SSLError as error:
            raise OSError(error.errno, f"TLS: {error.reason or error}") from error

    return connect


async def open_grpc(endpoint: Endpoint) -> tuple[ByteStream, bytes]:
    """Open a connection that speaks HTTP/2 now, we being the client; with it what was read of it already.

    Raises:
        BuildKitUnavailable: Nothing answers there, or what answers has no BuildKit.
    """
    return await _open(endpoint, "/grpc" if endpoint.upgrades else None, ())


async def open_session(endpoint: Endpoint, headers: Sequence[tuple[str, str]]) -> tuple[ByteStream, bytes] | None:
    """Open a connection on which the other side is the HTTP/2 client; ``None``: sessions go another way here.

    Args:
        headers: Of the session: its id, name, shared key and methods.

    Raises:
        BuildKitUnavailable: It was refused.
    """
    return await _open(endpoint, "/session", headers) if endpoint.upgrades else None


async def _open(endpoint: Endpoint, path: str | None, headers: Sequence[tuple[str, str]]) -> tuple[ByteStream, bytes]:
    try:
        with anyio.fail_after(_TIMEOUT_S):
            stream = await endpoint.connect()
            if path is None:
                return stream, b""
            try:
                return stream, await _upgrade(stream, path, headers)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await stream.aclose()
                raise
    except TimeoutError as error:
        raise BuildKitUnavailable(
            f"{endpoint.address} did not answer in {_TIMEOUT_S:g} s.", hint="Is it running, and not overloaded?"
        ) from error
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        raise BuildKitUnavailable(
            f"Nothing that is a BuildKit answers at {endpoint.address}: {str(error) or type(error).__name__}.",
            hint="Is it running? Is the address right?",
        ) from error


async def _upgrade(stream: ByteStream, path: str, headers: Sequence[tuple[str, str]]) -> bytes:
    """Return what already came of the stream itself: the preface may be in the same piece as the answer."""
    lines = [f"POST {path} HTTP/1.1", "Host: docker", "Connection: Upgrade", "Upgrade: h2c"]
    lines += [f"{key}: {value}" for key, value in headers]
    await stream.send("\r\n".join([*lines, "", ""]).encode())
    data = b""
    while b"\r\n\r\n" not in data:
        if len(data) > _HEAD_LIMIT:
            raise BuildKitUnavailable(f"More than {_HEAD_LIMIT} bytes of headers were answered.")
        data += await stream.receive()
    head, _, rest = data.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
    if len(words) < 2 or words[1] != str(_SWITCHING):  # noqa: PLR2004 - version and status
        said = " ".join(words[1:]) or "nothing that is HTTP"
        raise BuildKitUnavailable(
            f"The engine offers no BuildKit ({path} answered {said[:80]}).", hint="Docker has it from 18.09 on."
        )
    return rest
