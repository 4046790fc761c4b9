"""The quick look: light, and never fooled into a traceback."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading

import pytest

from moat_plugins.docker.probe import states

ITEM = {
    "Id": "abc",
    "Labels": {"moat.run-id": "run-1", "moat.name": "fox", "moat.oci-runtime": "runsc"},
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
            {"State": "exited", "Status": "Exited (0) 2 hours ago", "Labels": {**ITEM["Labels"], "moat.keep": "true"}},
            ("kept", 0),
        ),
        ({"State": "dead", "Status": "Dead"}, ("failed", None)),
        ({"State": "unheard of", "Status": ""}, ("failed", None)),
    ],
)
def test_states_are_read(serve, more, expected):
    """Each state of the engine's is one of ours; the exit code is in its words."""
    address = serve(ok([ITEM | more]))
    (state,) = states(address, 5)
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
        ok([ITEM | {"Labels": None}]),
        b"\xff" * 100,
    ],
    ids=range(9),
)
def test_anything_else_is_an_oserror(serve, reply):
    """Whatever answers there, a listing goes on without it."""
    with pytest.raises(OSError):  # noqa: PT011 - the contract is the class
        states(serve(reply), 5)


def test_silence_has_a_deadline(tmp_path):
    """An engine that accepts and says nothing is given up."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        with pytest.raises(TimeoutError):
            states(f"unix://{tmp_path}/s", 0.05)


def test_absent_engine_is_an_oserror(tmp_path):
    """Nothing there is a connection error, as the contract says."""
    with pytest.raises(OSError):  # noqa: PT011
        states(f"unix://{tmp_path}/none", 1)


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
