"""Attacks on the owner's memory and disk through the guard, which is in a process of its own here.

Each asks for as much as it can at once and takes none of the answers. What the guard ever held is the kernel's word.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
import tracemalloc
from contextlib import asynccontextmanager
from pathlib import Path

from attack import attack
from guarded import MARKS, OWN, make_scope, open_guard
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import WindowUpdated

from moat_plugins.docker.client import Engine as DockerEngine
from moat_plugins.docker_host import names as names_module
from moat_plugins.docker_host.names import Names
from moat_plugins.docker_host.policy import verdict

BOUND_MIB = 200
"""An idle guard takes 50; its budget is 64, and each of a hundred connections may hold some pieces."""
CHILD = Path(__file__).parents[2] / "support/guard_process.py"
LONG = json.dumps({**MARKS, "x": "y" * 700_000}).encode()
EMPTY = b",".join([b"[]"] * 20_000)
MARKED = json.dumps(MARKS).encode()
BODY = json.dumps({"Image": "abc", "Env": ["aa"] * 150_000}, separators=(",", ":")).encode()


def listed(begin, item, count, end):
    yield begin
    for number in range(count):
        yield (b"," if number else b"") + item
    yield end


def get(path):
    return f"GET /v1.45{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def post(path, body):
    return f"POST /v1.45{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


VOLUME = b'{"Name":"v","Labels":' + LONG + b"}"
ROWS = {
    "volumes with long labels": (get("/volumes"), 20, lambda: listed(b'{"Volumes":[', VOLUME, 30, b'],"Warnings":[]}')),
    "one volume without end": (get("/volumes"), 20, lambda: listed(b'{"Volumes":[{"Labels":{"x":"', LONG[200:-2], 40, b'"}}]}')),
    "a machine of many words": (get("/info"), 20, lambda: listed(b'{"ID":"', b"z" * 65_000, 400, b'"}')),
    "a container of many words": (
        get(f"/containers/{OWN}/json"),
        20,
        lambda: listed(b'{"Id":"x","Config":{"Labels":' + MARKED + b'},"Args":[', EMPTY, 100, b"]}"),
    ),
    "an answer of many words": (post("/volumes/create", b"{}"), 20, lambda: listed(b'{"Name":"', b"z" * 65_000, 400, b'"}')),
    "bodies that wait for the engine": (post("/containers/create", BODY), 100, None),
    "bodies that do not end": (post("/containers/create", b'{"Image":"' + b"z" * 1_040_000)[:-9] + b"", 180, None),
    "messages of builds": ("grpc", 60, None),
}  # fmt: skip


class Engine:
    """Answers everything with what the row says, or, without that, never."""

    def __init__(self, make):
        self._make = make

    async def __call__(self, reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"h2c" in head:
                writer.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
            if b"_ping" in head:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")
            elif self._make is not None:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for piece in self._make():
                    writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                    await writer.drain()
                writer.write(b"0\r\n\r\n")
            await reader.read()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def guard_process(tmp_path, make, mode):
    """A guard in front of an engine that answers as MAKE says: ``(socket, process)``."""
    folder = tmp_path / "guard"
    folder.mkdir()
    server = await asyncio.start_unix_server(Engine(make), tmp_path / "engine")
    child = await asyncio.create_subprocess_exec(
        sys.executable, CHILD, tmp_path / "engine", folder, mode,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env={"PYTHONPATH": str(CHILD.parent)},
    )  # fmt: skip
    try:
        assert await asyncio.wait_for(child.stdout.readline(), 30) == b"listening\n"
        yield folder / "docker.sock", child
    finally:
        child.kill()
        await child.wait()
        server.close()


def peak_mib(process):
    """The most that PROCESS ever held (proc(5), VmHWM)."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    return 0


async def knock(path, row):
    """Ask, and take no answer; what cannot be sent any more is not wanted."""
    reader, writer = await asyncio.open_unix_connection(path, limit=1024)
    try:
        if row == "grpc":
            await send_messages(reader, writer)
        else:
            writer.write(row)
            await writer.drain()
        await asyncio.Event().wait()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.transport.abort()


async def send_messages(reader, writer):
    """Begin eight builds whose messages never end."""
    writer.write(b"POST /v1.45/grpc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    http = H2Connection(H2Configuration(header_encoding=None))
    http.initiate_connection()
    left = dict.fromkeys(range(1, 17, 2), 1_000_000)
    for number in left:
        path = "/moby.buildkit.v1.Control/Solve"
        http.send_headers(number, [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x")])
    while True:
        for number in left:
            while left[number] and (room := min(http.local_flow_control_window(number), 16_384, left[number])) > 0:
                http.send_data(number, bytes(room))
                left[number] -= room
        writer.write(http.data_to_send())
        await writer.drain()
        if not any(isinstance(event, WindowUpdated) for event in http.receive_data(await reader.read(65_536))):
            await asyncio.sleep(0)


async def still_answers(path):
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await asyncio.wait_for(reader.readline(), 90)
    writer.close()
    return b" 200 " in head


@attack("the owner's memory through the guard", ROWS)
async def test_the_owners_memory(row, defended, tmp_path):
    """Everything at once; what it held is judged, and whether it goes on serving."""
    request, count, make = row
    async with guard_process(tmp_path, make, "defended" if defended else "control") as (path, child):
        knocking = [asyncio.create_task(knock(path, request)) for _ in range(count)]
        deadline = time.monotonic() + (4 if defended else 60)
        while peak_mib(child) <= BOUND_MIB and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        peak = peak_mib(child)
        for task in knocking:
            task.cancel()
        await asyncio.wait(knocking)
        if defended:
            assert await still_answers(path)
        return f"{peak} MiB" if peak > BOUND_MIB else ""


@attack("files under MOAT_HOME")
def test_files_of_containers_that_are_never_made(defended, tmp_path, monkeypatch):
    """Each attempt leaves two files for its names, whatever the engine says to it."""
    if not defended:
        monkeypatch.setattr(Names, "_make_room", lambda _: None)
    names = Names(str(tmp_path), ["192.0.2.1"])
    monkeypatch.setattr(names_module, "_MOST_FILES", 100)
    for _ in range(500):
        try:
            names.add_to({"Labels": {}, "HostConfig": {}})
        except verdict.Refused:
            pass
    return len(list(tmp_path.iterdir())) > 100


WORDS = {
    "a label": ("POST", "/v1.45/volumes/create", {"Labels": {"moat." + "x" * 900_000: "y"}}),
    "a field": ("POST", "/v1.45/containers/create", {"HostConfig": {"y" * 900_000: True}}),
    "a method": ("M" * 30_000, "/v1.45/x", None),
    "a device": ("POST", "/v1.45/containers/create", {"HostConfig": {"NetworkMode": "host", "x" * 900_000: {}}}),
}


@attack("files under MOAT_HOME", {"words of refusals": WORDS})
async def test_words_of_refusals(row, defended, monkeypatch):
    """What a refusal is told with is stored a thousand times."""
    if not defended:
        monkeypatch.setattr(verdict, "_LONGEST", 1 << 40)
    told = []
    async with open_guard(make_scope()) as (connect, _, refusals):
        for method, path, body in row.values():
            data = b"" if body is None else json.dumps(body).encode()
            stream = connect()
            await stream.send(
                f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
            )
            answer = b""
            while b"}\n" not in answer:
                answer += await stream.receive()
            told.append(len(answer))
        assert refusals
    return max(told) > 3000


@attack("memory at the end", ["volumes", "containers"])
async def test_what_a_run_left_is_listed_by_who_cleans_up(row, defended, engine, monkeypatch):
    """As many objects as the engine has, each with as much label as the guard lets through: held at once by us."""
    if not defended:
        monkeypatch.setattr("moat_plugins.docker.client._keep_ours", lambda item: item)
    mark = secrets.token_hex(8)
    filled = {"moat-test": mark, **{f"k{number}": "z" * 60_000 for number in range(15)}}
    made = await DockerEngine.connect(engine)
    identities = []
    try:
        for _ in range(24):
            if row == "volumes":
                identities.append((await made.volumes.create(secrets.token_hex(8), filled))["Name"])
            else:
                body = {"Image": "debian:bookworm-slim", "Labels": filled}
                found = await made.call("create it", "POST", "/containers/create", body=body)
                identities.append(found["Id"])
        tracemalloc.start()
        found = await getattr(made, row).list_labelled(f"moat-test={mark}")
        peak = tracemalloc.get_traced_memory()[1]
        assert len(found) == 24
        return peak > 12 << 20 and f"{peak >> 20} MiB"
    finally:
        tracemalloc.stop()
        for identity in identities:
            await getattr(made, row).remove(identity)
        await made.aclose()
