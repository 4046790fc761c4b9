"""A plugin with a runtime whose engine is a JSON file, so that the probe, the library and other processes agree."""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import attrs

from moat_core.errors import EngineError, RuntimeUnavailable, SandboxGone
from moat_core.hooks import hookimpl
from moat_core.ledger import Resource
from moat_core.runtime.base import Process, Runtime, RuntimeInfo, Sandbox, SandboxInfo
from moat_core.types import Check, Leftover, Output, RunState, StatusLine

NAME = "fake"
on_stop = []
"""Called with the run's id when its container is stopped: what its owner would do."""


def load():
    """What the engine holds; ConnectionRefusedError if it is down."""
    path = os.environ["FAKE_ENGINE"]
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise ConnectionRefusedError(f"nothing answers at {path}") from None


def save(state):
    Path(os.environ["FAKE_ENGINE"]).write_text(json.dumps(state))


def states(address, timeout_s, home):
    """The probe."""
    assert timeout_s > 0
    with Path(os.environ["FAKE_ENGINE"] + ".probed").open("a") as file:
        file.write(address + "\n")
    return load()["sandboxes"]


class FakeRuntime(Runtime):
    name = NAME

    def __init__(self, address):
        self.address = address

    @classmethod
    async def connect(cls, address):
        try:
            load()
        except OSError as error:
            raise RuntimeUnavailable(f"No fake engine answers: {error}.", hint="Start the fake engine.") from error
        return cls(address)

    @classmethod
    def find_address(cls):
        return "fake://"

    async def aclose(self):
        pass

    async def find_sandboxes(self, run_id=None):
        found = [_info(each) for each in load()["sandboxes"]]
        return [info for info in found if run_id in (None, info.run_id)]

    async def get_sandbox(self, info):
        return FakeSandbox(info)


def _info(each):
    keys = ("id", "run_id", "role", "name", "oci_runtime", "exit_code")
    return SandboxInfo(**{key: each[key] for key in keys}, state=RunState(each["state"]))


class FakeSandbox(Sandbox):
    def __init__(self, info):
        self.info = info

    @asynccontextmanager
    async def open_process(self, command):
        process = FakeProcess(command)
        try:
            yield process
        finally:
            state = load()
            state["ended"] = [*state.get("ended", []), {"argv": list(command.argv), "done": process.done}]
            save(state)

    def open_main(self):
        raise NotImplementedError

    async def wait(self):
        return self.info

    async def refresh(self):
        return self.info

    async def stop(self, grace_s):
        state = load()
        if state.get("refuses"):
            raise EngineError("The fake engine refuses to stop it.", status=500, hint="Ask again.")
        for each in state["sandboxes"]:
            if each["run_id"] == self.info.run_id:
                each["state"] = "exited"
        state["stopped"] = [*state.get("stopped", []), [self.info.run_id, grace_s]]
        save(state)
        for call in tuple(on_stop):
            call(self.info.run_id)

    def logs(self, *, tail, follow):
        raise NotImplementedError


class FakeProcess(Process):
    """Says what it was asked for, on both streams; the program ``code`` ends with its argument, ``hang`` never."""

    def __init__(self, command):
        self._command = command
        self.done = False

    async def __aiter__(self):
        import anyio

        command = self._command
        if command.argv[0] == "hang":
            yield Output("stdout", b"hanging\n")
            await anyio.sleep_forever()
        if command.argv[0] == "gone":
            raise SandboxGone("The container went away.", hint="It was stopped.")
        said = {"argv": command.argv, "env": dict(command.env), "cwd": command.cwd, "user": command.user}
        yield Output("stdout", json.dumps(said).encode())
        yield Output("stderr", b"\xff\x00 no newline")

    async def write(self, data):
        pass

    async def close_stdin(self):
        pass

    async def resize(self, rows, columns):
        pass

    async def signal(self, number):
        pass

    async def wait(self):
        self.done = True
        return int(self._command.argv[1]) if self._command.argv[0] == "code" else 0


@attrs.frozen
class Thing(Resource):
    """Something that the engine holds, by its name."""

    kind: ClassVar[str] = "fake.thing"
    name: str

    async def create(self, ctx):
        raise NotImplementedError

    async def release(self, ctx):
        await ctx.connection(FakeRuntime, "fake://")
        state = load()
        if self.name in state.get("stuck", []):
            raise EngineError(f"{self.name} is busy.", status=409, hint="Let go of it.")
        found = self.name in state["things"]
        state["things"] = [name for name in state["things"] if name != self.name]
        state["sandboxes"] = [each for each in state["sandboxes"] if each["id"] != self.name]
        state["leftovers"] = [each for each in state.get("leftovers", []) if each["name"] != self.name]
        for each in state.get("then", {}).pop(self.name, []):
            state["leftovers"].append(each)
        save(state)
        return found


@hookimpl
def moat_register_runtimes():
    return [RuntimeInfo(NAME, "fake_engine:FakeRuntime", "for tests", "fake_quick.probe:states")]


@hookimpl
def moat_register_resources():
    return [Thing]


@hookimpl
async def moat_find_leftovers(upkeep):
    await upkeep.connection(FakeRuntime, "fake://")
    return [
        Leftover(**{**each, "resource": Thing(each["name"])})
        for each in load().get("leftovers", [])
        if not (each.get("run_id") and upkeep.is_live(each["run_id"]))
    ]


@hookimpl
async def moat_find_faults(upkeep):
    try:
        load()
    except OSError as error:
        return [Check("fake engine", "error", f"It does not answer: {error}.", "fake-engine start")]
    return [Check("fake engine", "ok", "It answers."), Check("fake disk", "warning", "It is nearly full.", "clean it")]


@hookimpl
async def moat_add_to_status(upkeep):
    await upkeep.connection(FakeRuntime, "fake://")
    return [
        StatusLine("images", "moat/run:\x1b[31mred", "12 MB", {"size_bytes": 12_000_000}),
        StatusLine("networks", "moat", "shared by runs", {"id": "n1"}),
    ]
