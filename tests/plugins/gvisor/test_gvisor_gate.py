"""When a run opens: every answer that an engine may give about gVisor."""

from __future__ import annotations

from types import SimpleNamespace

import attrs
import pytest

from moat_core.errors import EngineError, HookFailed, SandboxUnavailable
from moat_core.lifecycle import Outcome
from moat_core.runtime.base import OciRuntimes
from moat_plugins import gvisor
from moat_plugins.gvisor.doctor import check_age, check_options, find_faults
from moat_plugins.gvisor.explain import explain
from moat_plugins.gvisor.gate import pass_gate
from moat_plugins.gvisor.intent import CHECK_STEP

LINUX = OciRuntimes(("runc", "runsc"), "runc", "linux")

# Said by Docker 26.1 with runsc 20240729, tried out.
BROKEN = {
    'starting container: setting up network: creating interfaces from net namespace "/proc/8/ns/net": '
    "cannot run with network enabled in root network namespace: unknown": "too old for the host's kernel",
    "failed to create shim task: OCI runtime create failed: unable to retrieve OCI runtime error (open "
    "/x/log.json: no such file or directory): fork/exec /nowhere/runsc: no such file or directory": "is not there",
    "unable to retrieve OCI runtime error (open /x/log.json: no such file or directory): fork/exec "
    "/etc/hostname: exec format error: unknown": "cannot be executed",
    "unable to retrieve OCI runtime error (open /x/log.json: no such file or directory): "
    "/data/runtimes/runsc-flag.QG==== did not terminate successfully: exit status 2: unknown": "does not know",
    "OCI runtime create failed: unknown platform: nope: unknown": "does not know",
    "unknown or invalid runtime name: runsc": "gone now",
    "cannot read client sync file: waiting for sandbox to start: EOF": "cannot start",
}
NOT_ABOUT_RUNSC = [
    "",
    'starting container: failed to find initial process "/bin/sh": no such file or directory',
    'invalid mount config for type "bind": bind source path does not exist: /gone',
    "driver failed programming external connectivity: port is already allocated",
]


class FakeRuntime:
    """Answers as told, and counts."""

    def __init__(self, known):
        self.known = known
        self.asked = 0

    async def oci_runtimes(self):
        self.asked += 1
        return self.known


class FakeRun:
    """The part of a run that the gate uses."""

    def __init__(self, plan, known):
        self.plan = plan
        self.engine = FakeRuntime(known)
        self.outcome = None

    async def runtime(self):
        return self.engine

    def replace_plan(self, plan):
        self.plan = plan


@pytest.fixture
def opened(planned):
    def make(known, **request):
        return FakeRun(planned(gvisor, **request).freeze(), known)

    return make


async def test_registered_is_let_through(opened):
    """An engine that has runsc opens the run with the plan as it is."""
    run = opened(LINUX)
    before = run.plan
    async with pass_gate(run):
        assert run.plan is before
    assert run.engine.asked == 1


@pytest.mark.parametrize("known", [OciRuntimes(("runc",), "runc"), OciRuntimes((), ""), None])
async def test_missing_is_an_error_with_the_way_out(opened, known):
    """Not installed: nothing is opened, and the hint has both the commands and the way round."""
    with pytest.raises(SandboxUnavailable) as caught:
        async with pass_gate(opened(known)):
            pytest.fail("it opened")
    hint = caught.value.hint
    assert all(way in hint for way in ("--no-sandbox", "sandbox: none", "MOAT_NO_SANDBOX=1"))
    if known is not None:
        assert "runsc install" in hint
        assert "apt-get install" in hint


@pytest.mark.parametrize("known", [attrs.evolve(LINUX, is_desktop=True), attrs.evolve(LINUX, engine_os="windows")])
async def test_desktop_goes_without_a_word(opened, known):
    """On a desktop's engine the plan loses gVisor, its steps and its name servers, without a warning."""
    run = opened(known)
    async with pass_gate(run):
        plan = run.plan
    assert (plan.oci_runtime, plan.sandboxed, plan.dns, plan.init_steps) == (None, False, (), ())
    assert plan.warnings == ()


async def test_desktop_keeps_servers_of_the_config(opened):
    """Name servers that the user named stay."""
    run = opened(attrs.evolve(LINUX, is_desktop=True), text="container: {dns: [192.0.2.7]}")
    async with pass_gate(run):
        assert run.plan.dns == ("192.0.2.7",)


@pytest.mark.parametrize("wish", [{"sandbox": True}, {"text": "sandbox: gvisor"}])
async def test_desktop_refuses_who_insists(opened, wish):
    """Whoever insists on gVisor is told that it cannot be had."""
    with pytest.raises(SandboxUnavailable):
        async with pass_gate(opened(attrs.evolve(LINUX, is_desktop=True), **wish)):
            pytest.fail("it opened")


@pytest.mark.parametrize(("said", "expected"), BROKEN.items())
async def test_a_failed_start_is_explained(opened, said, expected):
    """What runsc's failures mean is the error's message; the engine's words are kept, also behind a HookFailed."""
    run = opened(LINUX)
    error = EngineError("The Docker engine cannot start the container.", engine_message=said)
    wrapped = HookFailed("Plugin 'docker' failed.")
    wrapped.__cause__ = error
    async with pass_gate(run):
        run.outcome = Outcome("failed", error=wrapped)
    assert expected in str(error)
    assert said in error.hint
    assert "--no-sandbox" in error.hint


@pytest.mark.parametrize("said", NOT_ABOUT_RUNSC)
def test_other_failures_are_left_alone(said):
    """What has nothing to do with runsc gets no explanation of ours."""
    assert explain(said) is None


def test_plan_without_gvisor_holds_nothing(planned):
    """A run that is not to be isolated has no gate, so that no engine is asked."""
    plan = planned(gvisor, sandbox=False).freeze()
    run = FakeRun(plan, LINUX)
    assert gvisor.moat_open_run(run) is None


def test_the_check_is_the_first_step(opened):
    """Nothing runs inside before it is known that it is isolated."""
    assert opened(LINUX).plan.init_steps[0].name == CHECK_STEP


class FakeUpkeep:
    def __init__(self, known):
        from moat_core.runtime.base import RuntimeInfo

        self.engine = FakeRuntime(known)
        info = RuntimeInfo("fake", f"{__name__}:FakeRuntime")
        self.dispatcher = SimpleNamespace(collect_items=lambda hook: [("fake", info)])

    async def connection(self, kind, address):
        return self.engine


@pytest.fixture
def doctor(monkeypatch):
    from moat_plugins.gvisor import doctor

    monkeypatch.setattr(doctor, "load_attribute", lambda reference: FakeRuntime)
    return lambda known: find_faults(FakeUpkeep(known))


@pytest.mark.parametrize(
    ("known", "statuses"),
    [
        (LINUX, ["ok"]),
        (OciRuntimes(("runc",), "runc"), ["error"]),
        (attrs.evolve(LINUX, is_desktop=True), ["ok"]),
        (None, []),
        (attrs.evolve(LINUX, commands={"runsc": ("/nowhere/runsc", "-network=host")}), ["ok", "warning"]),
    ],
)
async def test_doctor(doctor, known, statuses):
    """Doctor says what is registered, what is missing with its mending, and which options defeat the purpose."""
    checks = list(await doctor(known))
    assert [check.status for check in checks] == statuses
    assert all(check.fix for check in checks if check.status != "ok")


def test_doctor_reads_the_age():
    """A release of more than a year ago is a warning; what says nothing of its age is passed over."""
    import datetime as dt

    today = dt.date(2024, 8, 1)
    assert [check.status for check in check_age("runsc version release-20240729.0\nspec: 1.1", today)] == ["ok"]
    assert [check.status for check in check_age("runsc version release-20220101.0", today)] == ["warning"]
    assert check_age("runsc version VERSION_MISSING", today) == []
    assert check_age("runsc version release-20249999.0", today) == []


def test_doctor_knows_options_in_every_spelling():
    """One dash or two, with or without ``=true``."""
    for option in ("--debug", "-debug", "--debug=true"):
        assert len(check_options("runsc", ("/usr/bin/runsc", option))) == 1
    assert check_options("runsc", ("/usr/bin/runsc", "--platform=systrap")) == []
