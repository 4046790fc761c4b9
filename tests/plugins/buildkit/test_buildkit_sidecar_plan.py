"""What the BuildKit sidecar adds to a plan, the container that is started, and what becomes of one that fails."""

from __future__ import annotations

import os
import shlex
import subprocess
from types import SimpleNamespace

import attrs
import pytest

from moat_core.errors import ConfigError, ImageError, ServiceNotReady
from moat_core.runtime.facets import Sidecar
from moat_core.runtime.locks import hold_cache
from moat_core.types import Output
from moat_plugins import buildkit, gvisor
from moat_plugins.buildkit import sidecar as sidecar_module
from moat_plugins.buildkit.cache import FOLDER, IsKept, hold_kept
from moat_plugins.buildkit.certificates import make_certificates
from moat_plugins.buildkit.config import DEFAULT_IMAGE
from moat_plugins.buildkit.contribute import CERTIFICATES, STEP
from moat_plugins.buildkit.sidecar import make_spec, open_sidecar

DETAILS = {"mode": "on", "image": "x/buildkit:1", "cache_limit": 5_000_000_000}


class Wanted:
    """Stands for the plugin that installs dependencies."""

    def __init__(self, *names):
        self.names = list(names)
        self.__name__ = "x.dependencies"

    def moat_add_to_plan(self, plan):
        plan.details["dependencies"] = self.names


@pytest.fixture
def dind(planned):
    def make(text="", names=("docker:dind",), **request):
        return planned(Wanted(*names), gvisor, buildkit, text=text, **request)

    return make


class FakeSidecars:
    """Starts what is asked for, or fails as told."""

    def __init__(self, error=None):
        self.error, self.specs = error, []

    async def start(self, _run, spec):
        self.specs.append(spec)
        if self.error:
            raise self.error
        return Sidecar(SimpleNamespace(logs=self.logs), "127.0.0.1")

    async def logs(self, *, tail, follow):
        assert (tail > 0, follow) == (True, False)
        yield Output("stderr", b"buildkitd: no such luck\n")


class FakeRun:
    """The part of a run that the sidecar uses."""

    def __init__(self, plan, locks, sidecars):
        self.plan, self.locks, self.name = plan, locks, plan.name
        self.sidecars, self.hosts, self.warned, self.files = sidecars, {}, [], []
        self.id = plan.run_id
        self.kept = IsKept(here=True)

    def get(self, kind):
        assert kind is IsKept
        return self.kept

    def provide(self, value):
        self.kept = value

    def replace_plan(self, plan):
        self.plan = plan

    async def runtime(self):
        return self

    async def warn(self, problem):
        self.warned.append(problem)

    def add_host(self, name, address):
        self.hosts[name] = address

    def add_file(self, file):
        self.files.append(file)


def test_it_comes_with_an_engine_inside_only(dind):
    """Without docker:dind there is none; with it there is, on a network of the run's own, known by its name."""
    assert "buildkit" not in dind(names=("docker:host",)).freeze().details
    plan = dind().freeze()
    assert plan.details["buildkit"] == {"mode": "on", "image": DEFAULT_IMAGE, "cache_limit": 10 * 1024**3}
    assert plan.own_network
    assert plan.env["BUILDKIT_HOST"].value == "tcp://buildkit:1234"
    assert ":latest" not in DEFAULT_IMAGE


@pytest.mark.parametrize("more", [{"text": "buildkit: {mode: 'off'}"}, {"network": "none"}])
def test_switched_off_it_adds_nothing(dind, more):
    """Neither with the mode `off` nor where there is no network to meet it on."""
    plan = dind(**more).freeze()
    assert "buildkit" not in plan.details
    assert not plan.own_network
    assert "BUILDKIT_HOST" not in plan.env
    assert [step.name for step in plan.init_steps if step.name == STEP] == []


@pytest.mark.parametrize("text", ["{mode: never}", "{cache_limit: 1m}", "{image: 'no image'}"])
def test_wrong_values_are_refused(dind, text):
    """What cannot be is said before anything starts."""
    with pytest.raises(ConfigError):
        dind(f"buildkit: {text}")


def test_in_gvisor_it_is_in_gvisor(dind):
    """The same OCI runtime, all capabilities of it, no privilege, nothing of the host's, names it can resolve."""
    plan = attrs.evolve(dind().freeze(), oci_runtime="runsc-dind", dns=("192.0.2.1",))
    spec = make_spec(plan, DETAILS, "fox")
    assert (spec.oci_runtime, spec.privileged, list(spec.capabilities)) == ("runsc-dind", "", ["ALL"])
    assert spec.volumes == ()
    assert [(each.target, each.size_bytes) for each in spec.tmpfs] == [("/var/lib/buildkit", 5_000_000_000)]
    assert "nameserver 192.0.2.1" in spec.command[-1]
    assert "exec buildkitd --addr tcp://0.0.0.0:1234 --root /var/lib/buildkit" in spec.command[-1]


def test_in_gvisor_its_containers_make_no_keyrings(dind, tmp_path):
    """gVisor has room for 200 keys; what starts containers is told, whatever else is said to it."""
    plan = dind().freeze()
    for name in ("buildkit-runc", "runc"):
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf "%s|" {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    script = make_spec(plan, DETAILS, "fox").command[-1].replace("/tmp/moat-tools", str(tmp_path / "tools"))
    lines = script.splitlines()
    prepared = lines[: 1 + next(number for number, line in enumerate(lines) if line.startswith("export PATH="))]

    def called(*words):
        script = "\n".join([*prepared, shlex.join(words)])
        path = f"{tmp_path}:{os.environ['PATH']}"
        return subprocess.check_output(["/bin/sh", "-euc", script], env={"PATH": path}, text=True)

    for name in ("buildkit-runc", "runc"):
        assert called(name, "--log", "a b", "run", "/b", "run") == f"{name}|--log|a b|run|--no-new-keyring|/b|run|"
        assert called(name, "delete", "x y") == f"{name}|delete|x y|"


def test_without_gvisor_its_cache_is_kept(dind):
    """Privileged with a reason, and a volume that the runs of one name share, bounded."""
    spec = make_spec(dind(sandbox=False).freeze(), DETAILS, "fox")
    assert "BuildKit" in spec.privileged
    assert [(each.target, each.cache) for each in spec.volumes] == [("/var/lib/buildkit", "fox")]
    assert "--oci-worker-gc-keepstorage 5000" in spec.command[-1]
    assert spec.tmpfs == ()
    subprocess.run(["dash", "-n"], input=spec.command[-1], text=True, check=True)


def test_only_one_run_has_the_cache(tmp_path):
    """A second run of the name gets none; after the first, the next gets it."""
    with (
        hold_cache(tmp_path, "x", "fox", tmp_path) as first,
        hold_cache(tmp_path, "x", "fox", tmp_path) as second,
        hold_cache(tmp_path, "x", "hen", tmp_path) as hen,
    ):
        assert (first, second, hen) == (True, False, True)
    with hold_cache(tmp_path, "x", "fox", tmp_path) as third:
        assert third


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(sidecar_module, "READY_S", 0.2)
    monkeypatch.setattr(sidecar_module, "PORT", 1)  # tcpmux: nobody listens


def test_only_who_has_a_certificate_of_the_runs_gets_in(dind):
    """Both sides show one; keys are in files of their owners' alone, and in no argv, environment or text of a plan."""
    plan = dind().freeze()
    minted = make_certificates("run-0000abcd", "buildkit", CERTIFICATES, plan.user)
    spec = make_spec(plan, DETAILS, "fox", minted.server)
    for flag, name in (("--tlscacert", "ca"), ("--tlscert", "cert"), ("--tlskey", "key")):
        assert f"{flag} /run/moat-tls/{name}.pem" in spec.command[-1]
    assert {(file.path, file.uid, file.mode) for file in spec.files} == {
        (f"/run/moat-tls/{name}.pem", 0, 0o400) for name in ("ca", "cert", "key")
    }
    assert {(file.path, file.uid, file.mode) for file in minted.client} == {
        (f"{CERTIFICATES}/{name}.pem", plan.user.uid, 0o400) for name in ("ca", "cert", "key")
    }
    keys = {file.data for file in (*minted.server, *minted.client) if file.path.endswith("/key.pem")}
    assert len(keys) == 2
    assert "PRIVATE" not in repr((spec, minted, plan))
    (step,) = (step for step in plan.init_steps if step.name == STEP)
    assert f'"key":"{CERTIFICATES}/key.pem"' in step.script


async def test_not_ready_is_an_error_with_its_log(dind, tmp_path, quick):
    """With the mode `on`, the run fails; the hint has the log's end and the way to go without."""
    run = FakeRun(dind().freeze(), tmp_path, FakeSidecars())
    with pytest.raises(ServiceNotReady, match="did not answer") as raised:
        async with open_sidecar(run):
            pass
    assert "no such luck" in raised.value.hint
    assert "`buildkit: off`" in raised.value.hint
    assert run.hosts == {}
    assert run.files == []


@pytest.mark.parametrize("error", [None, ImageError("There is no such image.")])
async def test_auto_warns_and_goes_on(dind, tmp_path, quick, error):
    """With the mode `auto`, the run goes on without the name, and the user is told why."""
    run = FakeRun(dind("buildkit: {mode: auto}").freeze(), tmp_path, FakeSidecars(error))
    async with open_sidecar(run):
        assert run.hosts == {}
    (warning,) = run.warned
    assert "the inner engine builds by itself" in warning.message


@pytest.fixture
def wrapped(dind, tmp_path):
    """Run the init step with folders of this test's, then the ``docker`` that it wrote."""
    (script,) = (step.script for step in dind().freeze().init_steps if step.name == STEP)
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n192.0.2.9\tbuildkit\n")
    real = tmp_path / "bin/docker"
    real.parent.mkdir()
    real.write_text('#!/bin/sh\necho "$BUILDX_BUILDER:" "$@"\n')
    real.chmod(0o755)
    script = script.replace("/etc/hosts", f"{tmp_path}/hosts").replace("/usr/local/bin", f"{tmp_path}")
    script = script.replace("/usr/local/lib/moat", f"{tmp_path}/lib").replace("chown", ": chown")
    script = script.replace(FOLDER, f"{tmp_path}/kept")
    env = {"PATH": f"{real.parent}:/usr/bin:/bin"}
    subprocess.run(["sh", "-euc", script], env=env, check=True)

    def run(*argv, **more):
        done = subprocess.run([tmp_path / "docker", *argv], env=env | more, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return run


@pytest.mark.parametrize(
    ("argv", "called"),
    [
        (["build", "."], "moat: buildx build --load ."),
        (["build", "-t", "a b", "."], "moat: buildx build --load -t a b ."),
        (["buildx", "build", "."], "moat: buildx build --load ."),
        (["image", "build", "."], "moat: buildx build --load ."),
        (["build", "--push", "."], "moat: build --push ."),
        (["build", "-o", "out", "."], "moat: build -o out ."),
        (["buildx", "build", "--output=type=tar", "."], "moat: buildx build --output=type=tar ."),
        (["build", "--builder", "default", "."], "moat: build --builder default ."),
        (["run", "build"], "moat: run build"),
        (["compose", "build"], "moat: compose build"),
        ([], "moat:"),
    ],
)
def test_plain_builds_put_the_image_into_the_engine(wrapped, argv, called):
    """Builds go to the sidecar and back into the engine; whoever says where to gets what is said."""
    assert wrapped(*argv) == called


def test_another_builder_is_left_alone(wrapped):
    """Who has chosen a builder of his own is not second-guessed."""
    assert wrapped("build", ".", BUILDX_BUILDER="mine") == "mine: build ."


def test_in_gvisor_builds_leave_their_cache_behind(wrapped, tmp_path):
    """They hand it out, and take what is there; unless they were told of another one, or it cannot be written."""
    kept = tmp_path / "kept"
    kept.mkdir()
    out, back = f"--cache-to type=local,dest={kept},mode=max", f"--cache-from type=local,src={kept}"
    assert wrapped("build", ".") == f"moat: buildx build --load {out} ."
    (kept / "index.json").touch()
    assert wrapped("build", ".") == f"moat: buildx build --load {out} {back} ."
    assert wrapped("build", "--cache-from", "x", ".") == "moat: buildx build --load --cache-from x ."


def test_in_gvisor_the_cache_is_bounded(dind, tmp_path):
    """With more than its limit in it, it is emptied when the next run starts, and not before."""
    (script,) = (step.script for step in dind("buildkit: {cache_limit: 64m}").freeze().init_steps if step.name == STEP)
    kept = tmp_path / "kept"
    kept.mkdir()
    script = script.replace(FOLDER, str(kept)).replace("chown", ": chown")
    for size, left in ((63, True), (65, False)):
        (kept / "blob").write_bytes(bytes(size * 1024 * 1024))
        subprocess.run(["sh", "-euc", script], check=True)
        assert (kept / "blob").exists() is left


async def test_a_second_run_of_the_name_has_no_cache(dind, tmp_path):
    """It is told so; in gVisor its own volume goes with it."""
    plan = dind().freeze()
    first, second = FakeRun(plan, tmp_path, None), FakeRun(plan, tmp_path, None)
    async with hold_kept(first), hold_kept(second):
        assert [volume.cache for volume in first.plan.volumes] == [plan.name]
        assert [volume.cache for volume in second.plan.volumes] == [""]
        assert (first.kept.here, second.kept.here) == (True, False)
    assert (first.warned, len(second.warned)) == ([], 1)
