"""What the guard tells of a run: to subscribers, and to the hook ``moat_on_event``."""

from __future__ import annotations

import attrs

from moat_core.events import Event

__all__ = ["Refusal", "Widened"]


@attrs.frozen
class Refusal(Event):
    """The run asked the engine for something that it may not.

    Args:
        method: ``POST``.
        path: As the run wrote it, without the query.
        reason: What it was answered.
        option: The word of ``docker_host.allow`` that would let it through, ``""`` if none would.
    """

    method: str
    path: str
    reason: str
    option: str = ""


@attrs.frozen
class Widened(Event):
    """The run's owner allowed more than is safe: a word of ``docker_host.allow``, or ``raw``."""

    word: str
