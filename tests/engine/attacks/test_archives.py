"""Attacks on the host by what a hostile ``tar`` in the image sends: judged by the host's folders and our memory."""

from __future__ import annotations

import io
import os
import tarfile
import tracemalloc
from contextlib import suppress

from attack import attack

from moat_core.errors import SandboxError
from moat_core.runtime import unpack as module

MIB = 1024 * 1024
LIMIT = 4 * MIB


def header(name, kind, size, *, link="", sparse=None, goes_on=False):
    """Return one block that claims whatever it likes."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o644
    info.size = size
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT)[-512:])
    if sparse is not None:  # GNU's old format: where the data is, then the real size
        block[386:410] = f"{sparse:011o}\0".encode() + f"{0:011o}\0".encode()
        block[483:495] = f"{sparse:011o}\0".encode()
        block[482] = goes_on
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def pax(text):
    return header("pax", tarfile.XHDTYPE, len(text)) + text + b"\0" * (-len(text) % 512)


def record(key, value):
    length = len(key) + len(value) + 3
    total = length + len(str(length))
    total = length + len(str(total))
    return f"{total} ".encode() + key + b"=" + value + b"\n"


END = b"\0" * 1024
FILE = header("asked/f", tarfile.REGTYPE, 0)


def chain():
    """Long names one behind the other: each is kept until the last has come."""
    return (header("././@LongLink", tarfile.GNUTYPE_LONGNAME, MIB // 4) + b"x" * (MIB // 4)) * 64


FILLS = {
    "a hole of a TiB": header("asked/f", tarfile.GNUTYPE_SPARSE, 0, sparse=2**32) + END,
    "holes that are small each": b"".join(
        header(f"asked/{number}", tarfile.GNUTYPE_SPARSE, 0, sparse=MIB) for number in range(8)
    )
    + END,
    "many files of a MiB": b"".join(header(f"asked/{number}", tarfile.REGTYPE, MIB) + b"x" * MIB for number in range(6))
    + END,
}
MEMORY = {
    "a name of 16 MiB": header("././@LongLink", tarfile.GNUTYPE_LONGNAME, 16 * MIB) + b"x" * 16 * MIB + FILE + END,
    "a link of 16 MiB": header("././@LongLink", tarfile.GNUTYPE_LONGLINK, 16 * MIB) + b"x" * 16 * MIB + FILE + END,
    "an attribute of 16 MiB": pax(record(b"comment", b"x" * 16 * MIB)) + FILE + END,
    "names behind names": chain() + FILE + END,
    "a header for all that follow, again and again": b"".join(
        header("pax", tarfile.XGLTYPE, MIB // 4) + record(b"k%d" % number, b"x" * (MIB // 4 - 20)).ljust(MIB // 4, b"\0")
        for number in range(64)
    )
    + FILE
    + END,
    "a map of holes without end": header("asked/f", tarfile.GNUTYPE_SPARSE, 0, sparse=1, goes_on=True)
    + (b"00000000001\0" * 42 + b"\1").ljust(512, b"\0") * (2 * MIB // 64)
    + END,
}  # fmt: skip
OUTSIDE = {
    "another name beside it": header(".bashrc", tarfile.REGTYPE, 0) + END,
    "a name that only begins alike": header("asked-not/f", tarfile.REGTYPE, 0) + END,
    "the folder itself": header("./.ssh/authorized_keys", tarfile.REGTYPE, 0) + END,
    "a second one, after what was asked": FILE + header("evil", tarfile.REGTYPE, 0) + END,
    "up and in again": FILE + header("asked/../evil", tarfile.REGTYPE, 0) + END,
    "a link to what was asked": FILE + header("evil", tarfile.LNKTYPE, 0, link="asked/f") + END,
}


def unpack(data, folder):
    with suppress(SandboxError, OSError):
        module.unpack(io.BytesIO(data), folder, only="asked", limit_bytes=LIMIT)


@attack("archives", FILLS)
def test_the_disk_is_filled(row, tmp_path, monkeypatch, *, defended):
    """Files in all larger than was allowed, holes and all, lie on the host."""
    if not defended:
        monkeypatch.setattr(module, "_safe_members", lambda tar, *_: list(tar))
        monkeypatch.setattr(module, "_HEADER_BYTES", 2**62)
    unpack(row, tmp_path)
    sizes = [os.lstat(path).st_size for path in tmp_path.rglob("*") if path.is_file()]
    return sum(sizes) > LIMIT


@attack("archives", MEMORY)
def test_memory_is_filled(row, tmp_path, monkeypatch, *, defended):
    """A header makes us hold much more than any honest one needs."""
    if not defended:
        monkeypatch.setattr(module, "_HEADER_BYTES", 2**62)
    tracemalloc.start()
    try:
        unpack(row, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return peak > 8 * MIB


@attack("archives", OUTSIDE)
def test_a_file_that_was_not_asked_for_appears(row, tmp_path, monkeypatch, *, defended):
    """Beside what the caller wanted, in the caller's own folder."""
    if not defended:
        monkeypatch.setattr(module, "_safe_members", lambda tar, *_: list(tar))
        monkeypatch.setattr(
            module, "_extract", lambda tar, members, folder, only: tar.extractall(folder, members, filter="data")
        )
    unpack(row, tmp_path)
    return sorted(set(os.listdir(tmp_path)) - {"asked"})


@attack("archives", ["half of it"])
def test_a_part_is_taken_for_the_whole(row, tmp_path, monkeypatch, *, defended):
    """An archive that breaks in the middle leaves something under the name that was asked for."""
    del row
    if not defended:
        monkeypatch.setattr(
            module, "_extract", lambda tar, members, folder, only: tar.extractall(folder, members, filter="data")
        )
    below_a_file = header("asked/1/2", tarfile.REGTYPE, 0)
    unpack(header("asked/1", tarfile.REGTYPE, 5) + b"first".ljust(512, b"\0") + below_a_file + END, tmp_path)
    return os.listdir(tmp_path)
