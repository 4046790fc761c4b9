"""Telling people that long work goes on: one living line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

import attrs

from moat_core.cli.render import format_size, print_problem, printable, style
from moat_core.events import Event, Progress, Warned

__all__ = ["ProgressPrinter"]

_EVERY_S = 0.1
_PLAIN_EVERY_S = 5.0


class ProgressPrinter:
    """A listener for a run's events that writes to stderr."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._tty = sys.stderr.isatty()
        self._quiet = quiet
        self._shown = False
        self._last = 0.0
        self._task = ""

    def __call__(self, event: Event) -> None:
        """Show EVENT, if it is worth it."""
        if isinstance(event, Warned):
            self.clear()
            print_problem(event.problem)
        elif isinstance(event, Progress) and not self._quiet:
            self.progress(attrs.asdict(event))

    def progress(self, event: Mapping[str, Any]) -> None:
        """Show the fields of a `Progress`."""
        task, finished = event["task"], event["finished"]
        now, new = time.monotonic(), task != self._task
        every = _EVERY_S if self._tty else _PLAIN_EVERY_S
        if not new and not finished and now - self._last < every:
            return
        self._task, self._last = ("" if finished else task), now
        line = printable(f"{task}{_amount(event)} {event['text']}".replace("\n", " ").rstrip())
        if not self._tty:
            print(line, file=sys.stderr, flush=True)
            return
        if finished:
            self.clear()
            return
        width = shutil.get_terminal_size().columns - 1
        print("\r\x1b[K" + style(line[:width], "dim", stream=sys.stderr), end="", file=sys.stderr, flush=True)
        self._shown = True

    def clear(self) -> None:
        """Take the living line away before anything else is written."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False


def _amount(event: Mapping[str, Any]) -> str:
    done, total = event["done"], event["total"]
    if done is None or not total:
        return ""
    return f" {done}/{total}" if event["unit"] == "steps" else f" {format_size(done)} of {format_size(total)}"
