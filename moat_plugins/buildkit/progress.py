"""From the daemon's news of a build to typed events, and what is known of its steps.

A step's digest comes many times: known, started, completed, and often once more (first the cache is looked at, then
the work is done). The last word counts. Steps are numbered in the order in which they first appear; output comes in
pieces, and is told by lines.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moat_plugins.buildkit.wire.control import StatusResponse, Vertex, VertexLog

__all__ = ["BuildEvent", "Progress", "StepChanged", "StepOutput", "StepProgress", "StepWarning"]

_TAIL_LINES = 25
_LINE_LIMIT = 16 * 1024
_NANOS = 1_000_000_000
_STDERR = 2


@attrs.frozen
class StepChanged:
    """A step was first seen (``known``), ``started``, or is ``done``, ``cached`` or has ``failed``.

    Args:
        number: From 1, in the order of appearance.
        name: ``[2/3] RUN make``; those beginning with ``[internal]`` are BuildKit's own.
        duration_s: Of the work that is done, once it is.
    """

    number: int
    name: str
    state: Literal["known", "started", "done", "cached", "failed"]
    duration_s: float = 0.0
    error: str = ""


@attrs.frozen
class StepOutput:
    """A line that a step printed, without its end."""

    number: int
    stream: Literal["stdout", "stderr"]
    line: str


@attrs.frozen
class StepProgress:
    """How far a part of a step is: bytes for transfers. ``total`` is 0 where it is not known."""

    number: int
    name: str
    current: int
    total: int
    finished: bool


@attrs.frozen
class StepWarning:
    """What the frontend thinks of the Dockerfile."""

    number: int
    text: str
    url: str = ""


BuildEvent = StepChanged | StepOutput | StepProgress | StepWarning


@attrs.define
class _Step:
    number: int
    name: str
    state: str = ""
    spent_ns: int = 0
    interval: tuple[int, int | None] | None = None
    tail: deque[str] = attrs.field(factory=lambda: deque(maxlen=_TAIL_LINES))
    pending: dict[int, bytes] = attrs.field(factory=dict)


class Progress:
    """Everything known of one build's steps."""

    def __init__(self) -> None:
        self._steps: dict[str, _Step] = {}

    @property
    def has_begun(self) -> bool:
        """Whether the daemon has told of any step."""
        return bool(self._steps)

    def name_of(self, digest: str) -> str:
        """Return a step's name; ``""`` if there is no such step."""
        return self._steps[digest].name if digest in self._steps else ""

    def tail_of(self, digest: str) -> tuple[str, ...]:
        """Return the last lines that a step printed."""
        return tuple(self._steps[digest].tail) if digest in self._steps else ()

    def find_failed(self) -> str:
        """Return the digest of a step that failed; ``""`` if none did."""
        return next((digest for digest, step in self._steps.items() if step.state == "failed"), "")

    def feed(self, news: StatusResponse) -> Iterator[BuildEvent]:
        """Take NEWS in and yield what is new in it."""
        for vertex in news.vertexes:
            yield from self._vertex(vertex)
        for status in news.statuses:
            step = self._steps.get(status.vertex)
            if step is not None:
                finished = status.completed is not None
                yield StepProgress(step.number, status.name or status.id, status.current, status.total, finished)
        for log in news.logs:
            yield from self._log(log)
        for warning in news.warnings:
            step = self._steps.get(warning.vertex)
            text = warning.short.decode("utf-8", "replace")
            yield StepWarning(step.number if step else 0, text, warning.url)

    def finish(self) -> Iterator[BuildEvent]:
        """Yield lines that were never ended."""
        for step in self._steps.values():
            for stream, rest in list(step.pending.items()):
                if rest:
                    yield self._line(step, stream, rest)
            step.pending.clear()

    def _vertex(self, vertex: Vertex) -> Iterator[BuildEvent]:
        step = self._steps.get(vertex.digest)
        if step is None:
            step = self._steps[vertex.digest] = _Step(len(self._steps) + 1, vertex.name)
        if vertex.started is not None:
            self._time(step, vertex.started, vertex.completed)
        state = _state(vertex)
        if state == step.state:
            return
        step.state = state
        yield StepChanged(step.number, step.name, state, step.spent_ns / _NANOS, vertex.error)

    def _time(self, step: _Step, started: int, completed: int | None) -> None:
        if step.interval is not None and step.interval[0] == started:
            before = step.interval[1]
            step.spent_ns -= (before - started) if before is not None else 0
        step.interval = (started, completed)
        step.spent_ns += (completed - started) if completed is not None else 0

    def _log(self, log: VertexLog) -> Iterator[BuildEvent]:
        step = self._steps.get(log.vertex)
        if step is None:
            return
        *lines, rest = (step.pending.get(log.stream, b"") + log.msg).split(b"\n")
        if len(rest) > _LINE_LIMIT:
            lines, rest = [*lines, rest], b""
        step.pending[log.stream] = rest
        for line in lines:
            for at in range(0, len(line) or 1, _LINE_LIMIT):
                yield self._line(step, log.stream, line[at : at + _LINE_LIMIT])

    def _line(self, step: _Step, stream: int, data: bytes) -> StepOutput:
        line = data.rstrip(b"\r").decode("utf-8", "replace")
        step.tail.append(line)
        return StepOutput(step.number, "stderr" if stream == _STDERR else "stdout", line)


def _state(vertex: Vertex) -> Literal["known", "started", "done", "cached", "failed"]:
    if vertex.error:
        return "failed"
    if vertex.cached and vertex.completed is not None:
        return "cached"
    if vertex.completed is not None:
        return "done"
    return "started" if vertex.started is not None else "known"
