"""What goes wrong in a build, typed; read from the JSON that BuildKit puts into gRPC's error details.

The details' Go stacks (``stack.Stack+json``) hold paths and the command line of the daemon: they are never looked at.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import attrs

from moat_core.errors import ImageError, MoatError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "BuildCancelled",
    "BuildError",
    "BuildKitUnavailable",
    "ContextError",
    "DockerfileError",
    "ExportError",
    "RunFailed",
    "SessionLost",
    "SourceRange",
    "read_error",
]

_CANCELLED, _UNAVAILABLE = 1, 14
_SNIPPET = 3
_EXPORT_WORDS = ('exporter "', "exporter option", "failed to push", "error exporting", "failed to export")


class BuildKitUnavailable(MoatError):
    """There is no BuildKit, or it cannot be used."""


@attrs.frozen
class SourceRange:
    """Lines of a Dockerfile, 1-based, both included."""

    filename: str
    first: int
    last: int
    text: str


class BuildError(ImageError):
    """A build failed.

    Args:
        message: One sentence.
        vertex: The step's name.
        ranges: Where in the Dockerfile.
        run_exit_code: Of the step's command.
        log_tail: The last lines that it printed.
    """

    def __init__(
        self,
        message: str,
        *,
        vertex: str = "",
        ranges: Iterable[SourceRange] = (),
        run_exit_code: int | None = None,
        log_tail: Iterable[str] = (),
    ) -> None:
        self.vertex, self.ranges = vertex, tuple(ranges)
        self.run_exit_code, self.log_tail = run_exit_code, tuple(log_tail)
        super().__init__(message, hint="\n".join([*self.log_tail, *(_show(each) for each in self.ranges[:1])]))


class RunFailed(BuildError):
    """A command of the Dockerfile ended with another exit code than 0."""


class DockerfileError(BuildError):
    """The Dockerfile cannot be read, or asks for what is not there."""


class ContextError(BuildError):
    """A file of the context cannot be sent."""


class ExportError(BuildError):
    """The result cannot be exported as asked."""


class SessionLost(BuildError):
    """The connection ended in the middle of the build."""


class BuildCancelled(BuildError):
    """Somebody cancelled it."""


def _show(where: SourceRange) -> str:
    lines = f"line {where.first}" if where.first == where.last else f"lines {where.first} to {where.last}"
    return f"{where.filename}, {lines}:\n{where.text}"


@attrs.frozen
class _Details:
    digest: str = ""
    ranges: tuple[SourceRange, ...] = ()
    exit_code: int | None = None


def read_error(
    status: int, message: str, details: Iterable[Any] | None, *, vertices: Any = None, ours: BuildError | None = None
) -> BuildError:
    """Make the error of a failed Solve.

    Args:
        status: gRPC's.
        message: For people.
        details: ``google.protobuf.Any`` messages, their values JSON.
        vertices: Digest -> name and log tail, from `progress`; whatever has ``name_of`` and ``tail_of``.
        ours: Why, if our side of the session failed: that is then the reason.
    """
    found = _read(details or ())
    name = vertices.name_of(found.digest) if vertices is not None else ""
    tail = vertices.tail_of(found.digest) if vertices is not None else ()
    text = _clean(message)
    kind: type[BuildError] = BuildError
    if ours is not None:
        kind, text = type(ours), ours.message
    elif status == _CANCELLED:
        kind = BuildCancelled
    elif "error from sender" in text:
        kind = ContextError
    elif status == _UNAVAILABLE:
        kind = SessionLost
    elif found.exit_code is not None:
        kind = RunFailed
        text = f"`{_command_of(name) or 'RUN'}` ended with exit code {found.exit_code}."
    elif text.startswith(_EXPORT_WORDS) or name.startswith("exporting "):
        kind = ExportError
    elif found.ranges:
        kind = DockerfileError
    sentence = text if text.endswith(".") else f"{text}."
    return kind(
        f"The build failed: {sentence}", vertex=name, ranges=found.ranges, run_exit_code=found.exit_code, log_tail=tail
    )


def _clean(message: str) -> str:
    """Keep the reason: BuildKit wraps it in the names of its own parts."""
    text = " ".join(message.split())
    for prefix in (
        "failed to solve: ",
        "rpc error: code = Unknown desc = ",
        "failed to solve with frontend dockerfile.v0: ",
    ):
        text = text.removeprefix(prefix)
    return text


def _command_of(name: str) -> str:
    return name.split("] ", 1)[-1][:200]


def _read(details: Iterable[Any]) -> _Details:
    result = _Details()
    for each in details:
        kind = str(getattr(each, "type_url", "")).rpartition("/")[2]
        try:
            value = json.loads(each.value)
        except (ValueError, AttributeError):
            continue
        if not isinstance(value, dict):
            continue
        if kind == "errdefs.Vertex+json":
            result = attrs.evolve(result, digest=str(value.get("digest", "")))
        elif kind == "errdefs.Source+json":
            result = attrs.evolve(result, ranges=(*result.ranges, *_ranges(value)))
        elif kind == "gatewayapi.ExitMessage+json" and isinstance(value.get("Code"), int):
            result = attrs.evolve(result, exit_code=value["Code"])
    return result


def _ranges(value: dict[str, Any]) -> list[SourceRange]:
    info = value.get("info") or {}
    try:
        lines = base64.b64decode(info.get("data") or "").decode("utf-8", "replace").splitlines()
    except (ValueError, TypeError):
        lines = []
    found = []
    for each in value.get("ranges") or ():
        first = int((each.get("start") or {}).get("line", 0))
        last = int((each.get("end") or {}).get("line", 0)) or first
        if first < 1:
            continue
        text = "\n".join(lines[first - 1 : max(last, first)][:_SNIPPET])
        found.append(SourceRange(str(info.get("filename", "Dockerfile")), first, last, text))
    return found
