"""The open connections of one process, shared by everything in it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import anyio

from moat_core.store import default_home

if TYPE_CHECKING:
    from types import TracebackType

    from moat_core.runtime.base import Connection

__all__ = ["Connections"]

C = TypeVar("C", bound="Connection")
_CLOSE_S = 5.0


class Connections:
    """A context that opens each connection once, when it is first asked for, and closes all at its end.

    Args:
        home: The state folder of whoever uses them, by whose key an engine's things are told; see `default_home`.
    """

    def __init__(self, home: str | os.PathLike[str] | None = None) -> None:
        self.home = os.fspath(home if home is not None else default_home())
        self._open: dict[tuple[type[Any], str], Any] = {}
        self._locks: dict[tuple[type[Any], str], anyio.Lock] = {}

    async def get(self, kind: type[C], address: str) -> C:
        """Return the connection of KIND to ADDRESS.

        Raises:
            RuntimeUnavailable: Nothing answers there; the next call tries again.
        """
        key = (kind, address)
        if key not in self._open:
            async with self._locks.setdefault(key, anyio.Lock()):  # an address that hangs holds up no other
                if key not in self._open:
                    made: Any = await kind.connect(address)
                    if hasattr(kind, "home"):  # as a `Runtime` has it
                        made.home = self.home
                    self._open[key] = made
        return cast(C, self._open[key])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.move_on_after(_CLOSE_S, shield=True):
            while self._open:
                _, connection = self._open.popitem()
                await connection.aclose()
