"""What happens in a run, as values.

One frozen class an event, so that fields can be added without breaking a listener. Coarse events go to the hook
``moat_on_event`` *and* to subscribers; `Progress` and `Output` are many, and go to subscribers only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import attrs

from moat_core.types import Problem

__all__ = [
    "Event",
    "EventStream",
    "ExecEnded",
    "ExecStarted",
    "PhaseStarted",
    "Progress",
    "RunEnded",
    "RunStarted",
    "Warned",
]


@attrs.frozen
class Event:
    """Base of all events."""

    run_id: str


@attrs.frozen
class PhaseStarted(Event):
    """The run enters a phase: ``open``, ``act``, ``finish``."""

    phase: Literal["open", "act", "finish"]


@attrs.frozen
class RunStarted(Event):
    """The container is up and its init steps are done.

    Args:
        oci_runtime: What the engine really started it with, ``runsc`` or ``runc``.
        startup_s: Seconds since the run was asked for.
    """

    oci_runtime: str
    startup_s: float


@attrs.frozen
class RunMoved(Event):
    """The engine has started the run's container anew; its ports are published elsewhere.

    Args:
        ports: Port in the container -> port on 127.0.0.1.
    """

    ports: Mapping[int, int]


@attrs.frozen
class ExecStarted(Event):
    """A command was started by `moat_core.api.RunHandle.exec` or ``start``. Arguments may hold secrets."""

    exec_id: str
    argv: tuple[str, ...]


@attrs.frozen
class ExecEnded(Event):
    """Its end."""

    exec_id: str
    exit_code: int
    duration_s: float
    timed_out: bool = False


@attrs.frozen
class Warned(Event):
    """Something the user should know: isolation is off, an option has no effect here."""

    problem: Problem


@attrs.frozen
class Progress(Event):
    """Long work goes on: a pull, a build.

    Args:
        task: What is worked on, stable: ``pull debian:bookworm-slim``.
        text: The newest line about it.
        done: What is done, in ``unit``, with ``total``; ``None`` when unknown.
        total: See ``done``.
        finished: The task is over.
    """

    task: str
    text: str = ""
    done: int | None = None
    total: int | None = None
    unit: Literal["bytes", "steps"] = "bytes"
    finished: bool = False


@attrs.frozen
class RunEnded(Event):
    """The body has ended; ``status`` is that of the run's outcome."""

    status: Literal["finished", "failed", "cancelled"]


class EventStream:
    """Whoever wants to see events as they happen, in this process."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Event], None]] = []

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call LISTENER with every event from now on; it must be quick and must not raise.

        Returns:
            A function that ends the subscription.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def publish(self, event: Event) -> None:
        """Tell every subscriber."""
        for listener in tuple(self._listeners):
            listener(event)
