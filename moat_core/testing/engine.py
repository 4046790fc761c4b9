"""A container engine made of files in one folder, so that every process sees the same one.

A reaper in another process finds what a killed owner left, as it would on a real engine. What it shall answer, and
when it shall misbehave, is written into the folder by the test; what was asked of it is read from there. It runs
nothing. Stdlib only: the quick listing's probe imports this.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ADDRESS_VARIABLE", "FakeEngine", "Fault", "Reply"]

ADDRESS_VARIABLE = "MOAT_FAKE_ENGINE"
"""The environment variable that names the folder: where the runtime ``fake`` finds its engine."""

Fault = Literal["refuse", "hang", "lose", "late"]
"""What becomes of a call: it is refused; it is not done and not answered; it is done and not answered; what it makes
appears a second later, when its client has long given up (or died)."""

Kind = Literal["containers", "networks"]
LATE_S = 1.0


class Reply:
    """What a command does.

    Args:
        argv: The beginning of the commands that are meant; ``()`` is all.
        hangs: It does not end by itself.
    """

    def __init__(
        self,
        argv: Sequence[str] = (),
        *,
        stdout: bytes = b"",
        stderr: bytes = b"",
        exit_code: int = 0,
        hangs: bool = False,
    ) -> None:
        self.argv = tuple(argv)
        self.stdout = stdout
        self.stderr = stderr
        self.exit_code = exit_code
        self.hangs = hangs

    def to_json(self) -> dict[str, Any]:
        """Return the fields, bytes in base64."""
        streams = {name: base64.b64encode(getattr(self, name)).decode() for name in ("stdout", "stderr")}
        return {"argv": self.argv, "exit_code": self.exit_code, "hangs": self.hangs, **streams}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Reply:
        """Undo `to_json`."""
        streams = {name: base64.b64decode(data[name]) for name in ("stdout", "stderr")}
        return cls(data["argv"], exit_code=data["exit_code"], hangs=data["hangs"], **streams)


class FakeEngine:
    """The engine in FOLDER, which is made if it is missing.

    Used by tests to look and to script, by `moat_core.testing.fakes.FakeRuntime` to do.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = os.fspath(folder)
        for kind in ("containers", "networks"):
            os.makedirs(os.path.join(self.folder, kind), exist_ok=True)

    # -- what there is -----------------------------------------------------------------------------------------

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return every container by name: its ``run_id``, ``state``, ``exit_code``, ``command`` and so on."""
        return self._objects("containers")

    def networks(self) -> dict[str, dict[str, Any]]:
        """Return every network by name."""
        return self._objects("networks")

    def left(self) -> list[str]:
        """Return the names of everything there is."""
        return [*self.containers(), *self.networks()]

    # -- what was asked of it ----------------------------------------------------------------------------------

    def calls(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return every call so far, in order, or those called NAME: dicts with ``call``, ``pid`` and its arguments."""
        try:
            with open(self._path("calls.jsonl"), encoding="utf-8") as file:
                calls = [json.loads(line) for line in file]
        except FileNotFoundError:
            return []
        return [call for call in calls if name in {None, call["call"]}]

    def commands(self) -> list[tuple[str, ...]]:
        """Return the argv of every command that was run by ``exec``, in order."""
        return [tuple(call["argv"]) for call in self.calls("exec")]

    # -- what it shall do --------------------------------------------------------------------------------------

    def reply(self, argv: Sequence[str] = (), **what: Any) -> None:
        """Say what commands beginning with ARGV do, see `Reply`. A later word wins; unless told, all end well."""
        script = self._script()
        script["replies"].insert(0, Reply(argv, **what).to_json())
        self._write("script.json", script)

    def misbehave(self, how: Fault, *, at: int | None = None, call: str | None = None, onwards: bool = False) -> None:
        """Have a call go wrong.

        Args:
            how: See `Fault`.
            at: Which one: 1 is the first call of this process. ``None``: every one that ``call`` names.
            call: Which kind of call; ``None`` is any.
            onwards: Those after it, too.
        """
        assert how in get_args(Fault)
        script = self._script()
        script["faults"].append({"how": how, "at": at, "call": call, "onwards": onwards, "pid": os.getpid()})
        self._write("script.json", script)

    def behave(self) -> None:
        """Forget every fault."""
        self._write("script.json", self._script() | {"faults": []})

    def set_timeout(self, timeout_s: float) -> None:
        """Set how long a client waits for an answer before it gives up; 0.2 s unless told."""
        self._write("script.json", self._script() | {"timeout_s": timeout_s})

    def go_down(self) -> None:
        """Answer nobody any more, until `come_up`."""
        self._write("down", {})

    def come_up(self) -> None:
        """Answer again."""
        os.unlink(self._path("down"))

    def end(self, container: str, exit_code: int = 0) -> None:
        """Let a container's main process end."""
        self.change("containers", container, state="exited", exit_code=exit_code)

    # -- for the runtime ---------------------------------------------------------------------------------------

    @property
    def is_down(self) -> bool:
        """Whether nobody is answered."""
        return os.path.exists(self._path("down"))

    @property
    def timeout_s(self) -> float:
        """How long a client waits."""
        return float(self._script()["timeout_s"])

    def record(self, call: str, data: dict[str, Any]) -> Fault | None:
        """Write a call down and return what shall become of it."""
        line = json.dumps({"call": call, "pid": os.getpid(), **data}) + "\n"
        fd = os.open(self._path("calls.jsonl"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)
        faults = self._script()["faults"]
        calls = self.calls() if faults else []
        for fault in faults:
            # What another process (a reaper) asks meanwhile does not count; from the fault on it is met by everybody.
            number = sum(each["pid"] == fault["pid"] for each in calls)
            is_it = number == fault["at"] and os.getpid() == fault["pid"]
            is_after = fault["onwards"] and number >= (fault["at"] or 0)
            if fault["call"] in {None, call} and (fault["at"] is None or is_it or is_after):
                how: Fault = fault["how"]
                return how
        return None

    def find_reply(self, argv: Sequence[str]) -> Reply:
        """Return what a command shall do."""
        for data in self._script()["replies"]:
            if list(argv[: len(data["argv"])]) == data["argv"]:
                return Reply.from_json(data)
        return Reply()

    def make(self, kind: Kind, name: str, data: dict[str, Any], *, late: bool = False) -> None:
        """Make an object; LATE in a process of its own, which outlives ours."""
        if name in self._objects(kind):
            raise FileExistsError(name)
        self._write(os.path.join(kind, name + ".new"), data)
        new, final = self._path(kind, name + ".new"), self._path(kind, name + ".json")
        if late:
            script = '(sleep "$1"; mv "$2" "$3") >/dev/null 2>&1 &'
            subprocess.run(["/bin/sh", "-c", script, "late", str(LATE_S), new, final], check=True)
        else:
            os.replace(new, final)

    def change(self, kind: Kind, name: str, **data: Any) -> None:
        """Change an object that is there."""
        self._write(os.path.join(kind, name + ".json"), self._objects(kind)[name] | data)

    def remove(self, kind: Kind, name: str) -> bool:
        """Remove an object; return whether it was there."""
        try:
            os.unlink(self._path(kind, name + ".json"))
        except FileNotFoundError:
            return False
        return True

    # -- plumbing ----------------------------------------------------------------------------------------------

    def _path(self, *parts: str) -> str:
        return os.path.join(self.folder, *parts)

    def _script(self) -> dict[str, Any]:
        script = {"replies": [], "faults": [], "timeout_s": 0.2}
        return script | (self._read("script.json") or {})

    def _objects(self, kind: Kind) -> dict[str, dict[str, Any]]:
        names = sorted(name for name in os.listdir(self._path(kind)) if name.endswith(".json"))
        found = {name.removesuffix(".json"): self._read(os.path.join(kind, name)) for name in names}
        return {name: data for name, data in found.items() if data is not None}

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            with open(self._path(name), encoding="utf-8") as file:
                data: dict[str, Any] = json.load(file)
                return data
        except FileNotFoundError:
            return None

    def _write(self, name: str, data: dict[str, Any]) -> None:
        temporary = self._path(f"{name}.{os.getpid()}")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(data, file)
        os.replace(temporary, self._path(name))
