"""`Engine`: one connection to one Docker engine, every call with a deadline, every answer released.

aiodocker is the transport (its session knows Unix sockets, TCP and TLS); requests are made here, because its own
helpers neither release an answer that is not read to the end nor bound how long they wait. What the calls are is in
`api_containers`, `api_images` and `api_networks`; streams that are not HTTP any more are in `hijack`.
Source of the paths: Docker Engine API v1.45.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Self

import anyio

from moat_core import checks
from moat_core.errors import EngineError, RuntimeUnavailable
from moat_core.json_lists import Splitter
from moat_plugins.docker.api_containers import Containers
from moat_plugins.docker.api_images import Images
from moat_plugins.docker.api_networks import Networks, Volumes
from moat_plugins.docker.endpoint import Endpoint, find_endpoint, make_tls
from moat_plugins.docker.errors import engine_error, map_errors
from moat_plugins.docker.quick_import import aiodocker, aiohttp

if TYPE_CHECKING:
    from aiohttp import ClientResponse

__all__ = ["TIMEOUT_S", "Engine"]

TIMEOUT_S = 30.0
"""What one call may take, in seconds, unless MOAT_ENGINE_TIMEOUT_S or ``docker.timeout`` says otherwise."""
_NEWEST = (1, 45)
_OLDEST = (1, 42)
_LINE_LIMIT_BYTES = 4 * 1024 * 1024
_ITEM_LIMIT_BYTES = 64 * 1024 * 1024
_LISTED = frozenset({"Created", "CreatedAt", "Id", "ImageID", "Mounts", "Name", "Names", "RepoTags", "Size"})
"""What is kept of a listed container, image, network or volume, beside our labels."""
_NO_LIMITS = aiohttp.ClientTimeout()  # ours are around the calls, where the message knows what was tried


class Engine:
    """A live connection. Make it with `connect`.

    Args:
        endpoint: Where the engine is.
        docker: The transport.
        timeout_s: Deadline of a call.
        version: API version in the paths, ``v1.45``.
    """

    def __init__(self, endpoint: Endpoint, docker: aiodocker.Docker, timeout_s: float, version: str) -> None:
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        self.version = version
        self.containers = Containers(self)
        self.images = Images(self)
        self.networks = Networks(self)
        self.volumes = Volumes(self)
        self.made: dict[tuple[str, str], str] = {}
        """Kind and name -> id of what this process made, and has not removed: no need to look whose it is."""
        self.ready_networks: set[str] = set()
        """Shared networks that this process has seen to be right; see `network`."""
        self._docker = docker
        self._asking = anyio.Lock()
        self._info: dict[str, Any] = {}

    def with_timeout(self, timeout_s: float | None) -> Engine:
        """Return this connection as somebody sees it who gives each call TIMEOUT_S; ``None`` changes nothing."""
        if not timeout_s:
            return self
        view = copy.copy(self)  # everything but the deadline is shared
        view.timeout_s = timeout_s
        view.containers, view.images = Containers(view), Images(view)
        view.networks, view.volumes = Networks(view), Volumes(view)
        return view

    @classmethod
    async def connect(cls, address: str = "", *, timeout_s: float | None = None) -> Self:
        """Connect to ADDRESS, or to the default engine, and agree on the API version (GET /_ping).

        Raises:
            RuntimeUnavailable: Nothing answers there, or it is too old.
        """
        endpoint = find_endpoint(address)
        self = cls(endpoint, _make_docker(endpoint), timeout_s or _timeout_s(), "")
        try:
            with self.calling("tell its version"):
                async with self._docker.session.get(f"{self._docker.docker_host}/_ping") as response:
                    await response.read()
                    self.version = _agree(response.headers.get("Api-Version", ""), endpoint)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def aclose(self) -> None:
        """Close every connection."""
        await self._docker.close()
        await self._docker.session.close()  # ours, so aiodocker leaves it open

    async def info(self) -> dict[str, Any]:
        """GET /info, asked once: versions, OCI runtimes, storage, resources of the engine's machine."""
        async with self._asking:  # of many runs that open at once, one asks
            if not self._info:
                self._info.update(await self.call("describe itself", "GET", "/info"))
        return self._info

    async def call(
        self,
        doing: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        timeout_s: float | None = None,
    ) -> Any:
        """Make one request and return its JSON answer, ``None`` if it is empty.

        Args:
            doing: What it is for, after "cannot" in messages.
            body: Sent as JSON.
            timeout_s: Deadline; the connection's by default, ``inf`` for none.

        Raises:
            EngineError: It refused.
            EngineTimeout: It did not answer in time.
            RuntimeUnavailable: It has gone.
        """
        with self.calling(doing, timeout_s):
            async with self._docker.session.request(method, self.url(path), params=params, json=body) as response:
                await self._check(doing, response)
                return _parse(doing, await response.read())

    async def list(self, doing: str, path: str, *, params: Mapping[str, str]) -> list[dict[str, Any]]:
        """GET a list, item by item; of each is kept what moat looks at, so that nobody's long labels fill our memory.

        Raises:
            EngineError, EngineTimeout, RuntimeUnavailable: As `call`.
        """
        splitter, found = Splitter(_ITEM_LIMIT_BYTES), []
        async with self.stream(doing, "GET", path, params=params) as pieces:
            async for piece in pieces:
                found += [_keep_ours(_parse(doing, text)) for _, text in splitter.feed(piece)]
        return found

    @asynccontextmanager
    async def stream(
        self,
        doing: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        idle_s: float | None = None,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Make a request whose answer comes in pieces; nothing is read that is not asked for.

        Args:
            idle_s: How long the engine may be silent, before the answer and between its pieces; ``inf`` for ever.
        """
        idle_s = idle_s or self.timeout_s
        with map_errors(doing, self.endpoint, idle_s):
            with anyio.fail_after(idle_s):
                response = await self._docker.session.request(
                    method, self.url(path), params=params, data=data, headers=headers
                )
            try:
                await self._check(doing, response)
                yield _pieces(response, idle_s)
            finally:
                response.close()  # not release(): that would wait for the end of an endless answer

    @contextmanager
    def calling(self, doing: str, timeout_s: float | None = None) -> Iterator[None]:
        """Bound and translate a block that talks to the engine."""
        limit = timeout_s or self.timeout_s
        with map_errors(doing, self.endpoint, limit), anyio.fail_after(limit):
            yield

    def url(self, path: str) -> str:
        """Return the URL of an API path."""
        return f"{self._docker.docker_host}/{self.version}{path}"

    async def _check(self, doing: str, response: ClientResponse) -> None:
        if response.status >= 400:  # noqa: PLR2004 - HTTP
            raise engine_error(doing, response.status, await _message(response))


def _keep_ours(item: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in item.items() if key in _LISTED}
    kept["Labels"] = {key: value for key, value in (item.get("Labels") or {}).items() if key.startswith("moat.")}
    return kept


def _parse(doing: str, answer: bytes) -> Any:
    try:
        return json.loads(answer) if answer.strip() else None
    except ValueError as error:
        raise EngineError(f"The Docker engine answered no JSON, asked to {doing}.") from error


async def _message(response: ClientResponse) -> str:
    text = (await response.read()).decode("utf-8", "replace")
    try:
        answer = json.loads(text)
    except ValueError:
        return text
    return str(answer.get("message", text)) if isinstance(answer, dict) else text


async def _pieces(response: ClientResponse, idle_s: float) -> AsyncIterator[bytes]:
    while True:
        with anyio.fail_after(idle_s):
            piece = await response.content.readany()
        if not piece:
            return
        yield piece


async def read_lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the lines of a stream of JSON lines.

    Raises:
        EngineError: A line is longer than 4 MiB; it is not kept in memory.
    """
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
        if len(rest) > _LINE_LIMIT_BYTES:
            raise EngineError(f"The Docker engine sent a line of more than {_LINE_LIMIT_BYTES} bytes.")
    if rest.strip():
        yield rest


def _make_docker(endpoint: Endpoint) -> aiodocker.Docker:
    if endpoint.path:
        # No limit of connections: 32 runs at once each hold some of them for minutes.
        connector: aiohttp.BaseConnector = aiohttp.UnixConnector(endpoint.path, limit=0)
        url = f"unix://{endpoint.path}"
    else:
        tls = make_tls(endpoint) if endpoint.tls else False
        connector = aiohttp.TCPConnector(ssl=tls, limit=0)
        url = f"{'https' if endpoint.tls else 'http'}://{endpoint.host}:{endpoint.port}"
    session = aiohttp.ClientSession(connector=connector, timeout=_NO_LIMITS, auto_decompress=False)
    docker = aiodocker.Docker(url, connector=connector, session=session, timeout=_NO_LIMITS)
    if endpoint.path:
        docker.docker_host = "http://docker"  # aiohttp wants a host; the socket does not care
    return docker


def _timeout_s() -> float:
    try:
        return checks.positive_s(float(os.environ.get("MOAT_ENGINE_TIMEOUT_S", "")))
    except ValueError:
        return TIMEOUT_S


def _agree(theirs: str, endpoint: Endpoint) -> str:
    try:
        major, minor = (int(part) for part in theirs.split("."))
    except ValueError:
        raise RuntimeUnavailable(
            f"What answers at {endpoint.address} is not a Docker engine.", hint="Look at DOCKER_HOST."
        ) from None
    if (major, minor) < _OLDEST:
        raise RuntimeUnavailable(
            f"The Docker engine at {endpoint.address} speaks API {theirs}; moat needs 1.42.",
            hint="Update Docker to 23 or later.",
        )
    major, minor = min((major, minor), _NEWEST)
    return f"v{major}.{minor}"
