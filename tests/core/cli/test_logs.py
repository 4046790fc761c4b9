"""`moat logs`: every byte, apart, of whatever run, for as long as it is kept."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moat_core.store.log import LogFollower, LogWriter, read_log

BINARY = b"a\0\xff\r\nb\n\nlast without newline"


@pytest.fixture
def bytes_of(machine):
    """Run the command in a process of its own; bytes out and err."""

    def run(*arguments, status=0):
        done = subprocess.run(
            [sys.executable, "-m", "moat_core.cli", "logs", *arguments], capture_output=True, check=False
        )
        assert done.returncode == status, done.stderr
        return done.stdout, done.stderr

    return run


def test_streams_come_out_byte_for_byte(machine, bytes_of):
    """stdout to stdout, stderr to stderr, binary and without a final newline."""
    run_id = machine.add_run("fox", live=False, state=None)
    machine.write_log(run_id, ("stdout", BINARY), ("stderr", b"e\xfe"), ("stdout", b"!"), ("stderr", b"\n"))
    assert bytes_of("fox") == (BINARY + b"!", b"e\xfe\n")


def test_without_a_name_it_is_the_newest(machine, moat):
    """Also one that is over, and without an engine."""
    old = machine.add_run("old", created=1.0)
    new = machine.add_run("new", live=False, state=None, created=2.0)
    machine.write_log(old, ("stdout", b"old\n"))
    machine.write_log(new, ("stdout", b"new\n"))
    machine.stop_engine()
    assert moat("logs").out == "new\n"
    assert moat("logs", "old").out == "old\n"
    assert moat("logs", old).out == "old\n"
    assert moat("logs", new[:-1]).out == "new\n"


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ([], "".join(f"{n}\n" for n in range(20, 120))),
        (["-n", "2"], "118\n119\n"),
        (["--lines", "0"], ""),
        (["-n", "all"], "".join(f"{n}\n" for n in range(120))),
        (["-n", "99999999999999999999"], "".join(f"{n}\n" for n in range(120))),
    ],
)
def test_the_last_lines_not_the_first(machine, moat, option, expected):
    """-n counts from the end; 100 if not given."""
    run_id = machine.add_run()
    machine.write_log(run_id, *[("stdout", f"{n}\n".encode()) for n in range(120)])
    assert moat("logs", *option).out == expected


@pytest.mark.parametrize("lines", ["x", "-1", "1.5", "", "²"])
def test_a_number_that_is_none(machine, moat, lines):
    """One sentence and exit 2."""
    machine.add_run()
    result = moat("logs", "-n", lines)
    assert (result.status, result.out) == (2, "")


def test_no_run_and_a_wrong_name(machine, moat):
    """Both are exit 2 with what to do."""
    nothing = moat("logs")
    assert (nothing.status, "moat run" in nothing.err) == (2, True)
    machine.add_run("fox")
    wrong = moat("logs", "foz")
    assert (wrong.status, "Did you mean fox?" in wrong.err) == (2, True)
    assert moat("logs", "../../etc").status == 2


def test_timestamps_begin_lines(machine, moat):
    """One a line, also when the line was written in pieces, each stream by itself."""
    run_id = machine.add_run()
    machine.write_log(run_id, ("stdout", b"a"), ("stderr", b"x\n"), ("stdout", b"b\nc\n"))
    result = moat("logs", "-t")
    assert [line[24:] for line in result.out.splitlines()] == [" ab", " c"]
    assert [line[24:] for line in result.err.splitlines()] == [" x"]
    assert result.out[:20].startswith(time.strftime("%Y-%m-%dT", time.gmtime()))
    assert result.out[23] == "Z"


def test_json_is_a_line_each_and_alone(machine, moat):
    """Objects on stdout only; what is no UTF-8 is base64."""
    run_id = machine.add_run()
    machine.write_log(run_id, ("stdout", "ü\n".encode()), ("stderr", b"\xff"))
    result = moat("logs", "--json")
    records = [json.loads(line) for line in result.out.splitlines()]
    assert result.err == ""
    assert [(each["stream"], each["encoding"]) for each in records] == [("stdout", "utf-8"), ("stderr", "base64")]
    assert records[0]["data"] == "ü\n"
    assert base64.b64decode(records[1]["data"]) == b"\xff"
    assert abs(records[0]["time"] - time.time()) < 60


def test_follow_ends_with_the_run(machine, tmp_path):
    """-f shows what comes, and returns when the owner has let go of the run; nothing of the end is lost."""
    run_id = machine.add_run("fox")
    log = LogWriter(machine.home.run_folder(run_id))
    log.write("stdout", b"before\n")
    process = subprocess.Popen([sys.executable, "-m", "moat_core.cli", "logs", "-f"], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"before\n"
    log.write("stdout", b"meanwhile\n")
    assert process.stdout.readline() == b"meanwhile\n"
    log.write("stdout", b"the end")
    log.close()
    machine.finish(run_id)
    assert process.stdout.read() == b"the end"
    process.stdout.close()
    assert process.wait(30) == 0


def test_follow_of_a_run_that_is_over_returns(machine, moat):
    """And shows its tail."""
    run_id = machine.add_run("fox", live=False, state=None)
    machine.write_log(run_id, ("stdout", b"1\n2\n3\n"))
    assert moat("logs", "-f", "-n", "2", "fox").out == "2\n3\n"


def test_a_reader_that_leaves_ends_the_following(machine):
    """`moat logs -f | head -1` ends although the run goes on."""
    run_id = machine.add_run("fox")
    log = LogWriter(machine.home.run_folder(run_id))
    log.write("stdout", b"one\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "moat_core.cli", "logs", "-f"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"one\n"
    process.stdout.close()
    while process.poll() is None:
        log.write("stdout", b"more\n")
        time.sleep(0.01)
    log.close()
    assert (process.wait(), process.stderr.read()) == (141, b"")
    process.stderr.close()


def test_a_run_that_the_store_has_lost_still_has_its_log(machine, moat):
    """By its whole id."""
    run_id = machine.add_run("fox", live=False, state=None)
    machine.write_log(run_id, ("stdout", b"kept\n"))
    machine.store.forget_run(run_id)
    assert moat("logs", run_id).out == "kept\n"


def test_a_log_that_is_none_is_one_sentence(machine, moat):
    """A folder in its place: no traceback."""
    run_id = machine.add_run()
    Path(machine.home.run_folder(run_id), "log").mkdir()
    result = moat("logs")
    assert (result.status, "cannot be read" in result.err) == (2, True)


PIECES = st.lists(
    st.tuples(
        st.sampled_from(["stdout", "stderr"]),
        st.lists(st.sampled_from([b"a", b"\n", b"\xff\0", b"\r"]), min_size=1, max_size=6),
    ),
    max_size=12,
)


def joined(records, stream):
    return b"".join(record.data for record in records if record.stream == stream)


@settings(max_examples=100, deadline=None)
@given(PIECES, st.integers(40, 200))
def test_following_loses_no_byte_over_rotations(tmp_path_factory, pieces, limit):
    """Whatever is written, a follower that keeps up sees every byte once, in order, although the file is rotated."""
    folder = str(tmp_path_factory.mktemp("log"))
    log, follower, seen = LogWriter(folder, limit), LogFollower(folder), []
    for stream, parts in pieces:
        log.write(stream, b"".join(parts))
        seen += follower.read()  # may only find out about a rotation
        seen += follower.read()
    log.close()
    while more := follower.read():
        seen += more
    follower.close()
    assert not follower.missed
    for stream in ("stdout", "stderr"):
        assert joined(seen, stream) == b"".join(b"".join(parts) for name, parts in pieces if name == stream)


@settings(max_examples=100, deadline=None)
@given(PIECES, st.integers(0, 8))
def test_the_tail_is_the_end_of_the_whole(tmp_path_factory, pieces, tail):
    """The last N lines are a suffix of the whole log and hold N lines, if there are so many."""
    folder = str(tmp_path_factory.mktemp("log"))
    log = LogWriter(folder)
    for stream, parts in pieces:
        log.write(stream, b"".join(parts))
    log.close()
    whole, last = read_log(folder), read_log(folder, tail=tail)
    as_data = [(record.stream, record.data) for record in last]
    assert as_data == [(record.stream, record.data) for record in whole][len(whole) - len(last) :]
    lines = sum(record.is_complete for record in last) + (bool(last) and not last[-1].is_complete)
    assert lines <= tail
    if tail and whole:
        total = sum(record.is_complete for record in whole) + (not whole[-1].is_complete)
        assert lines == min(tail, total)


def test_a_follower_that_is_too_slow_says_so(tmp_path):
    """Two whole files later something is missing, and it is told."""
    log, follower = LogWriter(str(tmp_path), 100), LogFollower(str(tmp_path))
    log.write("stdout", b"first\n")
    assert joined(follower.read(), "stdout") == b"first\n"
    for _ in range(30):
        log.write("stdout", b"x" * 50 + b"\n")
    log.close()
    while follower.read():
        pass
    follower.read()
    assert follower.missed
    follower.close()


def test_a_torn_end_is_left_out(tmp_path):
    """A writer that was killed in the middle of a record leaves what came before readable."""
    log = LogWriter(str(tmp_path))
    log.write("stdout", b"whole\n")
    log.close()
    with (tmp_path / "log").open("ab") as file:
        file.write(b"1763683200.123456 O to")
    assert joined(read_log(str(tmp_path)), "stdout") == b"whole\n"
    os.truncate(tmp_path / "log", 3)
    assert read_log(str(tmp_path)) == []


def test_streams_keep_their_order(machine):
    """Where both go to one place, as at a terminal, they come out in the order in which they were written."""
    run_id = machine.add_run()
    machine.write_log(run_id, ("stdout", b"1"), ("stderr", b"2"), ("stdout", b"3"), ("stderr", b"4"))
    command = [sys.executable, "-m", "moat_core.cli", "logs"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
    assert done.stdout == b"1234"
