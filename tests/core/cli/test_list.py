"""`moat list`: its quick way says what the full command says, and steps aside for whatever is out of the ordinary."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import attrs
import fake_engine
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moat_core.api import RunInfo
from moat_core.cli import listing, quick
from moat_core.cli.render import printable
from moat_core.errors import UnknownName
from moat_core.runtime.proof import Proof
from moat_core.store.probing import is_probe
from moat_core.store.state import match
from moat_plugins.docker import labels

LONG_AGO = time.time() - 7300  # an age that does not change while we look
FLAGS = [[], ["-a"], ["--json"], ["-a", "--json"]]


def furnish(machine):
    """A run in every state that has nothing to be done about."""
    machine.add_run("running", created=LONG_AGO)
    machine.add_run("paused", state="paused", created=LONG_AGO)
    machine.add_run("starting", state=None, phase="open", oci_runtime=None, created=LONG_AGO)
    machine.add_run("stopping", state="exited", created=LONG_AGO)
    machine.add_run("kept", live=False, state="exited", kept=True, created=LONG_AGO)
    machine.add_run("exited", live=False, state=None, exit_code=3, created=LONG_AGO)
    machine.add_run("failed", live=False, state=None, status="failed", error="no", exit_code=None, created=LONG_AGO)
    machine.add_run("waits", command=None, created=LONG_AGO)


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_quick_says_what_the_full_command_says(machine, moat, capfd, flags):
    """The same bytes on stdout, whichever way it goes; and the quick way is really taken."""
    furnish(machine)
    capfd.readouterr()
    assert quick.answer(["list", *flags]) == 0
    sys.stdout.flush()
    quickly = capfd.readouterr().out
    fully = moat("--verbose", "list", *flags)
    assert fully.status == 0
    assert quickly == fully.out
    assert ("exited" in quickly.split()) == (flags[:1] == ["-a"]) or "--json" in flags


def test_every_state_is_shown(machine, moat):
    """Each of the states is what lock, row and engine make it."""
    furnish(machine)
    states = {run["name"]: run["state"] for run in moat("list", "-a", "--json").json}
    assert {name: state for name, state in states.items() if name != "waits"} == {
        name: name for name in states if name != "waits"
    }
    assert states["waits"] == "running"
    assert len(states) == 8


def test_isolation_is_what_the_engine_says(machine, moat):
    """The OCI runtime of the container wins over what the row believes."""
    run_id = machine.add_run("fox", oci_runtime="runsc")
    sandboxes = machine.engine["sandboxes"]
    sandboxes[0]["oci_runtime"] = "runc"
    machine.set_engine(sandboxes=sandboxes)
    assert [(run["id"], run["oci_runtime"]) for run in moat("list", "--json").json] == [(run_id, "runc")]
    assert "runc" in moat("list").out


def test_live_runs_show_where_they_are_reached(machine, moat):
    """Under its row, for people; of those that are over nothing is there any more."""
    urls = {"web": "http://web.fox.localhost:8080"}
    machine.store.update_run(machine.add_run("fox"), urls=urls)
    machine.store.update_run(machine.add_run("owl", live=False, state=None), urls=urls, ended=1.0)
    assert moat("list", "-a").out.splitlines().count("  web: http://web.fox.localhost:8080") == 1
    assert [run["urls"] for run in moat("list", "--json").json] == [urls]


def test_json_fields_are_those_documented():
    """RunInfo, what the quick way makes and the documented table have the same fields."""
    documented = [line.split()[0] for line in listing.__doc__.split("====\n")[2].splitlines() if line[:1].isalpha()]
    assert documented == [field.name for field in attrs.fields(RunInfo) if field.name != "sandbox"]


def test_quick_fields_are_those_of_run_info(machine, moat):
    """The quick way's objects have exactly the fields of RunInfo, in order."""
    machine.add_run()
    names = [field.name for field in attrs.fields(RunInfo) if field.name != "sandbox"]
    assert [list(run) for run in moat("list", "--json").json] == [names]


def test_an_empty_machine_has_no_runs_and_gets_no_folder(machine, moat):
    """Reading makes nothing, and asks no engine."""
    machine.stop_engine()
    result = moat("list", "--json")
    assert (result.status, result.json, result.err) == (0, [], "")
    assert not os.path.exists(machine.home.path)


def test_no_engine_is_asked_for_what_is_over(machine, moat):
    """Runs that are over and kept nothing are shown without an engine."""
    machine.add_run("fox", live=False, state=None)
    machine.stop_engine()
    result = moat("list", "-a", "--json")
    assert [run["state"] for run in result.json] == ["exited"]
    assert result.err == ""


def test_an_engine_that_is_down_hides_nothing(machine, moat):
    """Its runs are shown as unknown, the reason goes to stderr, and the exit code is 0."""
    machine.add_run("fox")
    machine.add_run("owl", live=False, state=None)
    machine.stop_engine()
    assert quick.answer(["list"]) is None
    result = moat("list", "-a", "--json")
    assert result.status == 0
    assert {run["name"]: run["state"] for run in result.json} == {"fox": "unknown", "owl": "exited"}
    assert "No fake engine answers" in result.json[1]["engine_error"]
    assert result.err.count("No fake engine answers") == 1


def test_each_engine_is_probed_once(machine, moat):
    """Many runs at one address cost one question."""
    for number in range(5):
        machine.add_run(f"fox-{number}")
    machine.add_run("far", address="fake://far")
    assert moat("list").status == 0
    assert Path(os.environ["FAKE_ENGINE"] + ".probed").read_text().splitlines() == ["fake://", "fake://far"]


@pytest.mark.parametrize("arguments", [["list", "--help"], ["list", "-x"], ["list", "fox"], ["-v", "list"], ["ls"], []])
def test_quick_leaves_other_words_alone(machine, arguments):
    """Only what it knows by heart is answered quickly."""
    assert quick.answer(arguments) is None


def test_a_dead_owner_is_not_for_the_quick_way(machine, moat):
    """What it left is undone by the next `moat list`, which then shows the run as failed."""
    run_id = machine.add_run("fox")
    machine.die(run_id)
    assert quick.answer(["list"]) is None
    result = moat("list", "-a", "--json")
    assert [run["state"] for run in result.json] == ["failed"]
    assert "its owner is gone" in result.err
    assert machine.engine["things"] == []
    assert machine.store.resources() == []
    assert quick.answer(["list"]) == 0


def test_a_dead_owner_and_a_dead_engine_hold_nobody_up(machine, moat, monkeypatch):
    """What cannot be undone now is said, and the listing comes all the same."""
    monkeypatch.setattr("moat_core.cli.context._REAP_S", 0.2)
    machine.die(machine.add_run("fox"))
    machine.stop_engine()
    began = time.monotonic()
    result = moat("list", "-a", "--json")
    assert time.monotonic() - began < 10  # not the half minute that undoing one thing may take
    assert (result.status, [run["name"] for run in result.json]) == (0, ["fox"])
    assert "No fake engine answers" in result.err
    assert machine.store.unfinished()


def test_a_runtime_without_a_probe_is_asked_the_long_way(machine, moat):
    """No probe is no answer; the full command knows how."""
    machine.add_run("fox", probe="")
    assert quick.answer(["list"]) is None
    assert [run["state"] for run in moat("list", "--json").json] == ["running"]


def test_a_probe_that_is_gone_is_asked_the_long_way(machine, moat):
    """A plugin that was uninstalled takes its probe along."""
    machine.add_run("fox", probe="no_such_package.probe:states")
    assert quick.answer(["list"]) is None


@pytest.mark.parametrize(
    "probe",
    [
        "fake_engine:states",
        "fake_quick.probe:other",
        "fake_quick.probe:states.__globals__",
        "fake_quick.probe.more:states",
        "fake_quick.notprobe:states",
        ".probe:states",
        "probe:states",
        "fake_quick..probe:states",
        "fake_quick.probe:states\n",
        "fake_quick/../x.probe:states",
        "os:system",
        "cProfile:run",
    ],
)
def test_no_name_but_a_probes_is_imported(machine, monkeypatch, probe):
    """Whatever the database names: only what is called as a probe is, ``package.probe:states``, is imported."""
    monkeypatch.setattr("moat_core.store.probing.call_probe", lambda *_: pytest.fail("it was called"))
    machine.add_run("fox", probe=probe)
    assert quick.answer(["list"]) is None


def test_every_runtimes_probe_is_called_as_it_must():
    """The runtimes that moat brings, the one for tests included, are asked the quick way."""
    from moat_core.testing import fake
    from moat_plugins import docker

    infos = [*docker.moat_register_runtimes(), *fake.moat_register_runtimes()]
    assert [is_probe(info.probe) for info in infos] == [True, True]


@pytest.mark.parametrize("has_journal", [True, False])
def test_a_broken_store_is_put_aside_and_containers_are_found_again(machine, moat, has_journal):
    """By the run's journal, else by label; it is said, the file is kept, what is another home's does not appear."""
    run_id = machine.add_run("fox")
    journal = Path(machine.home.run_folder(run_id), "journal")
    if not has_journal:
        journal.unlink()
    machine.add_container("run-00000000", "stranger", "running")
    machine.store.close()
    for suffix in ("-wal", "-shm"):
        Path(machine.home.database + suffix).unlink(missing_ok=True)
    Path(machine.home.database).write_bytes(b"this is no database" * 100)
    result = moat("list", "--json")
    assert result.status == 0
    assert [(run["id"], run["name"], run["state"], run["owner_kind"]) for run in result.json] == [
        (run_id, "fox", "running", "foreground" if has_journal else "lost")
    ]
    assert result.err.count("was put aside") == 1
    assert any(name.startswith("moat.db.broken-") for name in os.listdir(machine.home.path))
    assert [run["id"] for run in moat("list", "--json").json] == [run_id]


def test_a_broken_store_without_an_engine_is_an_error(machine, moat):
    """Nothing is known and nobody can be asked: exit 125, with the engine's reason."""
    machine.home.make()
    Path(machine.home.database).write_bytes(b"no database" * 200)
    machine.stop_engine()
    result = moat("list")
    assert (result.status, result.out) == (125, "")
    assert "No fake engine answers" in result.err
    assert "Start the fake engine." in result.err


def test_a_newer_state_file_is_one_sentence_and_exit_2(machine, moat):
    """It is neither read nor touched."""
    machine.add_run()
    machine.store._execute("PRAGMA user_version = 99", ())
    result = moat("list")
    assert (result.status, result.out) == (2, "")
    assert "newer moat" in result.err
    assert "Traceback" not in result.err


def test_a_home_that_cannot_be_is_exit_2(machine, moat, monkeypatch, tmp_path):
    """A file where the folder should be."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOAT_HOME", str(tmp_path / "file"))
    for arguments in (["list"], ["clean", "-f"], ["status"], ["logs"], ["stop", "fox"]):
        result = moat(*arguments)
        assert (result.status, result.out) == (2, "")
        assert "cannot be used: Not a directory." in result.err


def test_hostile_names_do_not_reach_the_terminal(machine, moat):
    """Control characters of a command are escaped in the table, and whole in the JSON."""
    evil = "\x1b]0;owned\x07\n\r\x9b2J\u202e"
    machine.add_run("fox", command=["sh", "-c", evil])
    table = moat("list").out
    assert len(table.splitlines()) == 2
    assert not any((ord(c) < 32 and c != "\n") or c in "\x9b\u202e\x07" for c in table)
    assert moat("list", "--json").json[0]["command"][2] == evil


@given(st.text())
def test_printable_leaves_nothing_to_interpret(text):
    """Whatever goes in, only printable characters and newlines come out."""
    assert all(c.isprintable() or c == "\n" for c in printable(text))


def test_a_narrow_terminal_cuts_the_command(machine, moat, monkeypatch):
    """The last column is cut to fit; without a terminal nothing is."""
    machine.add_run("fox", command=["echo", "x" * 200])
    monkeypatch.setenv("COLUMNS", "70")
    assert "x" * 200 in moat("list").out
    script = (
        "import sys; sys.stdout.isatty = lambda: True; from moat_core.cli.main import main; sys.exit(main(['list']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ | {"NO_COLOR": "1"}
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(len(line) <= 70 for line in lines)
    assert lines[1].endswith("…")


def test_colour_only_at_a_terminal_that_wants_it(machine):
    """Escapes appear on a terminal, and not with NO_COLOR."""
    script = (
        "import sys; sys.stdout.isatty = lambda: True; from moat_core.cli.main import main; sys.exit(main(['list']))"
    )

    def run(**more):
        environ = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")} | more
        return subprocess.run([sys.executable, "-c", script], capture_output=True, env=environ, check=True).stdout

    assert b"\x1b[" in run(TERM="xterm")
    assert b"\x1b[" not in run(TERM="xterm", NO_COLOR="1")
    assert b"\x1b[" not in run(TERM="dumb")


@pytest.mark.parametrize("arguments", [["list", "-a"], ["-v", "list", "-a"]], ids=["quick", "full"])
def test_a_reader_that_leaves_is_no_error(machine, arguments):
    """`moat list | head -1`: no traceback, no message, 141 as a shell has it."""
    for number in range(300):
        machine.add_run(f"fox-{number}", live=False, state=None, command=["x" * 500])
    process = subprocess.Popen(
        [sys.executable, "-m", "moat_core.cli", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline().startswith(b"NAME")
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert (process.wait(30), error) == (141, b"")


def test_a_full_disk_behind_stdout_is_said(machine):
    """/dev/full: one sentence and 125, no traceback."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "moat_core.cli", "list"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 125
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_an_encoding_without_our_characters_is_no_error(machine):
    """An ASCII terminal gets escapes."""
    machine.add_run("fox", command=["echo", "ünï"])
    environ = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-m", "moat_core.cli", "list"], capture_output=True, env=environ, check=True)
    assert rb"\xfcn\xef" in done.stdout


HEAVY = {"attrs", "attr", "click", "pluggy", "asyncio", "anyio", "yaml", "typing", "moat_core.types", "moat_core.api"}


def test_the_quick_way_imports_nothing_heavy(machine):
    """No attrs, click, pluggy or event loop for `moat list`, with a live run and its probe's own imports set aside."""
    machine.add_run("fox")
    script = (
        "import sys, types\n"
        "probe = types.ModuleType('probe')\n"
        "probe.states = lambda address, timeout_s, home: []\n"
        "sys.modules['fake_engine'] = probe\n"
        "from moat_core.cli.main import main\n"
        "status = main(['list'])\n"
        "print(sorted(sys.modules), file=sys.stderr)\n"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=True)
    assert set(ast.literal_eval(done.stderr)) & HEAVY == set()
    assert "fox" in done.stdout


ENGINE = """
import json, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
print("ready", flush=True)
connection, _ = server.accept()
connection.recv(65536)
item = {"Id": "c0", "Names": ["/x"], "State": "running", "Status": "Up", "Labels": json.loads(sys.argv[2])}
body = json.dumps([item])
connection.sendall(f"HTTP/1.0 200 OK\\r\\n\\r\\n{body}".encode())
connection.close()
"""


def test_the_docker_probe_imports_nothing_heavy(machine, tmp_path):
    """The engine's plugin is asked without running its package, which imports pluggy and attrs."""
    path = str(tmp_path / "socket")
    run_id = machine.add_run(
        "fox", address=f"unix://{path}", probe="moat_plugins.docker.probe:states", runtime="docker"
    )
    script = (
        "import sys\n"
        "from moat_core.cli.main import main\n"
        "status = main(['list'])\n"
        "print(sorted(sys.modules), file=sys.stderr)\n"
        "sys.exit(status)"
    )
    marks = {"moat.run-id": run_id, "moat.role": "main", "moat.name": "fox", "moat.oci-runtime": "runsc"}
    signed = json.dumps(labels.sign(Proof(os.environ["MOAT_HOME"]), "container", "x", marks))
    with subprocess.Popen([sys.executable, "-c", ENGINE, path, signed], stdout=subprocess.PIPE) as engine:
        assert engine.stdout.readline() == b"ready\n"
        done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=True)
    modules = set(ast.literal_eval(done.stderr))
    assert modules & (HEAVY - {"typing"}) == set()
    assert not any(name.startswith("moat_plugins.docker") for name in modules)
    assert "running" in done.stdout
    assert "runsc" in done.stdout


RUNS = [("run-aa000001", "fox", True), ("run-aa000002", "fox", False), ("run-ab000003", "owl", False),
        ("run-ab000004", "owl", False), ("run-ac000005", "cat", True), ("run-ad000006", "cat", True)]  # fmt: skip


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("run-aa000002", "run-aa000002"),
        ("run-aa", "run-aa000001"),  # the live one of two
        ("run-ac", "run-ac000005"),
        ("fox", "run-aa000001"),
        ("owl", "run-ab000003"),  # over, both: the newest, which comes first
        ("run-ab", "means several runs"),
        ("cat", "means several runs"),
        ("run-ffffffff", "There is no run"),
        ("owll", "Did you mean owl"),
        ("", "There is no run"),
        ("run-", "means several runs"),
    ],
)
def test_what_a_word_means(reference, expected):
    """An id, a unique prefix or a name; a live run before those that are over; never a guess."""
    try:
        found = match(RUNS, reference, key=lambda run: run[:2], is_live=lambda run: run[2])[0]
    except UnknownName as error:
        found = f"{error.message} {error.hint}"
    assert expected in found


@given(st.text(max_size=20).filter(lambda text: not text.startswith("run-")))
def test_no_other_word_means_a_run(reference):
    """Whatever is typed as RUN is exactly one, or named in one error."""
    known = {word for run in RUNS for word in run[:2]}
    with pytest.raises(UnknownName) if reference not in known else nullcontext():
        match(RUNS, reference, key=lambda run: run[:2], is_live=lambda run: run[2] and run[1] != "cat")


def test_json_errors_are_json_on_stderr(machine, moat):
    """With --json an error is an object, on stderr; stdout stays empty."""
    machine.home.make()
    Path(machine.home.database).write_bytes(b"no database" * 200)
    machine.stop_engine()
    result = moat("list", "--json")
    assert result.out == ""
    assert json.loads(result.err.splitlines()[-1])["error"]["code"] == "runtime-unavailable"


def test_fake_engine_is_the_plugin(machine, moat):
    """The tests speak to the module that moat has loaded."""
    assert sys.modules["fake_engine"] is fake_engine
