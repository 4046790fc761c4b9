"""What it means for a live container that the engine does not know it, or does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from moat_core.errors import EngineError, RuntimeUnavailable, SandboxGone

__all__ = ["gone_if_missing"]

_NOT_THERE = (404, 409)  # no such container, or it is not running; moby answers the latter to an exec


@contextmanager
def gone_if_missing() -> Iterator[None]:
    """Turn "no such container", "not running" and a vanished engine into `SandboxGone`, chained.

    Raises:
        SandboxGone: One of the three.
    """
    try:
        yield
    except RuntimeUnavailable as error:
        raise SandboxGone(
            "The Docker engine went away while the run was alive.",
            hint=f"It was stopped or restarted, and the container with it. {error.message}",
        ) from error
    except EngineError as error:
        if error.status not in _NOT_THERE:
            raise
        raise SandboxGone(
            "The container is not running any more.", hint="`moat logs` may tell why.", **_words(error)
        ) from error


def _words(error: EngineError) -> dict[str, str]:
    return {"engine_message": str(error.details.get("engine_message", ""))}
