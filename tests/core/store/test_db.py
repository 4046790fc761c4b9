"""The one SQLite file: several processes at once, newer and broken files, full disks."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moat_core.errors import StoreError
from moat_core.store import Home, RunRow, Store


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def open_store(home):
    """Open a store, with its warnings in ``store.warnings``; all are closed at the end."""
    opened = []

    def make(where=home):
        warnings = []
        store = Store(where, warnings.append)
        store.warnings = warnings
        opened.append(store)
        return store

    yield make
    for store in opened:
        store.close()


def run_row(run_id, **values):
    return RunRow(
        **{
            "id": run_id,
            "name": "fox",
            "runtime": "fake",
            "address": "here",
            "probe": "",
            "workspace": "/w",
            "command": ["a", "b"],
            "env_names": ["A"],
            "ports": {"web": 80},
            "owner_pid": 7,
            "owner_kind": "library",
            "sandboxed": 1,
            "phase": "open",
            "created": 1.0,
            **values,
        }
    )


def test_what_is_written_is_read_again_by_another(open_store):
    """Rows come back with the values and types that went in, newest first."""
    store, other = open_store(), open_store()
    store.add_run(run_row("run-00000001"))
    store.add_run(run_row("run-00000002", created=2.0, command=None))
    store.update_run("run-00000001", phase="over", status="finished", exit_code=3)
    assert [row.id for row in other.runs()] == ["run-00000002", "run-00000001"]
    assert [row.id for row in other.runs(over=False)] == ["run-00000002"]
    row = other.run("run-00000001")
    assert (row.command, row.env_names, row.ports, row.exit_code) == (["a", "b"], ["A"], {"web": 80}, 3)
    assert other.run("run-00000002").command is None
    assert other.run("run-00000003") is None
    store.forget_run("run-00000002")
    assert [each.id for each in other.runs()] == ["run-00000001"]


def test_the_ledger_is_undone_newest_first(open_store):
    """Intents, live and kept rows are told apart; a forgotten one is gone."""
    store = open_store()
    first, second, third = (store.add_intent("run-1", "k", {"name": name}) for name in "abc")
    store.set_state(second, "live")
    store.set_state(third, "kept")
    assert [(row.id, row.state, row.data) for row in store.resources("run-1")] == [
        (third, "kept", {"name": "c"}),
        (second, "live", {"name": "b"}),
        (first, "intent", {"name": "a"}),
    ]
    assert [row.id for row in store.resources(kept=False)] == [second, first]
    store.forget_resource(second)
    store.forget_resource(first)
    assert store.unfinished() == []
    assert store.resources("run-2") == []


def test_runs_that_are_not_over_or_have_rows_are_unfinished(open_store):
    """Also rows whose run nobody remembers."""
    store = open_store()
    store.add_run(run_row("run-a"))
    store.add_run(run_row("run-b", phase="over"))
    store.add_run(run_row("run-c", phase="over", owner_pid=8))
    store.add_intent("run-c", "k", {})
    store.add_intent("run-d", "k", {})
    assert sorted(store.unfinished()) == ["run-a", "run-c", "run-d"]
    assert store.unfinished_of(7) == ["run-a"]


def test_notes_are_remembered_and_forgotten(open_store):
    """A word by its key."""
    store = open_store()
    assert store.note("k") is None
    store.set_note("k", "v")
    store.set_note("k", "w")
    assert open_store().note("k") == "w"
    store.set_note("k", None)
    assert store.note("k") is None


def test_reading_makes_nothing(home, open_store):
    """Neither file nor folder appears because somebody looked."""
    store = open_store()
    assert (store.runs(), store.resources(), store.unfinished(), store.note("k")) == ([], [], [], None)
    assert not Path(home.path).exists()


def test_everything_is_the_users_alone(home, open_store):
    """The folder cannot be entered by others, whatever the umask."""
    before = os.umask(0)
    try:
        open_store().set_note("k", "v")
    finally:
        os.umask(before)
    assert Path(home.path).stat().st_mode & 0o777 == 0o700


def test_a_row_of_an_unknown_state_is_refused(open_store):
    """The schema itself knows the three states."""
    store = open_store()
    row = store.add_intent("run-1", "k", {})
    with pytest.raises(StoreError, match="CHECK"):
        store.set_state(row, "nonsense")


_WRITER = """
import sys
from moat_core.store import Home, Store
store = Store(Home(sys.argv[1]))
for number in range(50):
    row = store.add_intent(f"run-{sys.argv[2]}", "k", {"number": number})
    store.set_state(row, "live")
    if number % 2:
        store.forget_resource(row)
store.close()
"""


def test_many_processes_may_make_and_write_it_at_once(home, open_store):
    """Eight processes that all find no file end up with one, and with every row."""
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, home.path, str(number)], stderr=subprocess.PIPE)
        for number in range(8)
    ]
    for writer in writers:
        _, said = writer.communicate(timeout=60)
        assert writer.returncode == 0, said.decode()
    store = open_store()
    for number in range(8):
        assert len(store.resources(f"run-{number}")) == 25
    assert store.warnings == []


def test_a_forked_child_has_a_connection_of_its_own(open_store):
    """Both go on writing; the parent's connection is not even closed by the child."""
    store = open_store()
    store.set_note("who", "parent")
    child = os.fork()
    if child == 0:
        try:
            store.set_note("child", "was here")
            store.close()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    store.set_note("who", "still the parent")
    assert store.note("child") == "was here"


# -- versions and broken files -------------------------------------------------------------------------------------


def test_a_newer_file_is_left_alone(home, open_store):
    """It is said which version it is and what to do, and not a byte changes."""
    open_store().set_note("k", "v")
    with sqlite3.connect(home.database) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = Path(home.database).read_bytes()
    for use in (lambda store: store.runs(), lambda store: store.set_note("k", "w")):
        with pytest.raises(StoreError, match=r"newer moat .version 99") as caught:
            use(open_store())
        assert "Upgrade" in caught.value.hint
        assert caught.value.exit_code == 2
    assert Path(home.database).read_bytes() == before


def test_an_older_file_is_brought_up_to_date(home, open_store):
    """Nothing of it is lost; several at once do it once."""
    store = open_store()
    store.add_run(run_row("run-00000001"))
    store.close()
    with sqlite3.connect(home.database) as connection:
        connection.execute("ALTER TABLE runs DROP COLUMN urls")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    stores = [open_store() for _ in range(3)]
    for each in stores:
        assert [(run.id, run.urls) for run in each.runs()] == [("run-00000001", {})]
        assert each.warnings == []
    stores[0].update_run("run-00000001", urls={"web": "http://web.x.localhost:8080"})
    assert stores[1].run("run-00000001").urls == {"web": "http://web.x.localhost:8080"}


def broken_header(path):
    path.write_bytes(b"\0" * 100 + path.read_bytes()[100:])


def nonsense(path):
    path.write_bytes(b"this is not a database at all\n" * 100)


def broken_pages(path):
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))


def truncated(path):
    path.write_bytes(path.read_bytes()[:6000])


def other_tables(path):
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE other (x)")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()


def broken_json(path):
    connection = sqlite3.connect(path)
    connection.execute("UPDATE runs SET command = '[\"unfinished'")
    connection.commit()
    connection.close()


BREAKAGES = [broken_header, nonsense, broken_pages, truncated, other_tables, broken_json]


@pytest.fixture
def written(home):
    """A whole file with some rows, closed."""
    store = Store(home)
    store.add_run(run_row("run-00000001"))
    for number in range(200):
        store.add_intent("run-00000001", "k", {"name": "x" * 100, "number": number})
    store.close()
    assert not Path(home.database + "-wal").exists()
    return Path(home.database)


@pytest.mark.parametrize("breaks", BREAKAGES)
def test_a_broken_file_is_put_aside_and_said_so(home, open_store, written, breaks):
    """The bytes are kept under another name, one warning says it, and the new one has what runs have written down."""
    breaks(written)
    broken = written.read_bytes()
    store = open_store()
    assert [row.id for row in store.runs()] == ["run-00000001"]
    assert len(store.resources("run-00000001")) == 200
    assert len(store.warnings) == 1
    assert "put aside as moat.db.broken-" in store.warnings[0]
    aside = [path for path in Path(home.path).glob("moat.db.broken-*") if path.suffix not in {".db-wal", ".db-shm"}]
    kept = [path for path in aside if not path.name.endswith(("-wal", "-shm"))]
    assert [path.read_bytes() for path in kept] == [broken]
    assert store.note("rebuilt") == "1"
    store.add_run(run_row("run-00000002"))
    again = open_store()
    assert {row.id for row in again.runs()} == {"run-00000001", "run-00000002"}
    assert again.warnings == []


def test_a_file_that_breaks_under_an_open_connection_is_put_aside_too(home, open_store, written):
    """A later command's write notices; nothing is lost."""
    store = open_store()
    assert len(store.runs()) == 1
    broken_pages(written)
    store.close()
    store.add_run(run_row("run-00000002"))
    store.add_intent("run-00000002", "k", {})
    assert len(store.resources()) == 201
    assert len(store.warnings) == 1


_OPENER = """
import sys
from moat_core.store import Home, Store
store = Store(Home(sys.argv[1]), print)
sys.stdin.readline()
store.set_note(sys.argv[2], "was here")
store.close()
"""


def test_a_broken_file_is_put_aside_once_by_many_processes(home, open_store, written):
    """Whoever comes second finds a new and whole file, and leaves it there."""
    nonsense(written)
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", _OPENER, home.path, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(6)
    ]
    said = []
    for opener in openers:
        opener.stdin.write("go\n")
        opener.stdin.flush()
    for opener in openers:
        out, err = opener.communicate(timeout=60)
        assert opener.returncode == 0, err
        said.append(out)
    assert len([words for words in said if words]) == 1
    assert (
        len([path for path in Path(home.path).glob("moat.db.broken-*") if path.name[-4:] not in {"-wal", "-shm"}]) == 1
    )
    store = open_store()
    assert [store.note(str(number)) for number in range(6)] == ["was here"] * 6


def test_a_busy_file_is_an_error_not_a_breakage(home, open_store, written, monkeypatch):
    """When another process holds it too long it is said so, and nothing is put aside."""
    monkeypatch.setattr("moat_core.store.file._BUSY_S", 0.05)
    holder = sqlite3.connect(home.database, isolation_level=None)
    try:
        holder.execute("BEGIN EXCLUSIVE")
        store = open_store()
        with pytest.raises(StoreError) as caught:
            store.set_note("k", "v")
        assert "held it" in caught.value.hint
    finally:
        holder.close()
    assert list(Path(home.path).glob("*.broken-*")) == []


# -- disks ---------------------------------------------------------------------------------------------------------

_FILL = """
import json, resource, sys
from moat_core.errors import StoreError
from moat_core.store import Home, Store
store = Store(Home(sys.argv[1]))
store.set_note("k", "v")
resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, 64 * 1024))
try:
    while True:
        store.add_intent("run-1", "k", {"name": "x" * 1000})
except StoreError as error:
    print(json.dumps(error.to_json()))
"""


def test_a_file_that_may_not_grow_is_one_clear_error(home):
    """A limit on file sizes, or a quota, ends in a StoreError with a hint; what was written is whole."""
    done = subprocess.run(
        [sys.executable, "-c", _FILL, home.path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    error = json.loads(done.stdout)
    assert error["code"] == "store"
    assert "disk space" in error["hint"]
    store = Store(home)
    try:
        assert store.note("k") == "v"
        assert all(row.data["name"] == "x" * 1000 for row in store.resources())
    finally:
        store.close()


@pytest.fixture
def full_disk(tmp_path):
    """A tiny file system of its own, which is filled up by calling it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "moat-test", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.fail(f"This test needs root, to mount a small tmpfs: {mounted.stderr.decode()}")

    def fill():
        with (folder / "ballast").open("wb", buffering=0) as file:
            try:
                while file.write(b"\0" * 1024):
                    pass
            except OSError:
                pass

    fill.folder = folder
    yield fill
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_clear_error_and_harms_nothing(full_disk):
    """Writing fails with a hint, reading goes on, and when there is room again so does writing."""
    home = Home(full_disk.folder / "home")
    store = Store(home)
    try:
        store.add_run(run_row("run-00000001"))
        full_disk()
        with pytest.raises(StoreError) as caught:
            for number in range(1000):
                store.add_intent("run-00000001", "k", {"name": "x" * 1000, "number": number})
        assert "disk space" in caught.value.hint
        assert [row.id for row in store.runs()] == ["run-00000001"]
        (full_disk.folder / "ballast").unlink()
        store.set_note("k", "v")
        assert store.note("k") == "v"
    finally:
        store.close()


def test_no_room_for_even_the_folder_is_one_clear_error(full_disk):
    """A home that cannot be made names the folder and what to do."""
    full_disk()
    store = Store(Home(full_disk.folder / "home"))
    with pytest.raises(StoreError) as caught:
        for number in range(100):
            store.set_note(str(number), "x" * 1000)
    assert str(full_disk.folder) in str(caught.value)
    assert caught.value.hint
    store.close()


@pytest.mark.parametrize("kind", ["file", "database is a folder"])
def test_a_home_that_cannot_be_one_is_one_clear_error(tmp_path, kind):
    """A file where the folder should be, a folder where the file should be."""
    path = tmp_path / "home"
    if kind == "file":
        path.write_text("")
    else:
        (path / "moat.db").mkdir(parents=True)
    store = Store(Home(path))
    with pytest.raises(StoreError) as caught:
        store.set_note("k", "v")
    assert str(path) in str(caught.value)
    assert "MOAT_HOME" in caught.value.hint


def test_writing_is_quick(open_store):
    """A thousand commits do not sync the disk a thousand times."""
    store = open_store()
    started = time.perf_counter()
    for number in range(1000):
        store.forget_resource(store.add_intent("run-1", "k", {"number": number}))
    assert time.perf_counter() - started < 5
