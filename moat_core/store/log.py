"""The output of a run's own command, as it is kept after the container is gone.

One record a line: ``<seconds since 1970> <O|E|o|e> <bytes>``; capitals mean that a newline follows the bytes,
small letters that none did (yet). Nothing is decoded, so every byte comes back as it was written. Two files of
bounded size: an agent must not fill the disk through its log. Stdlib only.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

__all__ = ["LIMIT_BYTES", "LogFollower", "LogRecord", "LogWriter", "read_log"]

LIMIT_BYTES = 16 * 1024 * 1024
"""Of each of the two files."""
_CHUNK_BYTES = 1024 * 1024
_WINDOW_BYTES = 256 * 1024
_PREFIX = 20  # "1763683200.123456 O "


class LogRecord:
    """A line, or the unfinished end of one."""

    __slots__ = ("data", "stream", "time")

    def __init__(self, stamp: float, stream: str, data: bytes) -> None:
        self.time = stamp
        self.stream = stream
        self.data = data

    @property
    def is_complete(self) -> bool:
        """Whether it ends in a newline."""
        return self.data.endswith(b"\n")


class LogWriter:
    """Appends output to a run's log. A full disk silences it, once and for all, and stops nothing."""

    def __init__(self, folder: str, limit_bytes: int = LIMIT_BYTES) -> None:
        self._path = os.path.join(folder, "log")
        self._limit = limit_bytes
        self._file: BinaryIO | None = None
        self._size = 0
        self.error: OSError | None = None

    def write(self, stream: str, data: bytes) -> None:
        """Append DATA of STREAM (``stdout`` or ``stderr``), stamped with the present."""
        if self.error is not None or not data:
            return
        letter = "E" if stream == "stderr" else "O"
        stamp = b"%017.6f " % time.time()
        *_, last = data.rsplit(b"\n", 1)
        head = stamp + letter.encode() + b" "
        text = head + data.replace(b"\n", b"\n" + head)
        if last:
            cut = len(text) - len(last) - len(head)
            text = text[:cut] + stamp + letter.lower().encode() + b" " + last + b"\n"
        else:
            text = text[: -len(head)]
        try:
            self._append(text)
        except OSError as error:
            self.error = error
            self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()
            except OSError as error:
                self.error = error

    def _append(self, text: bytes) -> None:
        if self._file is None:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._file = open(descriptor, "ab", buffering=0)  # noqa: SIM115 - held open as long as the run lives
            self._size = os.fstat(descriptor).st_size
        elif self._size > self._limit:
            self._file.close()
            self._file = None
            os.replace(self._path, self._path + ".1")
            return self._append(text)
        written = self._file.write(text)
        self._size += written
        if written < len(text):  # no room for all of it; the torn record is skipped when it is read
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return None


def read_log(folder: str, *, tail: int | None = None) -> list[LogRecord]:
    """Return the kept records of a run, the last TAIL lines or all; ``[]`` if there is no log."""
    follower = LogFollower(folder, tail=tail)
    try:
        return follower.read()
    finally:
        follower.close()


class LogFollower:
    """Reads a log while it is written.

    Args:
        tail: Begin with so many of the last lines; ``None`` with all.

    Attributes:
        missed: The writer was faster by two whole files: something between was dropped. Reset it when it is told.
    """

    def __init__(self, folder: str, *, tail: int | None = None) -> None:
        self._path = os.path.join(folder, "log")
        self._tail = tail
        self._file: BinaryIO | None = None
        self._rest = b""
        self.missed = False

    def read(self) -> list[LogRecord]:
        """Return what there is by now: at first the tail, later what came since, about a megabyte at a time.

        Raises:
            OSError: It cannot be read.
        """
        if self._file is None:
            return self._begin()
        records = self._parse(self._file.read(_CHUNK_BYTES))
        if not records and self._was_rotated():
            self.close()
            self._open()
        return records

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()
            self._rest = b""

    def _begin(self) -> list[LogRecord]:
        if not self._open():
            return []
        assert self._file is not None
        records, self._rest = _read_end(self._file, self._tail)
        if self._tail is None or _count(records) <= self._tail:
            records = self._older() + records
        return _last(records, self._tail)

    def _open(self) -> bool:
        try:
            self._file = open(self._path, "rb")  # noqa: SIM115 - held open, so that a rotation loses nothing
        except FileNotFoundError:
            return False
        return True

    def _older(self) -> list[LogRecord]:
        assert self._file is not None
        try:
            with open(self._path + ".1", "rb") as file:
                if os.path.samestat(os.fstat(file.fileno()), os.fstat(self._file.fileno())):
                    return []  # rotated just now: it is the one that we hold
                return _read_end(file, self._tail)[0]
        except FileNotFoundError:
            return []

    def _parse(self, data: bytes) -> list[LogRecord]:
        records, self._rest = _parse(self._rest + data)
        return records

    def _was_rotated(self) -> bool:
        assert self._file is not None
        ours = os.fstat(self._file.fileno())
        try:
            if os.path.samestat(ours, os.stat(self._path)):
                return False
        except FileNotFoundError:
            return False  # between the two steps of a rotation, or removed
        try:
            self.missed = self.missed or not os.path.samestat(ours, os.stat(self._path + ".1"))
        except FileNotFoundError:
            self.missed = True
        # What was written between our last reading and the rotation is read before the file is changed.
        return self._file.tell() == os.fstat(self._file.fileno()).st_size


def _read_end(file: BinaryIO, tail: int | None) -> tuple[list[LogRecord], bytes]:
    """Return records with more than the last TAIL lines, or all that there are, and the torn one at the end.

    It is not read from the beginning: somebody may look at the last lines of a full log each second.
    """
    size = file.seek(0, os.SEEK_END)
    start = 0 if tail is None else max(0, size - _WINDOW_BYTES)
    while True:
        file.seek(start)
        data = file.read(size - start)
        records, rest = _parse(data if not start else data.partition(b"\n")[2])
        if not start or (tail is not None and _count(records) > tail):
            return records, rest
        start = max(0, size - 8 * (size - start))


def _parse(data: bytes) -> tuple[list[LogRecord], bytes]:
    *lines, rest = data.split(b"\n")
    return [record for line in lines if (record := parse_record(line + b"\n")) is not None], rest


def _count(records: Iterable[LogRecord]) -> int:
    return sum(record.is_complete for record in records)


def _last(records: Iterable[LogRecord], tail: int | None) -> list[LogRecord]:
    kept: deque[LogRecord] = deque()
    lines = 0
    for record in records:
        kept.append(record)
        lines += record.is_complete
        while tail is not None and kept and lines > tail - (tail > 0 and not kept[-1].is_complete):
            lines -= kept.popleft().is_complete
    return [] if tail == 0 else list(kept)


def parse_record(line: bytes) -> LogRecord | None:
    """Return what one line of the file holds; ``None`` for the torn end of a writer that was killed."""
    if len(line) < _PREFIX or line[-1:] != b"\n":
        return None
    letter = line[18:19]
    data = line[_PREFIX:] if letter in b"OE" else line[_PREFIX:-1]
    try:
        return LogRecord(float(line[:17]), "stderr" if letter in b"Ee" else "stdout", data)
    except ValueError:
        return None
