"""Docker's multiplexed stream, read without I/O: 8-byte headers that say whose the next bytes are.

Source: Docker Engine API v1.45, "Stream format" of POST /containers/{id}/attach: byte 0 is the stream (1 stdout,
2 stderr, 3 the engine's own error), bytes 4 to 7 the length, big-endian. A length is a claim: nothing is reserved
for it, what has arrived is passed on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core.errors import EngineError
from moat_core.types import Output

if TYPE_CHECKING:
    from moat_core.types import Stream

__all__ = ["Demultiplexer"]

_HEADER_BYTES = 8
_STREAMS: dict[int, Stream] = {0: "stdout", 1: "stdout", 2: "stderr", 3: "stderr"}


class Demultiplexer:
    """Feed it what arrives; it answers with what was written, in order. With RAW it is all stdout (a terminal)."""

    def __init__(self, *, raw: bool = False) -> None:
        self._raw = raw
        self._header = b""
        self._left = 0
        self._stream: Stream = "stdout"

    @property
    def is_inside(self) -> bool:
        """Whether the stream would end too early if it ended now."""
        return self._left > 0 or bool(self._header)

    def feed(self, data: bytes) -> list[Output]:
        """Return the pieces in DATA; none is longer than DATA, none is empty.

        Raises:
            EngineError: It is no such stream.
        """
        if self._raw:
            return [Output("stdout", data)] if data else []
        pieces = []
        position = 0
        while position < len(data):
            if self._left:
                piece = data[position : position + self._left]
                position += len(piece)
                self._left -= len(piece)
                pieces.append(Output(self._stream, piece))
                continue
            taken = data[position : position + _HEADER_BYTES - len(self._header)]
            position += len(taken)
            self._header += taken
            if len(self._header) == _HEADER_BYTES:
                self._open_frame()
        return pieces

    def _open_frame(self) -> None:
        header, self._header = self._header, b""
        if header[0] not in _STREAMS or header[1:4] != b"\0\0\0":
            raise EngineError("The Docker engine sent a garbled stream.", engine_message=header.hex())
        self._stream = _STREAMS[header[0]]
        self._left = int.from_bytes(header[4:], "big")
