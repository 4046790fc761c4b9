"""The BuildKit client against the engine's own BuildKit, with sessions both ways."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import tarfile
from pathlib import Path

import anyio
import pytest

from moat_plugins.buildkit.api import BuildError, BuildKit, DockerfileError, ExportError, Output, RunFailed, StepOutput
from moat_plugins.buildkit.session import core

pytestmark = pytest.mark.engine
BASE = "FROM debian:bookworm-slim\n"


@pytest.fixture(params=["upgraded", "tunnelled"])
async def buildkit(engine, request, monkeypatch):
    """The engine's own; its sessions over /session, or in Control.Session as newer engines want them."""
    if request.param == "tunnelled":

        async def refuse(endpoint, headers):
            return None

        monkeypatch.setattr(core, "open_session", refuse)
    async with BuildKit.connect(f"docker+{engine}") as connected:
        yield connected


@pytest.fixture
def tag(engine):
    """A name for an image, which is removed."""
    name = f"moat-test/buildkit:{secrets.token_hex(4)}"
    yield name
    subprocess.run(["docker", "image", "rm", "-f", name], capture_output=True, check=False)


def docker(*argv):
    return subprocess.run(["docker", *argv], capture_output=True, text=True, timeout=60, check=True).stdout


async def test_an_image_is_in_the_engine(buildkit, tag):
    """With its name, labels, arguments and files; the events tell its output."""
    lines = []
    result = await buildkit.build(
        {"src/a": b"A"},
        dockerfile_text=BASE + 'ARG WORD=x\nCOPY src /src\nRUN echo said $WORD; cat /src/a >/b\nENV W=$WORD\nCMD ["w"]\n',
        tags=[tag], build_args={"WORD": secrets.token_hex(3) + "-hello"}, labels={"l": "m"},
        on_event=lambda event: lines.append(event.line) if isinstance(event, StepOutput) else None,
    )  # fmt: skip
    (found,) = json.loads(docker("image", "inspect", tag))
    assert found["Id"] == result.image_id
    assert found["Config"]["Labels"]["l"] == "m"
    assert any(each.startswith("W=") and each.endswith("-hello") for each in found["Config"]["Env"])
    assert [line for line in lines if line.startswith("said ")]


async def test_secrets_are_given_and_stay_out(buildkit, tmp_path, monkeypatch):
    """From memory, text and a file; one that is not there is an error only if it is required."""
    (tmp_path / "s").write_text("from-file")
    mounts = " ".join(f"--mount=type=secret,id={name}" for name in ("one", "two", "three", "none"))
    lines = []
    await buildkit.build(
        dockerfile_text=BASE + f"RUN {mounts} for i in one two three none; do cat /run/secrets/$i || echo no $i; echo; done\n",
        secrets={"one": b"bytes", "two": "text", "three": tmp_path / "s"}, no_cache=True, outputs=[],
        on_event=lambda event: lines.append(event.line) if isinstance(event, StepOutput) else None,
    )  # fmt: skip
    assert {"bytes", "text", "from-file", "no none"} <= set(lines)
    with pytest.raises(BuildError, match="not found"):
        await buildkit.build(
            dockerfile_text=BASE + "RUN --mount=type=secret,id=tok,required=true true\n", secrets={"x": b""}, outputs=[]
        )


async def test_a_failed_run_is_told_whole(buildkit):
    """Step, line, exit code and its last output; with a Dockerfile of 200 KB the connection survives."""
    padding = "# " + "x" * 120 + "\n"
    text = BASE + padding * 1600 + "RUN echo before; echo bad >&2; exit 37\n"
    with anyio.fail_after(60):
        with pytest.raises(RunFailed) as caught:
            await buildkit.build(dockerfile_text=text)
        error = caught.value
        assert (error.run_exit_code, error.exit_code) == (37, 125)
        assert sorted(line for line in error.log_tail if line) == ["bad", "before"]
        assert error.ranges[0].first == 1602
        assert "RUN echo before" in error.vertex
        assert await buildkit.workers()


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("FRM x\n", DockerfileError, "unknown instruction"),
        (BASE + "COPY nothing /\n", DockerfileError, "nothing"),
        ("", BuildError, "empty"),
        (BASE + "RUN --bad x\n", DockerfileError, "unknown flag"),
    ],
)
async def test_a_bad_dockerfile_is_told(buildkit, text, kind, words):
    """By what BuildKit says of it, soon."""
    with anyio.fail_after(20), pytest.raises(kind, match=words):
        await buildkit.build(dockerfile_text=text)


async def test_an_exporter_that_is_not_there_is_told_soon(buildkit):
    """Status of a build that never began is not waited for."""
    with anyio.fail_after(5), pytest.raises(ExportError, match="nonsense"):
        await buildkit.build(dockerfile_text=BASE, outputs=[Output("nonsense")])


async def test_a_cancelled_build_stops_on_the_server(buildkit):
    """Its process is gone, and the connection good."""
    mark = secrets.token_hex(8)
    started = anyio.Event()

    def listen(event):
        if isinstance(event, StepOutput) and mark in event.line:
            started.set()

    text = BASE + f"RUN echo {mark}; exec sleep 1000.{int(mark, 16) % 10**9}\n"
    task = asyncio.create_task(buildkit.build(dockerfile_text=text, on_event=listen))
    with anyio.fail_after(60):
        await started.wait()
        while not processes(f"1000.{int(mark, 16) % 10**9}"):  # what echo wrote may be here before sleep is
            await anyio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while processes(f"1000.{int(mark, 16) % 10**9}"):
            await anyio.sleep(0.02)
        assert await buildkit.workers()


def processes(word):
    """Of this machine, with WORD as an argument."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if word.encode() in file.read().split(b"\0"):
                    found.append(pid)
        except OSError:
            pass
    return found


async def test_a_tar_comes_whole_or_not_at_all(buildkit, tmp_path):
    """A failed build leaves no half of a file; named contexts and a target are used."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other/o").write_text("from the other")
    text = "FROM scratch AS one\nCOPY --from=base o /o\nFROM scratch AS two\nCOPY a /\n"
    out = tmp_path / "out.tar"
    await buildkit.build(
        {"a": b"1"},
        dockerfile_text=text,
        target="one",
        contexts={"base": tmp_path / "other"},
        outputs=[Output("tar", out)],
    )
    with tarfile.open(out) as tar:
        assert [member.name for member in tar if member.isfile()] == ["o"]
    out.unlink()
    with pytest.raises(BuildError):
        await buildkit.build({"a": b"1"}, dockerfile_text=text + "COPY b /\n", outputs=[Output("tar", out)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]


async def test_thirty_at_once(buildkit, tmp_path):
    """On one connection, each with its own files."""
    with anyio.fail_after(90):
        await asyncio.gather(
            *(
                buildkit.build(
                    {"f": b"%d" % number}, dockerfile_text="FROM scratch\nCOPY f /\n",
                    outputs=[Output("local", tmp_path / str(number))],
                )
                for number in range(30)
            )
        )  # fmt: skip
    assert [(tmp_path / str(number) / "f").read_bytes() for number in range(30)] == [b"%d" % n for n in range(30)]


async def test_the_cache_is_told_and_pruned(engine):
    """Records have sizes; what is pruned is told."""
    async with BuildKit.connect(f"docker+{engine}") as buildkit:
        await buildkit.build({"f": secrets.token_bytes(100)}, dockerfile_text="FROM scratch\nCOPY f /\n", outputs=[])
        assert any(record.size > 0 for record in await buildkit.disk_usage())
        assert isinstance(await buildkit.prune(keep_bytes=10**15), list)
        assert await buildkit.info() is not None


@pytest.mark.parametrize("disabled", ["", "1"])
def test_a_runs_image_is_built_with_it(moat, workspace, monkeypatch, disabled):
    """Unless that is switched off; a step that fails is told either way, and not tried again."""
    mark = secrets.token_hex(4)
    monkeypatch.setenv("MOAT_DISABLE_BUILDKIT", disabled)
    (workspace / "agent.yaml").write_text(f"hooks:\n  post_build_root: echo {mark} >/made\n")
    done = moat("run", "--no-sandbox", "--", "cat", "/made")
    assert (done.returncode, done.stdout.decode()) == (0, f"{mark}\n"), done.stderr
    name = next(
        line
        for line in docker(
            "image", "ls", "--filter", "reference=moat/run", "--format", "{{.Repository}}:{{.Tag}}"
        ).split()
    )
    history = docker("image", "history", "--no-trunc", "--format", "{{.Comment}}", name)
    assert ("buildkit" in history) is (disabled == "")
    (workspace / "agent.yaml").write_text(f"hooks:\n  post_build_root: echo {mark} oh no; exit 9\n")
    failed = moat("run", "--no-sandbox", "--", "true")
    assert failed.returncode == 125
    assert failed.stderr.decode().count(f"{mark} oh no") >= 1
    assert b"Traceback" not in failed.stderr


OUTPUTS = {
    "nowhere": ([Output("local")], "needs a folder"),
    "one nowhere": ([Output("tar"), Output("tar", Path("a"))], "needs a file"),
    "a function for a folder": ([Output("local", print)], "needs a folder"),
    "the same file": ([Output("tar", Path("a")), Output("docker", Path("a"))], "Two outputs go to"),
    "a folder": ([Output("tar", Path("/tmp"))], "is a folder"),
    "no such folder": ([Output("tar", Path("/nowhere/a"))], "No such file"),
    "not an archive": ([Output("oci", Path("a"), {"tar": "false"})], "leave out tar=false"),
}


@pytest.mark.parametrize(("outputs", "words"), OUTPUTS.values(), ids=OUTPUTS)
async def test_outputs_that_cannot_be_are_refused_at_once(buildkit, tmp_path, monkeypatch, outputs, words):
    """Before anything is built, which would end nowhere, in a garbled file, or never."""
    monkeypatch.chdir(tmp_path)
    with anyio.fail_after(2), pytest.raises(ExportError, match=words):
        await buildkit.build({"a": b""}, dockerfile_text="FROM scratch\nCOPY a /\n", outputs=outputs)
    assert list(tmp_path.iterdir()) == []


async def test_what_a_sink_raises_is_raised(buildkit):
    """As it is, not as an error of the daemon's."""

    async def sink(data):
        raise RuntimeError(f"no room for {len(data) > 0}")

    with anyio.fail_after(20), pytest.raises(RuntimeError, match="no room for True"):
        await buildkit.build({"a": b""}, dockerfile_text="FROM scratch\nCOPY a /\n", outputs=[Output("tar", sink)])


async def test_a_result_that_cannot_be_written_is_an_export_error(buildkit, tmp_path):
    """And no error of the context; a path may be text."""
    (tmp_path / "out/a/in the way").mkdir(parents=True)
    with anyio.fail_after(20), pytest.raises(ExportError, match="cannot be written"):
        await buildkit.build(
            {"a": b""}, dockerfile_text="FROM scratch\nCOPY a /\n", outputs=[Output("local", str(tmp_path / "out"))]
        )


def test_the_pages_program_builds(engine, tmp_path):
    """docs/buildkit.md begins with a program; with this engine's address it is run as it stands."""
    from doc_pages import DOCS, blocks

    code = blocks(DOCS / "buildkit.md", "python")[0].code
    assert "docker+unix:///var/run/docker.sock" in code
    (tmp_path / "program.py").write_text(code.replace("docker+unix:///var/run/docker.sock", f"docker+{engine}"))
    (tmp_path / "project").mkdir()
    word = secrets.token_hex(4)
    dockerfile = BASE + f"RUN --mount=type=secret,id=token echo {word} $(cat /run/secrets/token)\n"
    (tmp_path / "project/Dockerfile").write_text(dockerfile)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{word} s3cret\nsha256:")
    docker("image", "rm", "-f", "project:dev")
