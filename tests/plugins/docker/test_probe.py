"""The quick look: light, and never fooled into a traceback."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading

import pytest

from moat_core.runtime.proof import Proof
from moat_plugins.docker import labels
from moat_plugins.docker.probe import states

MARKS = {"moat.run-id": "run-1", "moat.name": "fox", "moat.role": "main", "moat.oci-runtime": "runsc"}
ITEM = {
    "Id": "abc",
    "Names": ["/moat-run-1"],
    "Labels": MARKS,
    "State": "running",
    "Status": "Up 3 seconds",
}
BARE = """exec('''
from importlib.util import find_spec, module_from_spec
sys.modules["moat_plugins.docker"] = module_from_spec(find_spec("moat_plugins.docker"))
''')"""


@pytest.fixture
def serve(tmp_path):
    """Serve one connection with REPLY; returns its address."""
    threads, servers = [], []

    def start(reply):
        server = socket.socket(socket.AF_UNIX)
        path = tmp_path / f"{len(servers)}.sock"
        server.bind(str(path))
        server.listen()

        def work():
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(65536))
                connection.sendall(reply)

        thread = threading.Thread(target=work)
        thread.start()
        threads.append(thread)
        servers.append(server)
        return f"unix://{path}"

    asked = start.asked = []
    yield start
    for thread, server in zip(threads, servers, strict=True):
        thread.join(5)
        server.close()


def ok(items):
    return b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + json.dumps(items).encode()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, ("running", None)),
        ({"State": "created", "Status": "Created"}, ("starting", None)),
        ({"State": "paused", "Status": "Up 1 second (Paused)"}, ("paused", None)),
        ({"State": "exited", "Status": "Exited (137) 2 hours ago"}, ("exited", 137)),
        (
            {"State": "exited", "Status": "Exited (0) 2 hours ago", "Labels": {**MARKS, "moat.keep": "true"}},
            ("kept", 0),
        ),
        ({"State": "dead", "Status": "Dead"}, ("failed", None)),
        ({"State": "unheard of", "Status": ""}, ("failed", None)),
    ],
)
def test_states_are_read(serve, tmp_path, more, expected):
    """Each state of the engine's is one of ours; the exit code is in its words."""
    item = ITEM | more
    signed = labels.sign(Proof(tmp_path), "container", "moat-run-1", item["Labels"])
    address = serve(ok([item | {"Labels": signed}]))
    (state,) = states(address, 5, str(tmp_path))
    assert (state["state"], state["exit_code"]) == expected
    assert (state["run_id"], state["role"], state["name"], state["oci_runtime"], state["id"]) == (
        "run-1",
        "main",
        "fox",
        "runsc",
        "abc",
    )
    assert serve.asked[0].startswith(b"GET /containers/json?all=1&filters=%7B%22label%22%3A%5B%22moat.run-id%22%5D%7D ")


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.0 500 Broken\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\n\r\nnot json",
        b"HTTP/1.0 200 OK\r\n\r\n",
        ok([{}]),
        ok([5]),
        ok({"message": "no"}),
        ok([ITEM | {"Names": None}]),
        b"\xff" * 100,
    ],
    ids=range(9),
)
def test_anything_else_is_an_oserror(serve, tmp_path, reply):
    """Whatever answers there, a listing goes on without it."""
    with pytest.raises(OSError):  # noqa: PT011 - the contract is the class
        states(serve(reply), 5, str(tmp_path))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("moat-run-1", {labels.PROOF: "0" * 32}),
        ("moat-run-1", {labels.PROOF: ""}),
        ("moat-run-1", {labels.RUN_ID: "run-2"}),
        ("moat-run-1", {labels.ROLE: "other"}),
        ("moat-run-1", {labels.USER: "0:0"}),
        ("other", {}),
        ("MOAT-run-1", {}),
    ],
    ids=range(7),
)
def test_what_is_not_proven_is_not_ours(serve, tmp_path, name, change):
    """A copy of the labels under another name, or another claim beside the tag, is nobody's."""
    signed = labels.sign(Proof(tmp_path), "container", "moat-run-1", MARKS)
    address = serve(ok([ITEM | {"Names": [f"/{name}"], "Labels": {**signed, **change}}, ITEM | {"Labels": signed}]))
    assert [each["run_id"] for each in states(address, 5, str(tmp_path))] == ["run-1"]


def test_another_home_proves_nothing(serve, tmp_path):
    """Each has a key of its own; one that has none yet has made nothing, and is not made by a look."""
    (tmp_path / "a").mkdir()
    signed = labels.sign(Proof(tmp_path / "a"), "container", "moat-run-1", MARKS)
    assert states(serve(ok([ITEM | {"Labels": signed}])), 5, str(tmp_path / "b")) == []
    assert not (tmp_path / "b").exists()


def test_silence_has_a_deadline(tmp_path):
    """An engine that accepts and says nothing is given up."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        with pytest.raises(TimeoutError):
            states(f"unix://{tmp_path}/s", 0.05, str(tmp_path))


def test_absent_engine_is_an_oserror(tmp_path):
    """Nothing there is a connection error, as the contract says."""
    with pytest.raises(OSError):  # noqa: PT011
        states(f"unix://{tmp_path}/none", 1, str(tmp_path))


@pytest.mark.parametrize(
    ("start", "module", "heavy"),
    [
        (
            BARE,  # as `moat list` calls it: the package's hooks would bring pluggy and attrs
            "moat_plugins.docker.probe",
            {"asyncio", "http.client", "ssl", "email", "attrs", "attr", "anyio", "urllib.parse"},
        ),
        ("pass", "moat_plugins.docker", {"asyncio", "anyio", "aiodocker", "aiohttp"}),
        ("pass", "moat_plugins.docker.resources", {"aiodocker", "aiohttp"}),
    ],
)
def test_imports_are_light(start, module, heavy):
    """What every command imports brings none of the heavy modules with it."""
    code = f"import sys; before = set(sys.modules); {start}; import {module}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())
