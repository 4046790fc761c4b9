"""The client: ``async with BuildKit.connect(address) as bk: result = await bk.build("folder", tags=["a:b"])``.

Usable by itself, without a run. Attributes of the frontend and of exporters are BuildKit's own; source of their names:
BuildKit's README ("Output"), docs/reference of its Dockerfile frontend, and buildx.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import anyio
import attrs
from grpclib.const import Cardinality
from grpclib.exceptions import GRPCError, StreamTerminatedError

from moat_plugins.buildkit.dial import Connect, Endpoint, find_endpoint
from moat_plugins.buildkit.errors import BuildKitUnavailable
from moat_plugins.buildkit.fs.source import DiskSource, MemorySource, Source
from moat_plugins.buildkit.h2 import BuildKitChannel, isolated
from moat_plugins.buildkit.outputs import Output, default_outputs, open_targets
from moat_plugins.buildkit.session import auth, filesend, filesync, health, secrets, ssh
from moat_plugins.buildkit.session.core import Session
from moat_plugins.buildkit.solve import OnEvent, solve
from moat_plugins.buildkit.wire import control

if TYPE_CHECKING:
    import ssl

    from moat_core.host_path import IsShared
    from moat_plugins.buildkit.session.auth import Credentials
    from moat_plugins.buildkit.session.filesend import Sink
    from moat_plugins.buildkit.session.secrets import Secret

__all__ = ["BuildKit", "BuildResult", "Cache"]

_CONTROL = "/moby.buildkit.v1.Control/"
_TIMEOUT_S = 30.0
_FIRST_S, _MOST_S = 0.1, 2.0


@attrs.frozen
class Cache:
    """Where the cache is imported from or exported to: ``Cache("registry", {"ref": "…"})``."""

    type: str
    attrs: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class BuildResult:
    """A build that succeeded.

    Args:
        image_id: ``sha256:…`` of the image's config, if there is an image.
        response: Everything that the exporters answered.
    """

    image_id: str
    response: Mapping[str, str]


class BuildKit:
    """A connection to a BuildKit. Make it with `connect`; many builds may go on at once."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._channel = BuildKitChannel(endpoint)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        address: str,
        *,
        connect: Connect | None = None,
        version: tuple[int, int] | None = None,
        tls: ssl.SSLContext | None = None,
        server_name: str = "",
    ) -> AsyncIterator[Self]:
        """Connect to ``tcp://host:port`` or ``unix:///path``, and to a Docker engine with ``docker+`` before it.

        Args:
            connect: Opens connections instead; ADDRESS is then for messages and says whether it is an engine.
            version: The engine's API version: from 1.53 on it is spoken to without an upgrade.
            tls: How TLS is spoken there, if it is; `moat_core.tls.client_context` makes one.
            server_name: Whose certificate is to be there; ``""``: the address's host's.

        Raises:
            BuildKitUnavailable: Nothing that is a BuildKit answers.
        """
        endpoint = attrs.evolve(find_endpoint(address, tls, server_name), version=version)
        if connect is not None:
            endpoint = attrs.evolve(endpoint, connect=connect)
        self = cls(endpoint)
        try:
            await self.workers()
            yield self
        finally:
            with anyio.CancelScope(shield=True):
                await self._channel.aclose()

    @classmethod
    async def wait_until_ready(
        cls, address: str, *, timeout_s: float = 30.0, tls: ssl.SSLContext | None = None, server_name: str = ""
    ) -> None:
        """Wait until a BuildKit answers at ADDRESS, asking it again after 0.1 s and then ever later, at most 2 s.

        TLS and SERVER_NAME are as in `connect`.

        Raises:
            BuildKitUnavailable: It did not within TIMEOUT_S; it tells what it answered last.
        """
        wait = _FIRST_S
        last = BuildKitUnavailable(f"{address} has not answered yet.")
        with anyio.move_on_after(timeout_s):
            while True:
                try:
                    async with cls.connect(address, tls=tls, server_name=server_name):
                        return
                except BuildKitUnavailable as error:
                    last = error
                await anyio.sleep(wait)
                wait = min(wait * 2, _MOST_S)
        raise BuildKitUnavailable(f"No BuildKit answered within {timeout_s:g} s. {last.message}", hint=last.hint)

    async def build(
        self,
        context: str | Path | Mapping[str, bytes] | Source | None = None,
        *,
        dockerfile: str | Path = "Dockerfile",
        dockerfile_text: str | bytes | None = None,
        tags: Sequence[str] | str = (),
        target: str = "",
        build_args: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        platforms: Sequence[str] | str = (),
        no_cache: bool = False,
        pull: bool = False,
        contexts: Mapping[str, str | Path] | None = None,
        extra_hosts: Mapping[str, str] | None = None,
        network: str = "",
        secrets: Mapping[str, Secret] | None = None,
        ssh: Mapping[str, str | Path] | None = None,
        credentials: Credentials | None = None,
        cache_from: Sequence[Cache] = (),
        cache_to: Sequence[Cache] = (),
        outputs: Sequence[Output] | None = None,
        entitlements: Sequence[str] = (),
        attributes: Mapping[str, str] | None = None,
        on_event: OnEvent | None = None,
        given: IsShared | None = None,
    ) -> BuildResult:
        """Build a Dockerfile.

        Args:
            context: A folder, files in memory by path, or whatever is a `Source`; ``None`` has none.
            dockerfile: Its path, in the context if it is relative; ``dockerfile_text`` is the Dockerfile itself.
            contexts: Further contexts by name: a folder's path, or ``docker-image://…`` and URLs.
            network: ``host`` or ``none`` for RUN; the former is an entitlement.
            secrets: For ``RUN --mount=type=secret``: bytes, text, or the path of a file.
            ssh: For ``RUN --mount=type=ssh``: id -> socket of an agent.
            credentials: How to log in at a registry's host; by default what `docker login` left.
            outputs: By default an image in the engine, named by TAGS; for a daemon the cache alone.
            attributes: Further attributes of the frontend, as BuildKit names them.
            on_event: Told each event of `progress`; it may be ``async``.
            given: ``run.given``: OUTPUTS may be links then, but not where a run could write. Without, none may be.

        Raises:
            ValueError: Files in memory have paths that cannot be.
            BuildError: It failed: `RunFailed`, `DockerfileError`, `ContextError`, `ExportError`, `SessionLost`.
            BuildKitUnavailable: The daemon has gone.
        """
        tags, platforms = ([each] if isinstance(each, str) else each for each in (tags, platforms))
        sources, filename = _make_sources(context, dockerfile, dockerfile_text)
        frontend = {"filename": filename} | _add_contexts(sources, contexts or {}) | _make_attributes(
            target=target, build_args=build_args, labels=labels, platforms=platforms, no_cache=no_cache, pull=pull,
            extra_hosts=extra_hosts, network=network, cache_from=cache_from,
        ) | dict(attributes or {})  # fmt: skip
        wanted = list(outputs) if outputs is not None else default_outputs(self.endpoint)
        async with open_targets(wanted, given) as targets:
            session = self._make_session(sources, targets, secrets, ssh, credentials, given=given)
            request = _make_request(frontend, wanted, tags, entitlements, (cache_from, cache_to))
            response = await solve(self._channel, session, request, on_event)
        image = response.get("containerimage.config.digest") or response.get("containerimage.digest", "")
        return BuildResult(image, response)

    def _make_session(
        self,
        sources: Mapping[str, Source],
        targets: Mapping[str, Sink | Path],
        wanted_secrets: Mapping[str, Secret] | None,
        agents: Mapping[str, str | Path] | None,
        credentials: Credentials | None,
        *,
        given: IsShared | None,
    ) -> Session:
        methods: dict[str, Any] = {}
        session = Session(methods, shared_key=sources["context"].shared_key)
        methods |= health.methods()
        methods |= filesync.methods(sources, session.fail)
        methods |= filesend.methods(targets, session.fail, given)
        methods |= auth.methods(credentials or auth.find_credentials)
        if wanted_secrets:
            methods |= secrets.methods(wanted_secrets)
        if agents:
            methods |= ssh.methods(agents)
        return session

    async def workers(self) -> list[control.WorkerRecord]:
        """Return what builds here, with its platforms."""
        answer = await self._call("ListWorkers", control.ListWorkersRequest(), control.ListWorkersResponse)
        return list(answer.record)

    async def info(self) -> control.Version | None:
        """Return the version that the daemon says it has; nothing should depend on it."""
        answer = await self._call("Info", control.InfoRequest(), control.InfoResponse)
        version: control.Version | None = answer.version
        return version

    async def disk_usage(self) -> list[control.UsageRecord]:
        """Return the records of the cache."""
        answer = await self._call("DiskUsage", control.DiskUsageRequest(), control.DiskUsageResponse)
        return list(answer.record)

    async def prune(self, *, everything: bool = False, keep_bytes: int = 0) -> list[control.UsageRecord]:
        """Shrink the cache to KEEP_BYTES, and return what was removed."""
        request = control.PruneRequest(all=everything, reserved_space=keep_bytes)
        call = self._channel.request(_CONTROL + "Prune", Cardinality.UNARY_STREAM, type(request), control.UsageRecord)
        removed: list[control.UsageRecord] = []

        async def ask() -> None:
            async with call as stream:
                await stream.send_message(request, end=True)
                while (record := await stream.recv_message()) is not None:
                    removed.append(record)

        with _mapped(self.endpoint):
            await isolated(ask())
        return removed

    async def _call(self, method: str, request: Any, reply: Any) -> Any:
        with _mapped(self.endpoint):
            return await self._channel.unary(_CONTROL + method, request, reply, timeout_s=_TIMEOUT_S)


class _mapped:  # noqa: N801 - used as a function
    """Turns what grpclib raises into an error of ours."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, GRPCError | StreamTerminatedError | OSError):
            text = error.message if isinstance(error, GRPCError) else str(error)
            raise BuildKitUnavailable(
                f"The BuildKit at {self._endpoint.address} does not answer: {text or type(error).__name__}."
            ) from error


def _make_sources(
    context: str | Path | Mapping[str, bytes] | Source | None,
    dockerfile: str | Path,
    text: str | bytes | None,
) -> tuple[dict[str, Source], str]:
    """Return the sources by the names that the frontend asks for, and the Dockerfile's name."""
    if context is None or isinstance(context, Mapping):
        source: Source = MemorySource(context or {})
    else:
        source = DiskSource(Path(context)) if isinstance(context, str | Path) else context
    if text is not None:
        data = text.encode() if isinstance(text, str) else text
        return {"context": source, "dockerfile": MemorySource({"Dockerfile": data})}, "Dockerfile"
    if isinstance(context, str | Path):
        path = Path(context) / dockerfile
        return {"context": source, "dockerfile": DiskSource(path.parent)}, path.name
    return {"context": source, "dockerfile": source}, os.fspath(dockerfile)


def _add_contexts(sources: dict[str, Source], contexts: Mapping[str, str | Path]) -> dict[str, str]:
    """Add the folders among CONTEXTS to SOURCES, and return what the frontend is told of all.

    A folder's name for the daemon has its place in it: the daemon keeps what it was sent under that name and the main
    context's key, and would take another folder's files for this one's.
    """
    told = {}
    for name, place in contexts.items():
        familiar = _familiar(name)
        if not isinstance(place, Path) and "://" in place:
            told[f"context:{familiar}"] = place
            continue
        source = DiskSource(Path(place))
        local = f"{familiar}-{source.shared_key[:16]}"
        sources[local] = source
        told[f"context:{familiar}"] = f"local:{local}"
    return told


def _familiar(name: str) -> str:
    """Return an image's name as the frontend looks for it: without what is understood by itself."""
    for prefix in ("docker.io/library/", "index.docker.io/library/", "docker.io/", "index.docker.io/"):
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    return name.removesuffix(":latest")


def _make_attributes(
    *,
    target: str,
    build_args: Mapping[str, str] | None,
    labels: Mapping[str, str] | None,
    platforms: Sequence[str],
    no_cache: bool,
    pull: bool,
    extra_hosts: Mapping[str, str] | None,
    network: str,
    cache_from: Sequence[Cache],
) -> dict[str, str]:
    """Return the attributes of the Dockerfile frontend."""
    found = {f"build-arg:{key}": value for key, value in (build_args or {}).items()}
    found |= {f"label:{key}": value for key, value in (labels or {}).items()}
    if target:
        found["target"] = target
    if platforms:
        found["platform"] = ",".join(platforms)
    if no_cache:
        found["no-cache"] = ""
    found["image-resolve-mode"] = "pull" if pull else "default"
    if extra_hosts:
        found["add-hosts"] = ",".join(f"{name}={address}" for name, address in extra_hosts.items())
    if network:
        found["force-network-mode"] = network
    if cache_from:
        found["cache-imports"] = json.dumps([{"Type": each.type, "Attrs": dict(each.attrs)} for each in cache_from])
    return found


def _make_request(
    frontend: Mapping[str, str],
    outputs: Sequence[Output],
    tags: Sequence[str],
    entitlements: Sequence[str],
    caches: tuple[Sequence[Cache], Sequence[Cache]],
) -> control.SolveRequest:
    if frontend.get("force-network-mode") == "host":
        entitlements = [*entitlements, "network.host"]
    imports, exports = ([control.CacheOptionsEntry(each.type, each.attrs) for each in some] for some in caches)
    exporters = [control.Exporter(each.type, each.named(tags)) for each in outputs]
    first = exporters[0] if exporters else control.Exporter()
    return control.SolveRequest(
        frontend="dockerfile.v0",
        frontend_attrs=frontend,
        entitlements=list(entitlements),
        cache=control.CacheOptions(exports=exports, imports=imports),
        exporters=exporters,
        exporter_deprecated=first.type,
        exporter_attrs_deprecated=first.attrs,
    )
