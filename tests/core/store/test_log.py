"""The log of a run's output: what goes in comes out, byte for byte, within a bound."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moat_core.store import log
from moat_core.store.log import LogFollower, LogWriter, read_log

# Newlines often, and bytes that look like the format itself.
pieces = st.lists(
    st.tuples(
        st.sampled_from(["stdout", "stderr"]),
        st.lists(
            st.sampled_from([b"\n", b"\r\n", b"a", b" ", b"\0", b"\xff", b"1763683200.123456 O x", b"O ", b"e "])
            | st.binary(min_size=1, max_size=8),
            min_size=1,
            max_size=6,
        ).map(b"".join),
    ),
    max_size=20,
)


def by_stream(records):
    """What was said on each stream, put together."""
    return {name: b"".join(data for stream, data in records if stream == name) for name in ("stdout", "stderr")}


def as_pairs(records):
    return [(record.stream, record.data) for record in records]


@given(written=pieces)
def test_bytes_in_are_bytes_out(tmp_path_factory, written):
    """Whatever is written, and wherever it is split, comes back unchanged on its stream."""
    folder = tmp_path_factory.mktemp("log")
    writer = LogWriter(str(folder))
    for stream, data in written:
        writer.write(stream, data)
    writer.close()
    assert writer.error is None
    records = read_log(str(folder))
    assert by_stream(as_pairs(records)) == by_stream(written)
    assert all(record.data for record in records)
    assert all(b"\n" not in record.data[:-1] for record in records)


@given(written=pieces, tail=st.integers(0, 5))
def test_a_tail_is_the_end(tmp_path_factory, written, tail):
    """The last lines are an end of all records, with at most so many complete ones."""
    folder = tmp_path_factory.mktemp("log")
    writer = LogWriter(str(folder))
    for stream, data in written:
        writer.write(stream, data)
    writer.close()
    every, last = as_pairs(read_log(str(folder))), as_pairs(read_log(str(folder), tail=tail))
    assert last == every[len(every) - len(last) :]
    assert sum(data.endswith(b"\n") for _, data in last) <= tail
    if tail == 0:
        assert last == []


def test_no_log_is_an_empty_one(tmp_path):
    """A run that never started has none."""
    assert read_log(str(tmp_path)) == []
    LogWriter(str(tmp_path)).close()
    assert list(tmp_path.iterdir()) == []


def test_lines_are_stamped_in_order(tmp_path):
    """Each record says when it came."""
    writer = LogWriter(str(tmp_path))
    writer.write("stdout", b"a\n")
    writer.write("stdout", b"b\n")
    writer.close()
    first, second = read_log(str(tmp_path))
    assert 1.7e9 < first.time <= second.time


def test_it_is_bounded_by_two_files_and_keeps_the_end(tmp_path):
    """An agent cannot fill the disk through its output; what it said last is kept."""
    writer = LogWriter(str(tmp_path), limit_bytes=1000)
    for number in range(1000):
        writer.write("stdout", b"%d\n" % number)
    writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2200
    numbers = [int(record.data) for record in read_log(str(tmp_path))]
    assert numbers == list(range(numbers[0], 1000))
    assert len(numbers) > 40


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.sampled_from([b"a\n", b"b", b"\n", b"c\nd\n", b"e" * 40 + b"\n", b"f\n" * 30, b"g" * 90]), max_size=30),
    tail=st.integers(0, 40),
    window=st.integers(1, 400),
    limit=st.integers(100, 5000),
)  # fmt: skip
def test_the_end_is_the_end_of_the_whole(tmp_path, monkeypatch, pieces, tail, window, limit):
    """Read from behind, it is what remains of all when the first lines are taken away; over a rotation, too."""
    monkeypatch.setattr(log, "_WINDOW_BYTES", window)
    folder = tempfile.mkdtemp(dir=tmp_path)
    writer = LogWriter(folder, limit_bytes=limit)
    for piece in pieces:
        writer.write("stdout", piece)
    writer.close()
    whole = b"".join(record.data for record in read_log(folder))
    lines = whole.splitlines(keepends=True)
    kept = lines[-tail:] if tail else []
    assert b"".join(record.data for record in read_log(folder, tail=tail)) == b"".join(kept)


def test_a_torn_last_record_is_left_out(tmp_path):
    """What a killed writer had half written does not come out as output."""
    writer = LogWriter(str(tmp_path))
    writer.write("stdout", b"whole\n")
    writer.write("stderr", b"torn apart\n")
    writer.close()
    log = tmp_path / "log"
    data = log.read_bytes()
    for cut in range(1, len(b"1763683200.123456 E torn apart\n")):
        log.write_bytes(data[:-cut])
        assert as_pairs(read_log(str(tmp_path))) == [("stdout", b"whole\n")]


def test_rubbish_lines_are_left_out(tmp_path):
    """A damaged file is read as far as it makes sense."""
    writer = LogWriter(str(tmp_path))
    writer.write("stdout", b"good\n")
    writer.close()
    log = tmp_path / "log"
    log.write_bytes(b"\n\xff\xff\nxxxxxxxxxxxxxxxxx O no stamp\n" + log.read_bytes())
    assert as_pairs(read_log(str(tmp_path))) == [("stdout", b"good\n")]


def test_a_follower_sees_what_is_written_and_survives_a_rotation(tmp_path):
    """Everything arrives once and in order while the writer rotates, if the reader keeps up."""
    writer = LogWriter(str(tmp_path), limit_bytes=300)
    follower = LogFollower(str(tmp_path))
    seen = []
    for number in range(100):
        writer.write("stdout", b"%d\n" % number)
        for _ in range(3):
            seen += [int(record.data) for record in follower.read()]
    follower.close()
    writer.close()
    assert seen == list(range(100))
    assert not follower.missed


@pytest.mark.parametrize("where", ["not there", "a file"])
def test_a_log_that_cannot_be_written_is_silent(tmp_path, where):
    """The run goes on without it; the reason is kept."""
    folder = tmp_path / "folder"
    if where == "a file":
        folder.write_text("")
    writer = LogWriter(str(folder))
    writer.write("stdout", b"x\n")
    writer.write("stdout", b"y\n")
    writer.close()
    assert isinstance(writer.error, OSError)


_FILL = """
import resource, sys
from moat_core.store.log import LogWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
writer = LogWriter(sys.argv[1])
for number in range(200):
    writer.write("stdout", b"%d\\n" % number)
assert writer.error is not None
"""


def test_a_disk_that_fills_up_tears_no_other_record(tmp_path):
    """What had room is whole, the record that had none is left out, and the writer stops."""
    subprocess.run([sys.executable, "-c", _FILL, tmp_path], check=True, timeout=60)
    numbers = [int(record.data) for record in read_log(str(tmp_path))]
    assert numbers == list(range(len(numbers)))
    assert 30 < len(numbers) < 60


def test_it_is_the_users_alone(tmp_path):
    """Output may hold secrets."""
    writer = LogWriter(str(tmp_path))
    before = os.umask(0)
    try:
        writer.write("stdout", b"secret\n")
    finally:
        os.umask(before)
        writer.close()
    assert (Path(tmp_path) / "log").stat().st_mode & 0o777 == 0o600
