"""Every argument of every public method passes the border: hostile values are errors of ours, and nothing is made.

The table is driven by the signatures: a new argument fails here until it says what may not be given for it.
"""

from __future__ import annotations

import inspect
import pathlib

import pytest

from moat_core import Moat, RunHandle
from moat_core.api import AttachedRun
from moat_core.errors import InvalidType, InvalidValue, MoatError, UsageError
from moat_core.plan import RunRequest

NAN, INFINITY = float("nan"), float("inf")
PATH = [None, 5, "a\0b", b"a\0b", pathlib.Path("a\0"), bytearray(b"x"), ["x"], "\ud800"]
SECONDS = [NAN, INFINITY, -1, "1", True, 10**400]
COUNT = [-1, 1.5, NAN, "1", True, None, 2**63]
FLAG = [1, 0, "no", b""]
NAME = [5, b"x", "a\0b", ["x"], "\ud800"]
ENV = [{"A=B": "c"}, {"": "c"}, {"A\0": "c"}, {"A": "\0"}, {"A": None}, {"A": 1}, {1: "c"}, ["A=B"], "A=B", 5]
ARGV = [None, "ls", b"ls", 5, [], [""], ["ls", None], ["ls", "\0"], {"ls": 1}, ["ls", "x" * 200_000]]
CONTENT = [5, [1], "\ud800", object()]
LIST = ["x", b"x", 5, {"a": 1}]
CALLABLE: list[object] = []  # called by us, never passed on

HOSTILE = {
    "argv": ARGV, "env": ENV, "cwd": PATH[1:], "user": [0, "a b", "a\0", "", "1:2:3", "root\n"],
    "timeout_s": SECONDS, "limit_bytes": COUNT, "check": [*FLAG, None], "tty": [*FLAG, None],
    "size": [5, (1,), (-1, 2), (1, 2.5), (1, 70_000), "ab"], "path": PATH, "source": PATH, "target": PATH,
    "data": [None, *CONTENT], "grace_s": [*SECONDS, None], "endpoint": [*NAME, None, "nowhere"],
    "reference": [*NAME, None, "nobody", ""], "run_id": [*NAME, None, "../x", "run-1"], "tail": [-1, 1.5, True, "1"],
    "home": PATH[1:], "without": LIST, "plugins": [["x"], "x", {1: object()}], "keep_going": FLAG, "workspace": PATH,
    "config": [5, ["x"], True, "", "a\0b"], "folder": PATH, "options": [5, "x", {"a": 5}, {1: {}}], "command": [["ls", 5], "ls", b"ls", 5, ["ls", "\0"], {"ls": 1}],
}  # fmt: skip
OF_METHOD = {
    # where an argument of that name means something else
    ("exec", "stdin"): CONTENT,
    ("start", "stdin"): [*FLAG, None],
}
FREE = {
    # argument -> why nothing is to be checked
    "on_output": "called", "on_event": "called", "listener": "called", "on_warning": "called", "request": "a RunRequest",
    "plan": "a Plan", "trust": "called", "info": "a RunInfo", "arguments": "those of RunRequest",
    "owner_kind": "a constant of the program", "over": "only whether", "automatic": "only whether",
    "make": "of the library itself", "name": "of the library itself", "sandbox": "of the library itself",
    "kind": "of an exception", "error": "of an exception", "trace": "of an exception",
}  # fmt: skip

REQUEST = {
    "workspace": PATH, "command": HOSTILE["command"], "hold": [*FLAG, None], "name": NAME,
    "env": [{"A": "\0"}, {"A": None}, {1: "c"}, ["A=B"], 5, {"A\0": "x"}], "mounts": [*LIST, ["/a\0:/b"], [("/a", "/b")], [5]],
    "ports": [{"web": "80"}, {"web": True}, {"web": 1.5}, {1: 80}, ["web"], 5], "dependencies": [*LIST, [5], ["a\0"]],
    "base_image": NAME, "runtime": NAME, "sandbox": FLAG, "interactive": [*FLAG, None], "tty": [*FLAG, None],
    "size": HOSTILE["size"], "keep": [*FLAG, None], "rebuild": [*FLAG, None], "timeout_s": [*SECONDS, 0],
    "options": [5, "x", {"a": 5}, {1: {}}], "run_id": HOSTILE["run_id"], "config": HOSTILE["config"],
}  # fmt: skip


def public(cls):
    """Return (method, argument) of all that a user of CLS may call."""
    methods = [("__init__", cls.__init__)] if cls is Moat else []
    methods += [(name, each) for name, each in inspect.getmembers(cls, inspect.isfunction) if not name.startswith("_")]
    return [
        (name, argument)
        for name, each in methods
        for argument in list(inspect.signature(each).parameters)[1:]
    ]  # fmt: skip


def values(method, argument):
    return OF_METHOD.get((method, argument), HOSTILE.get(argument, []))


ALL = sorted({*public(Moat), *public(RunHandle), *public(AttachedRun)})


def test_every_argument_is_in_the_table():
    """One way or the other."""
    unknown = [
        f"{method}({argument})"
        for method, argument in ALL
        if argument not in FREE and argument not in HOSTILE and (method, argument) not in OF_METHOD
    ]
    assert unknown == []
    assert set(REQUEST) == set(inspect.signature(RunRequest).parameters)


VALID = {
    "exec": {"argv": ["true"]},
    "start": {"argv": ["true"]},
    "read": {"path": "/f"},
    "write": {"path": "/f", "data": b""},
    "upload": {"source": "/etc/hostname", "target": "/f"},
    "download": {"source": "/f", "target": "down"},
    "stop": {},
    "url": {},
    "address": {},
    "config": {"folder": "."},
    "log": {"run_id": "run-00000000"},
}


@pytest.mark.parametrize(
    ("method", "argument"),
    [(m, a) for m, a in public(RunHandle) if values(m, a)],
    ids=lambda value: value,
)
async def test_what_is_done_inside_a_run(moat, method, argument):
    """Nothing reaches the engine, and nothing appears on the host."""

    async def body(run):
        before = len(moat.engine.calls())
        for value in values(method, argument):
            arguments = VALID[method] | {argument: value}
            with pytest.raises(UsageError if method not in {"write", "exec"} else (UsageError, UnicodeEncodeError)):
                if method == "start":
                    async with run.start(**arguments):
                        pass
                else:
                    made = getattr(run, method)(**arguments)
                    if inspect.isawaitable(made):
                        await made
        assert moat.engine.calls()[before:] == []

    record = await moat.run(body)
    assert record.result.outcome.status == "finished"
    assert not pathlib.Path("down").exists()


@pytest.mark.parametrize("argument", sorted(REQUEST))
def test_what_a_run_may_be_asked_for(moat, argument):
    """It cannot even be asked for."""
    library = Moat(home=moat.home.path)
    for value in REQUEST[argument]:
        arguments = {"workspace": "."} | {argument: value}
        with pytest.raises((InvalidType, InvalidValue)):
            library.request(**arguments)


@pytest.mark.parametrize(
    ("method", "argument"), [(m, a) for m, a in public(Moat) if values(m, a)], ids=lambda value: value
)
async def test_what_a_moat_is_asked(moat, method, argument):
    """An error of ours, and no state is made."""
    async with Moat(home=moat.home.path) as library:
        for value in values(method, argument):
            with pytest.raises(MoatError):
                if method == "__init__":
                    Moat(**{argument: value})
                else:
                    made = getattr(library, method)(**VALID.get(method, {}) | {argument: value})
                    if inspect.isawaitable(made):
                        await made
    assert moat.left() == []
