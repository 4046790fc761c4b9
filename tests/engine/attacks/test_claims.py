"""What was asked for and is dropped without a word: by a runtime, by a plugin that is not there, by one that lies.

The first rows need no engine: their runtime is the fake one, and what counts is whether it started a container.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import attrs
import pytest
from attack import attack

from moat_core import Moat, MoatError, hookimpl
from moat_core.plan import list_demands, make
from moat_core.runtime.base import RuntimeInfo
from moat_core.testing import Harness, fake, fakes
from moat_plugins.docker import container
from moat_plugins.gvisor import intent


class Ignorant:
    """A third party's runtime that knows nothing of some of a plan, and starts the container all the same."""

    def __init__(self, *unknown):
        self.honours = list_demands() - set(unknown)

    @hookimpl
    def moat_register_runtimes(self):
        return [RuntimeInfo("fake", "moat_core.testing.fakes:FakeRuntime", honours=self.honours)]


class Adds:
    """A plugin that asks for something."""

    def __init__(self, add):
        self.add = add

    @hookimpl
    def moat_add_to_plan(self, plan):
        self.add(plan)


def no_insisting(monkeypatch):
    """The control: nobody but the plugins themselves looks."""

    async def nothing(run):
        pass

    execute = import_module("moat_core.lifecycle.execute")  # the package has a function of that name
    monkeypatch.setattr(make, "check_honours", lambda plan, runtime: [])
    monkeypatch.setattr(make, "check_taken_up", lambda request, config, claimed: [])
    monkeypatch.setattr(execute, "insist_on_plan", nothing)
    monkeypatch.setattr(execute, "insist_on_started", lambda run: None)


@pytest.fixture
def harness(tmp_path, monkeypatch):
    """A fake engine, and a record of what it was made to start."""
    made = Harness(tmp_path, monkeypatch)
    made.started = lambda: made.engine.calls("start_container")
    return made


def steps(name, **how):
    return Adds(lambda plan: plan.add_init_step(name, "true", **how))


IGNORED = {
    "network: none": ("network", "network: none", None),
    "memory": ("limits.memory_bytes", "container: {memory: 64m}", None),
    "cpus": ("limits.cpus", "container: {cpus: 1}", None),
    "pids": ("limits.pids", "container: {pids: 100}", None),
    "pids, by default": ("limits.pids", "", None),
    "name servers": ("dns", "container: {dns: [192.0.2.1]}", None),
    "capabilities are dropped": ("capabilities", "", None),
    "a read-only mount": ("mounts.read_only", "mounts: ['./data:/data:ro']", None),
    "a port on 127.0.0.1": ("ports", "ports: {web: 80}", None),
    "an OCI runtime": ("oci_runtime", "", Adds(lambda plan: setattr(plan, "oci_runtime", "runsc"))),
    "a network of its own": ("own_network", "", Adds(lambda plan: setattr(plan, "own_network", True))),
    "a root step": ("init_steps", "", steps("check")),
    "a step's order": ("init_steps.order", "", steps("check", order=0)),
    "the user's own step": ("init_steps.as_user", "", steps("hook", as_user=True)),
    "whom it runs as": ("user.uid", "", Adds(lambda plan: setattr(plan, "user", attrs.evolve(plan.user, uid=7)))),
}


@attack("claims: a runtime that does not do it", IGNORED)
async def test_a_runtime_that_does_not_do_it_is_not_asked(harness, monkeypatch, row, defended):
    """Each demand is honoured by name, or the run is refused before anything is made."""
    unknown, text, plugin = row
    monkeypatch.setattr(fake, "moat_register_runtimes", Ignorant(unknown).moat_register_runtimes)
    harness.file("data/x", "")
    harness.file("agent.yaml", text)
    if plugin is not None:
        harness.register(plugin)
    if not defended:
        no_insisting(monkeypatch)
    return await started(harness)


async def started(harness, **request):
    try:
        await harness.run(["true"], **request)
    except MoatError:
        pass  # refused
    return f"{len(harness.started())} started" if harness.started() else ""


UNCLAIMED = {
    "hooks.pre_run": ("hooks: {pre_run: 'false'}", {}),
    "hooks.post_build": ("hooks: {post_build: 'false'}", {}),
    "hooks.post_build_root": ("hooks: {post_build_root: 'false'}", {}),
    "sandbox: gvisor": ("sandbox: gvisor", {}),
    "--sandbox": ("", {"sandbox": True}),
}


@attack("claims: a plugin that is not there", UNCLAIMED)
async def test_what_a_missing_plugin_would_do_is_not_forgotten(harness, monkeypatch, row, defended):
    """A hook of the user's, or the wish to be isolated, with nobody to see to it."""
    text, request = row
    claim = hookimpl(lambda plan: plan.claim("workspace", "base_image", "dependencies"))
    monkeypatch.setattr(fake, "moat_add_to_plan", claim)
    harness.file("agent.yaml", text)
    if not defended:
        no_insisting(monkeypatch)
    return await started(harness, **request)


LIES = {
    "another OCI runtime": {"oci_runtime": "runc"},
    "another OCI runtime, says its report": {"started_with": {"oci_runtime": "runc"}},
    "a network": {"started_with": {"network": "bridge"}},
    "no limit of memory": {"started_with": {"limits.memory_bytes": None}},
    "more processes": {"started_with": {"limits.pids": 100_000}},
    "privileged": {"started_with": {"privileged": True}},
}


@attack("claims: a runtime that says it does", LIES)
async def test_what_was_started_is_compared_with_what_was_asked_for(harness, monkeypatch, row, defended):
    """By the engine's word: the body does not begin in a container that is less than was asked for."""

    def add(plan):
        plan.sandboxed, plan.oci_runtime = True, "runsc"

    made = fakes.to_info
    monkeypatch.setattr(
        fakes, "to_info", lambda name, data: attrs.evolve(made(name, data), **{"oci_runtime": "runsc", **row})
    )
    harness.file("agent.yaml", "network: none\ncontainer: {memory: 64m}\n")
    harness.register(Adds(add), "claims")
    if not defended:
        no_insisting(monkeypatch)
    record = await harness.run(["true"])
    return record.result.outcome.status if harness.engine.calls("exec") else ""


class Unsandboxes:
    """A plugin that takes the isolation out of the plan at the last moment, as gVisor's does on a desktop."""

    @hookimpl(trylast=True)
    def moat_open_run(self, run):
        names = {"gvisor check", "gvisor name servers"}
        steps = tuple(step for step in run.plan.init_steps if step.name not in names)
        run.replace_plan(attrs.evolve(run.plan, sandboxed=False, oci_runtime=None, init_steps=steps))


REAL = {
    "without gvisor": {"without": ["gvisor"]},
    "MOAT_DISABLE=gvisor": {"disable": "gvisor"},
    "without gvisor, insisting": {"without": ["gvisor"], "request": {"sandbox": True}},
    "without gvisor, sandbox: gvisor": {"without": ["gvisor"], "text": "sandbox: gvisor\n"},
    "a plugin takes it out": {"plugins": {"third": Unsandboxes()}},
    "a broken plugin forgets to ask the engine": {"forget": True},
}


@attack("claims: the host's kernel", REAL)
async def test_nothing_runs_on_the_hosts_kernel_unasked(world, workspace, monkeypatch, row, defended):
    """Whatever plugin is disabled, broken or hostile to its own purpose: the command leaves no word of that kernel."""
    if not defended:
        no_insisting(monkeypatch)
    if row.get("disable"):
        monkeypatch.setenv("MOAT_DISABLE", row["disable"])
    if row.get("forget"):
        made = container.make_config
        monkeypatch.setattr("moat_plugins.docker.open_sandbox.make_config", lambda *a, **k: _forget(made(*a, **k)))
        monkeypatch.setattr(intent, "_CHECK", ":\n")  # the plugin's own second look is not what is tried here
    (workspace / "agent.yaml").write_text("network: none\n" + row.get("text", ""))
    async with Moat(home=world.home, without=row.get("without", ()), plugins=row.get("plugins")) as moat:
        try:
            async with moat.run(workspace, **row.get("request", {})) as run:
                await run.exec(["cp", "/proc/version", "/workspace/kernel"])
        except MoatError:
            pass
    kernel = workspace / "kernel"
    return kernel.exists() and kernel.read_text() == Path("/proc/version").read_text()


def _forget(config):
    del config["HostConfig"]["Runtime"]
    return config


def test_who_asks_for_less_gets_it(world, workspace, moat, monkeypatch):
    """By flag, config or variable: that is somebody asking, and no plugin is needed for it."""
    (workspace / "agent.yaml").write_text("network: none\n")
    monkeypatch.setenv("MOAT_DISABLE", "gvisor")
    assert moat("run", "--no-sandbox", "--", "true").returncode == 0
    assert moat("run", "--", "true", env={"MOAT_NO_SANDBOX": "1"}).returncode == 0
    refused = moat("run", "--", "true")
    assert (refused.returncode, refused.stderr.count(b"Traceback")) == (125, 0)
    assert b"nobody asked for that" in refused.stderr
