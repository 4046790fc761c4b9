"""How many connections there may be, in all and of one peer, and who makes room when there are too many."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

import attrs

__all__ = ["Connection", "Limits", "Room"]


@attrs.frozen
class Limits:
    """What one listener allows.

    Args:
        door: Connections that have not shown a certificate yet. Each holds a descriptor and what TLS keeps of a
            handshake, which is quick, so that those who mean it are never many.
        door_of_peer: How many of them one peer may have: as many as a program that begins all at once.
        inside: Connections that are let in. Docker's clients open one for each command and each stream.
        inside_of_peer: How many of them one peer may have: a quarter is always left for others.
        handshake_s: How long TLS may take to begin, in seconds: several round trips over a bad network.
    """

    door: int = 128
    door_of_peer: int = 32
    inside: int = 256
    inside_of_peer: int = 192
    handshake_s: float = 10.0

    def fit(self, files: int) -> Limits:
        """Return the limits for a process that may open FILES: one listener takes a quarter of them at most.

        A connection that is let in may cost another one, to what is behind the listener.
        """
        share = min(1.0, files / 4 / (self.door + 2 * self.inside))
        if share == 1.0:
            return self
        counts = {name: getattr(self, name) for name in ("door", "door_of_peer", "inside", "inside_of_peer")}
        return attrs.evolve(self, **{name: max(1, int(count * share)) for name, count in counts.items()})


class Connection(Protocol):
    """One that somebody has made to us."""

    peer: Hashable
    """Whose it is: an address, a user, a process."""
    is_idle: bool
    """Nothing is under way for it: it may be hung up on."""

    def hang_up(self) -> None:
        """End it, soon."""


_C = TypeVar("_C", bound=Connection)


class Room(Generic[_C]):
    """Who is there, in the order in which they came.

    Args:
        most: How many there may be.
        most_of_peer: How many of them one peer may have.
    """

    def __init__(self, most: int, most_of_peer: int) -> None:
        self.most, self.most_of_peer = most, most_of_peer
        self.count = 0
        self._peers: dict[Hashable, dict[_C, None]] = {}

    def let_in(self, connection: _C) -> bool:
        """Let CONNECTION in, if need be in the place of another, and tell whether there was room.

        Who has to go is the oldest idle one of the peer that has the most: a flood displaces itself, and a peer that
        has few is displaced by nobody who has more.
        """
        own = self._peers.get(connection.peer, {})
        if len(own) >= self.most_of_peer:
            crowds = [own]
        elif self.count >= self.most:
            more = (each for each in self._peers.values() if len(each) > len(own) or each is own)
            crowds = sorted(more, key=len, reverse=True)
        else:
            self._add(connection)
            return True
        going = next((each for crowd in crowds for each in crowd if each.is_idle), None)
        if going is None:
            return False
        self.leave(going)
        going.hang_up()
        self._add(connection)
        return True

    def _add(self, connection: _C) -> None:
        self._peers.setdefault(connection.peer, {})[connection] = None
        self.count += 1

    def leave(self, connection: _C) -> None:
        """CONNECTION is gone; it need not have been there."""
        crowd = self._peers.get(connection.peer)
        if crowd is not None and connection in crowd:
            del crowd[connection]
            self.count -= 1
            if not crowd:
                del self._peers[connection.peer]
