"""Messages of ``moby.buildkit.v1.Control``; field numbers from BuildKit's control.proto. Unused ones are left out."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from moat_plugins.buildkit.wire.codec import Message, field

__all__ = [
    "BytesMessage",
    "CacheOptions",
    "CacheOptionsEntry",
    "DiskUsageRequest",
    "DiskUsageResponse",
    "Exporter",
    "InfoRequest",
    "InfoResponse",
    "ListWorkersRequest",
    "ListWorkersResponse",
    "Platform",
    "ProgressGroup",
    "PruneRequest",
    "SolveRequest",
    "SolveResponse",
    "StatusRequest",
    "StatusResponse",
    "UsageRecord",
    "Version",
    "Vertex",
    "VertexLog",
    "VertexStatus",
    "VertexWarning",
    "WorkerRecord",
]  # fmt: skip


@attrs.define
class BytesMessage(Message):
    """A piece of a tunnelled stream."""

    data: bytes = field(1, "bytes")


@attrs.define
class CacheOptionsEntry(Message):
    """One place to import the cache from, or to export it to."""

    type: str = field(1, "str")
    attrs: Mapping[str, str] = field(2, "map")


@attrs.define
class CacheOptions(Message):
    """All of them."""

    exports: list[CacheOptionsEntry] = field(4, CacheOptionsEntry, repeated=True)
    imports: list[CacheOptionsEntry] = field(5, CacheOptionsEntry, repeated=True)


@attrs.define
class Exporter(Message):
    """What becomes of the result."""

    type: str = field(1, "str")
    attrs: Mapping[str, str] = field(2, "map")


@attrs.define
class SolveRequest(Message):
    """A build. The first exporter goes into the old fields, too, for daemons before 0.13."""

    ref: str = field(1, "str")
    exporter_deprecated: str = field(3, "str")
    exporter_attrs_deprecated: Mapping[str, str] = field(4, "map")
    session: str = field(5, "str")
    frontend: str = field(6, "str")
    frontend_attrs: Mapping[str, str] = field(7, "map")
    cache: CacheOptions | None = field(8, CacheOptions)
    entitlements: list[str] = field(9, "str", repeated=True)
    exporters: list[Exporter] = field(13, Exporter, repeated=True)


@attrs.define
class SolveResponse(Message):
    """What the exporters say."""

    exporter_response: Mapping[str, str] = field(1, "map")


@attrs.define
class StatusRequest(Message):
    """Asks for the progress of a build."""

    ref: str = field(1, "str")


@attrs.define
class ProgressGroup(Message):
    """Steps that belong together."""

    id: str = field(1, "str")
    name: str = field(2, "str")
    weak: bool = field(3, "bool")


@attrs.define
class Vertex(Message):
    """A step. The same digest comes many times; the last word counts."""

    digest: str = field(1, "str")
    inputs: list[str] = field(2, "str", repeated=True)
    name: str = field(3, "str")
    cached: bool = field(4, "bool")
    started: int | None = field(5, "time")
    completed: int | None = field(6, "time")
    error: str = field(7, "str")
    progress_group: ProgressGroup | None = field(8, ProgressGroup)


@attrs.define
class VertexStatus(Message):
    """How far a part of a step is; ``total`` 0 is unknown."""

    id: str = field(1, "str")
    vertex: str = field(2, "str")
    name: str = field(3, "str")
    current: int = field(4, "int")
    total: int = field(5, "int")
    timestamp: int | None = field(6, "time")
    started: int | None = field(7, "time")
    completed: int | None = field(8, "time")


@attrs.define
class VertexLog(Message):
    """A piece of a step's output, not a line. Stream 1 is stdout, 2 stderr."""

    vertex: str = field(1, "str")
    timestamp: int | None = field(2, "time")
    stream: int = field(3, "int")
    msg: bytes = field(4, "bytes")


@attrs.define
class VertexWarning(Message):
    """What the frontend thinks of a Dockerfile."""

    vertex: str = field(1, "str")
    level: int = field(2, "int")
    short: bytes = field(3, "bytes")
    detail: list[bytes] = field(4, "bytes", repeated=True)
    url: str = field(5, "str")


@attrs.define
class StatusResponse(Message):
    """News of a build."""

    vertexes: list[Vertex] = field(1, Vertex, repeated=True)
    statuses: list[VertexStatus] = field(2, VertexStatus, repeated=True)
    logs: list[VertexLog] = field(3, VertexLog, repeated=True)
    warnings: list[VertexWarning] = field(4, VertexWarning, repeated=True)


@attrs.define
class Platform(Message):
    """``linux``, ``amd64``."""

    architecture: str = field(1, "str")
    os: str = field(2, "str")
    variant: str = field(3, "str")


@attrs.define
class Version(Message):
    """Of BuildKit. The engine's own says ``v0.0.0+unknown-moby``: nothing may depend on it."""

    package: str = field(1, "str")
    version: str = field(2, "str")
    revision: str = field(3, "str")


@attrs.define
class WorkerRecord(Message):
    """What builds."""

    id: str = field(1, "str")
    labels: Mapping[str, str] = field(2, "map")
    platforms: list[Platform] = field(3, Platform, repeated=True)
    version: Version | None = field(5, Version)


@attrs.define
class ListWorkersRequest(Message):
    """Asks for all."""

    filter: list[str] = field(1, "str", repeated=True)


@attrs.define
class ListWorkersResponse(Message):
    """The workers."""

    record: list[WorkerRecord] = field(1, WorkerRecord, repeated=True)


@attrs.define
class InfoRequest(Message):
    """Asks for the version."""


@attrs.define
class InfoResponse(Message):
    """The version."""

    version: Version | None = field(1, Version)


@attrs.define
class DiskUsageRequest(Message):
    """Asks what the cache holds."""

    filter: list[str] = field(1, "str", repeated=True)


@attrs.define
class UsageRecord(Message):
    """A record of the cache; sizes in bytes, times in nanoseconds since 1970."""

    id: str = field(1, "str")
    mutable: bool = field(2, "bool")
    in_use: bool = field(3, "bool")
    size: int = field(4, "int")
    created_at: int | None = field(6, "time")
    last_used_at: int | None = field(7, "time")
    usage_count: int = field(8, "int")
    description: str = field(9, "str")
    record_type: str = field(10, "str")
    shared: bool = field(11, "bool")
    parents: list[str] = field(12, "str", repeated=True)


@attrs.define
class DiskUsageResponse(Message):
    """All records."""

    record: list[UsageRecord] = field(1, UsageRecord, repeated=True)


@attrs.define
class PruneRequest(Message):
    """Asks to shrink the cache; ``keep_duration`` in nanoseconds, ``reserved_space`` in bytes."""

    filter: list[str] = field(1, "str", repeated=True)
    all: bool = field(2, "bool")
    keep_duration: int = field(3, "int")
    reserved_space: int = field(4, "int")
