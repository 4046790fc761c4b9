"""Whether anything listens behind a route, as far as that can be seen from outside a container.

What an engine publishes takes every connection, and hangs up at once if nobody in the container takes it over.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from moat_core.http.upstream import Address

__all__ = ["Listening"]

_HANGS_UP_S = 0.2
_AT_ONCE = 64
_AGAIN_S = 5.0
"""When one that listened is looked at again; one that did not is looked at each time."""


class Listening:
    """What was seen of addresses when they were last looked at."""

    def __init__(self) -> None:
        self._seen: dict[Address, tuple[bool | None, float]] = {}

    def __getitem__(self, place: Address) -> bool | None:
        """Whether somebody listens at PLACE; ``None``: nobody has seen."""
        seen = self._seen.get(place)
        return None if seen is None else seen[0]

    async def look(self, places: Collection[Address]) -> None:
        """Look at PLACES, all that there are: what is known of others is forgotten.

        A connection is made and nothing is sent: what listens must stand that anyway.
        """
        now = time.monotonic()
        self._seen = {place: self._seen[place] for place in places if place in self._seen}
        due = [place for place in places if not _is_known(self._seen.get(place), now)]
        turn = asyncio.Semaphore(_AT_ONCE)

        async def look_at(place: Address) -> None:
            async with turn:
                self._seen[place] = await _listens(place), time.monotonic()

        await asyncio.gather(*map(look_at, due))


def _is_known(seen: tuple[bool | None, float] | None, now: float) -> bool:
    return seen is not None and seen[0] is True and now - seen[1] < _AGAIN_S


async def _listens(place: Address) -> bool | None:
    """Return whether somebody listens; ``None`` if that was not seen in time: a busy machine is not a closed port."""
    try:
        async with asyncio.timeout(_HANGS_UP_S):
            reader, writer = await asyncio.open_connection(*place)
    except TimeoutError:
        return None
    except OSError:
        return False
    try:
        async with asyncio.timeout(_HANGS_UP_S):
            return bool(await reader.read(1))
    except TimeoutError:
        return True  # it waits for us to speak
    except OSError:
        return False
    finally:
        writer.transport.abort()
