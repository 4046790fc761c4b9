"""How the guard says no, and what it says yes to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs

from moat_core.errors import MoatError

if TYPE_CHECKING:
    from moat_plugins.docker_host.items import Listing

__all__ = ["Forward", "Refused", "Reply", "missing", "refuse"]


_LONGEST = 1000
"""Characters of a message: it is told and stored, and much of it may be the run's own words."""


class Refused(MoatError):
    """A request that does not reach the engine; ``status`` and the message are the client's answer.

    Docker's own clients print the message after "Error response from daemon:".
    """

    code = "refused"

    def __init__(self, message: str, *, status: int = 403, option: str = "") -> None:
        super().__init__(message if len(message) <= _LONGEST else message[:_LONGEST] + "…")
        self.status, self.option = status, option


def refuse(what: str, why: str, option: str = "") -> Refused:
    """Return the refusal of WHAT, with the reason and the word of ``docker_host.allow`` that would let it through."""
    way = f" The run's owner can allow it: docker_host.allow: [{option}]." if option else ""
    return Refused(f"moat: {what} is not allowed in this run: {why}.{way}", option=option)


_WORDS = {
    "container": "No such container: {}",
    "image": "No such image: {}",
    "network": "network {} not found",
    "volume": "get {}: no such volume",
    "exec": "No such exec instance: {}",
}


def missing(kind: str, name: str) -> Refused:
    """Return what Docker says of an object that does not exist: others' objects do not, for the run."""
    return Refused(_WORDS[kind].format(name), status=404)


@attrs.frozen(kw_only=True)
class Forward:
    """A request to make of the engine.

    Args:
        path: With the version prefix, not quoted.
        query: Name -> value, in order.
        headers: Those to send beside the framing.
        body: The whole body; ``None`` is none.
        streams: The client's body is passed on as it comes, instead of BODY.
        upgrade: The protocol to ask for, ``tcp`` or ``h2c``: bytes flow both ways afterwards.
        grpc: What flows both ways is gRPC of BuildKit's, and filtered.
        transform: Makes the answer to the client from the parsed JSON of a 2xx answer; for short ones.
        listing: What is shown of the lists that a 2xx answer is, see `moat_plugins.docker_host.items`.
        on_success: Called before a 2xx answer is passed on.
        line: Makes of each line of an answer that is passed on as it comes the one to send; ``b""`` is none.
        on_end: Called when such an answer is over; returns what is sent after it. What it refuses is said there.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    streams: bool = False
    upgrade: Literal["", "tcp", "h2c"] = ""
    grpc: bool = False
    transform: Callable[[Any], Awaitable[Any]] | None = None
    listing: Listing | None = None
    on_success: Callable[[], Awaitable[None]] | None = None
    line: Callable[[bytes], bytes] | None = None
    on_end: Callable[[], Awaitable[bytes]] | None = None


@attrs.frozen
class Reply:
    """An answer of the guard's own; ``None`` as the body is an empty one."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
