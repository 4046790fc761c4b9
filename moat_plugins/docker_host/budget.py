"""What a guard holds in memory of what it was sent and answered: one budget for all connections of a run.

Streams pass in pieces and count for nothing. What has to be looked at whole (bodies, answers, items of lists, messages
of builds) is charged by what it weighs in Python, which is many times its size: a request waits for a while until
others have given back enough, and then is told so. A little is free, so that everyday calls never wait.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

from moat_plugins.docker_host.policy.verdict import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FREE_BYTES", "MOST_VALUES", "Account", "Budget", "Recent", "weigh"]

MOST_BYTES = 64 * 1024 * 1024
FREE_BYTES = 32 * 1024
"""What each request may hold without asking."""
MOST_VALUES = 50_000
"""Values in one JSON text; bodies that people send have hundreds."""
_WAIT_S = 10.0
_COPIES, _VALUE_BYTES = 4, 256
"""A text is there as pieces, whole, decoded and written anew; an object with one key takes some 240 bytes."""
_RECENT = 8192


def weigh(data: bytes | bytearray) -> int:
    """Return what a JSON text takes at the most once it is parsed.

    Raises:
        Refused: It has too many values, whatever they are.
    """
    values = data.count(b",") + data.count(b"[") + data.count(b"{")
    if values > MOST_VALUES:
        raise Refused(
            f"moat: more than {MOST_VALUES} values at once are too many for the guard to look at.", status=413
        )
    return len(data) * _COPIES + values * _VALUE_BYTES


class Budget:
    """See the module.

    Args:
        most_bytes: What all requests may hold together.
        wait_s: How long one waits for others.
    """

    def __init__(self, most_bytes: int = MOST_BYTES, wait_s: float = _WAIT_S) -> None:
        self.most_bytes, self._wait_s = most_bytes, wait_s
        self.held = 0
        self._given_back = anyio.Event()

    @contextmanager
    def open(self) -> Iterator[Account]:
        """Yield an account; what it holds at the end is given back."""
        account = Account(self)
        try:
            yield account
        finally:
            account.give_back()

    async def take(self, size: int) -> None:
        """Take SIZE bytes, once there is room.

        Raises:
            Refused: It will never fit, or others went on holding what there is.
        """
        if size > self.most_bytes:
            raise Refused("moat: that is too long for the guard to look at.", status=413)
        with anyio.move_on_after(self._wait_s):
            while self.held + size > self.most_bytes:
                await self._given_back.wait()
            self.held += size
            return
        raise Refused("moat: too much is asked of the guard at once; try again.", status=503)

    def put(self, size: int) -> None:
        """Give SIZE bytes back."""
        self.held -= size
        given_back, self._given_back = self._given_back, anyio.Event()
        given_back.set()


class Account:
    """What one request holds; made by `Budget.open`."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size = 0

    async def hold(self, size: int) -> None:
        """Hold SIZE bytes in all from now on, more or less than before.

        Raises:
            Refused: There is no room for it.
        """
        charge, charged = max(0, size - FREE_BYTES), max(0, self.size - FREE_BYTES)
        if charge > charged:
            await self._budget.take(charge - charged)
        elif charged > charge:
            self._budget.put(charged - charge)
        self.size = size

    def give_back(self) -> None:
        """Hold nothing any more."""
        if self.size > FREE_BYTES:
            self._budget.put(self.size - FREE_BYTES)
        self.size = 0


class Recent:
    """The last few thousand of a kind of ids: a run can make as many as it likes."""

    def __init__(self, most: int = _RECENT) -> None:
        self._most = most
        self._known: dict[str, None] = {}

    def __contains__(self, key: object) -> bool:
        """Tell whether KEY is one of them."""
        return key in self._known

    def add(self, key: str) -> None:
        """Remember KEY, and forget the oldest if there are too many."""
        self._known.pop(key, None)
        self._known[key] = None
        if len(self._known) > self._most:
            del self._known[next(iter(self._known))]
