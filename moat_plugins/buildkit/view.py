"""Showing a build: a live view on a terminal, plain lines elsewhere. Give `show` as a build's ``on_event``.

The plain lines are those that people know from the docker command: ``#4 [2/3] RUN make`` and ``#4 0.2 …``.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from typing import TYPE_CHECKING, Self, TextIO

import attrs

from moat_plugins.buildkit.progress import BuildEvent, StepChanged, StepOutput, StepProgress, StepWarning

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BuildView", "LiveView", "PlainView", "make_view"]

_LINES = 5
_EVERY_S = 0.1
_UNITS = ("B", "kB", "MB", "GB", "TB")
_STEP = 1000
_INTERNAL = "[internal]"
_COLOURS = {"done": "\x1b[34m", "cached": "\x1b[34m", "failed": "\x1b[31m", "started": "", "known": "\x1b[2m"}


def make_view(out: TextIO) -> BuildView:
    """Return the view that suits OUT; leave it as a context to finish it."""
    return LiveView(out) if out.isatty() and os.environ.get("TERM") != "dumb" else PlainView(out)


class BuildView:
    """Base of both."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._clock = out, clock
        self._started = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def show(self, event: BuildEvent) -> None:
        """Take an event."""
        raise NotImplementedError

    def finish(self) -> None:
        """Show what is last."""


class PlainView(BuildView):
    """A line for each thing that happens; nothing is ever taken back."""

    def show(self, event: BuildEvent) -> None:
        """See `BuildView`."""
        line = self._line(event)
        if line is not None:
            self._out.write(f"#{event.number} {line}\n")
            self._out.flush()

    def _line(self, event: BuildEvent) -> str | None:
        if isinstance(event, StepOutput):
            return f"{self._clock() - self._started:.1f} {clean(event.line)}"
        if isinstance(event, StepWarning):
            return f"warning: {clean(event.text)} {event.url}".rstrip()
        if isinstance(event, StepChanged):
            ends = {"cached": "CACHED", "done": f"DONE {event.duration_s:.1f}s", "started": clean(event.name)}
            return f"ERROR: {clean(event.error)}" if event.state == "failed" else ends.get(event.state)
        return None


@attrs.define
class _Step:
    name: str
    state: str = "known"
    since: float = 0.0
    duration_s: float = 0.0
    detail: str = ""
    tail: deque[str] = attrs.field(factory=lambda: deque(maxlen=_LINES))


class LiveView(BuildView):
    """All steps at once, with the last lines of those at work; what is over scrolls away, errors stay."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(out, clock)
        self._steps: dict[int, _Step] = {}
        self._drawn = 0
        self._last = 0.0
        self._warnings: list[str] = []
        self._colour = not os.environ.get("NO_COLOR")

    def show(self, event: BuildEvent) -> None:
        """See `BuildView`."""
        now = self._clock()
        if isinstance(event, StepChanged):
            step = self._steps.setdefault(event.number, _Step(clean(event.name)))
            if event.state == "started":
                step.since = now
            step.state, step.duration_s = event.state, event.duration_s
        elif isinstance(event, StepWarning):
            self._warnings.append(clean(event.text))
        elif event.number in self._steps:
            step = self._steps[event.number]
            if isinstance(event, StepOutput):
                step.tail.append(clean(event.line))
            elif isinstance(event, StepProgress):
                step.detail = _amount(event)
        if now - self._last >= _EVERY_S:
            self._draw(now)

    def finish(self) -> None:
        """See `BuildView`."""
        self._draw(self._clock(), last=True)
        for text in self._warnings:
            self._out.write(f"warning: {text}\n")
        self._out.flush()
        self._drawn = 0

    def _draw(self, now: float, *, last: bool = False) -> None:
        size = shutil.get_terminal_size()
        width, height = max(size.columns, 10), max(size.lines - 1, 3)
        lines = self._lines(now, width)
        if not last:
            lines = lines[-height:]
        above = f"\x1b[{self._drawn}A" if self._drawn else ""
        body = "".join(f"\x1b[2K{line}\n" for line in lines)
        self._out.write(f"{above}\r{body}\x1b[J")
        self._out.flush()
        self._drawn, self._last = len(lines), now

    def _lines(self, now: float, width: int) -> list[str]:
        over = sum(step.state in {"done", "cached", "failed"} for step in self._steps.values())
        lines = [_fit(f"building {now - self._started:.1f}s ({over}/{len(self._steps)})", "", width)]
        for step in self._steps.values():
            if step.name.startswith(_INTERNAL) and step.state in {"done", "cached", "known"}:
                continue
            took = now - step.since if step.state == "started" else step.duration_s
            end = {"known": "", "cached": "CACHED", "failed": "FAILED"}.get(step.state, f"{took:.1f}s")
            line = _fit(f" => {step.name} {step.detail if step.state == 'started' else ''}".rstrip(), end, width)
            lines.append(f"{_COLOURS[step.state]}{line}\x1b[0m" if self._colour and _COLOURS[step.state] else line)
            if step.state in {"started", "failed"}:
                lines += [_fit(f"    {line}", "", width) for line in step.tail]
        return lines


def clean(text: str) -> str:
    """Return TEXT without what moves the cursor or worse: it comes from inside a build."""
    return "".join(char if char.isprintable() else " " for char in text.replace("\t", "  ")).rstrip()


def _fit(left: str, right: str, width: int) -> str:
    room = width - len(right) - 1 if right else width
    if len(left) > room:
        left = left[: max(room - 1, 0)] + "…"
    return f"{left:<{room}} {right}" if right else left


def _amount(event: StepProgress) -> str:
    if not event.total:
        return size_text(event.current) if event.current else ""
    return f"{size_text(event.current)} / {size_text(event.total)}"


def size_text(size: float) -> str:
    """Return ``1.5 MB``."""
    for unit in _UNITS:
        if size < _STEP or unit == _UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _STEP
    raise AssertionError
