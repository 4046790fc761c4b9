"""Bodies: where one ends in what came in, and what of it is passed on.

A chunked body is taken apart and put together anew: chunk extensions and odd spellings of sizes do not reach the other
side (RFC 9112, 7.1), and what could be read in two ways is an error.
"""

from __future__ import annotations

import re
from typing import TypeAlias

__all__ = ["BadBody", "Chunked", "Data", "Length"]

Data: TypeAlias = bytes | memoryview
"""What came in; a view is of a buffer that is used again."""

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t -~\x80-\xff]*)?")
_TRAILER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t -~\x80-\xff]*")
_NOT_TRAILERS = frozenset(
    {b"content-length", b"transfer-encoding", b"host", b"connection", b"trailer", b"te", b"upgrade"}
)
_MAX_LINE, _MAX_TRAILERS = 4096, 8192
_MANY_PIECES = 1024
_CR = 0x0D


class BadBody(Exception):
    """A body that is not framed as it must be: the connection is of no further use."""


class Length:
    """A body of a known length.

    Args:
        left: Bytes that are still to come.
    """

    __slots__ = ("left",)

    is_laborious = False

    def __init__(self, left: int) -> None:
        self.left = left

    @property
    def done(self) -> bool:
        """Whether all of it has come."""
        return self.left == 0

    def feed(self, data: Data) -> tuple[Data, Data]:
        """Return what of DATA is to be passed on, and what comes after the body."""
        if len(data) <= self.left:
            self.left -= len(data)
            return data, b""
        part, rest = data[: self.left], data[self.left :]
        self.left = 0
        return part, rest


class Chunked:
    """A chunked body.

    Args:
        bare: Pass on the content alone, for those who know no chunks.

    Attributes:
        is_laborious: What was fed last had so many chunks that others should have their turn before the next.
    """

    __slots__ = ("_bare", "_left", "_line", "_state", "_trailers", "done", "is_laborious")

    def __init__(self, *, bare: bool = False) -> None:
        self.done = self.is_laborious = False
        self._bare = bare
        self._left = 0
        self._line = b""
        self._state = self._size
        self._trailers = 0

    def feed(self, data: Data) -> tuple[bytes, bytes]:
        """Return what of DATA is to be passed on, framed anew, and what comes after the body.

        Raises:
            BadBody: It is malformed; what was returned before has been passed on.
        """
        data = self._line + bytes(data)
        self._line = b""
        out: list[bytes] = []
        at, size = 0, len(data)
        while at < size and not self.done:  # nothing that is left is copied: a chunk may be a byte
            at = self._content(data, at, out) if self._left else self._take_line(data, at, out)
        self.is_laborious = len(out) > _MANY_PIECES
        return b"".join(out), data[at:]

    def _content(self, data: bytes, at: int, out: list[bytes]) -> int:
        part = data[at : at + self._left]
        out.append(part)
        self._left -= len(part)
        if not self._left:
            self._state = self._end_of_chunk
        return at + len(part)

    def _take_line(self, data: bytes, at: int, out: list[bytes]) -> int:
        """Give a line to the state, once it is there; a bare CR or LF ends none."""
        end = data.find(b"\n", at, at + _MAX_LINE + 1)
        if end < 0:
            line = data[at : at + _MAX_LINE + 1]
            if self._state == self._end_of_chunk and line != b"\r":
                raise BadBody("A chunk is longer than its size.")
            if len(line) > _MAX_LINE:
                raise BadBody("A line of the chunked body is too long.")
            self._line = line
            return len(data)
        if end == at or data[end - 1] != _CR:
            raise BadBody("A line of the chunked body does not end as it must.")
        self._state(data[at : end - 1], out)
        return end + 1

    def _size(self, line: bytes, out: list[bytes]) -> None:
        found = _SIZE.fullmatch(line)
        if found is None:
            raise BadBody("A chunk's size is malformed.")
        self._left = int(found[1], 16)
        if not self._bare:
            out.append(b"%x\r\n" % self._left)
        if not self._left:
            self._state = self._trailer

    def _end_of_chunk(self, line: bytes, out: list[bytes]) -> None:
        if line:
            raise BadBody("A chunk is longer than its size.")
        if not self._bare:
            out.append(b"\r\n")
        self._state = self._size

    def _trailer(self, line: bytes, out: list[bytes]) -> None:
        if line:
            found = _TRAILER.fullmatch(line)
            self._trailers += len(line)
            if found is None or found[1].lower() in _NOT_TRAILERS or self._trailers > _MAX_TRAILERS:
                raise BadBody("A trailer is not one.")
        else:
            self.done = True
        if not self._bare:
            out.append(line + b"\r\n")
