"""Images with dependencies, really built: from Debian's, Python's and npm's registries, usable by any user."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from built import NODE, PYTHON

from moat_core.api import Moat
from moat_core.errors import ImageError, PlanError

pytestmark = pytest.mark.slow


def give(path):
    os.chown(path, 1234, 5678)


@pytest.mark.parametrize("owner", ["root", "other"])
async def test_python_with_programs_works_for_every_user(world, workspace, owner):
    """Python, its programs and its packages are there for root and for a user that the image does not know."""
    if owner == "other":
        give(workspace)
    (workspace / "test_it.py").write_text("def test_it():\n    import iniconfig\n")
    async with Moat() as moat, moat.run(workspace, dependencies=PYTHON) as run:
        assert (await run.exec(["python", "-m", "pytest", "-q"], check=True)).ok
        assert b"1 passed" in (await run.exec(["pytest", "-q"], check=True)).stdout
        for argv in (["python3", "--version"], ["pip", "--version"], ["ruff", "--version"], ["jq", "--version"]):
            assert (await run.exec(argv, check=True)).ok
        login = await run.exec(["bash", "-lc", "command -v python pytest"], check=True)
        assert login.text.split() == ["/opt/moat/python/bin/python", "/opt/moat/python/bin/pytest"]


async def test_more_can_be_installed_inside(world, workspace):
    """pip installs into the run's own environment, without a word about Debian's, and over a re-signed connection."""
    give(workspace)
    async with Moat() as moat, moat.run(workspace, dependencies=PYTHON) as run:
        result = await run.exec(["pip", "install", "--no-deps", "six"], timeout_s=120)
        assert result.ok, result.stderr
        assert (await run.exec(["python", "-c", "import six"], check=True)).ok


async def test_node_with_a_program_works(world, workspace):
    """Node.js and a program of npm's registry."""
    give(workspace)
    async with Moat() as moat, moat.run(workspace, **NODE) as run:
        assert (await run.exec(["node", "--version"], check=True)).text.startswith("v18.")
        assert "moo" in (await run.exec(["cowsay", "moo"], check=True)).text


async def test_the_image_is_named_once_and_reused(world, workspace):
    """The same wishes are the same image, which is built once; more wishes are another."""
    async with Moat() as moat:
        request = moat.request(workspace, dependencies=PYTHON)
        tag = moat.plan(request).image.tag
        again = moat.plan(moat.request(workspace, dependencies=tuple(reversed(PYTHON))))
        assert again.image.tag == tag
        async with moat.run(workspace, dependencies=PYTHON):
            pass
        made = subprocess.run(["docker", "image", "inspect", tag], capture_output=True, text=True, check=True)
        async with moat.run(workspace, dependencies=PYTHON):
            pass
        now = subprocess.run(["docker", "image", "inspect", tag], capture_output=True, text=True, check=True)
        assert json.loads(made.stdout)[0]["Id"] == json.loads(now.stdout)[0]["Id"]


def test_the_image_keeps_nothing_of_the_build(world, workspace):
    """No variable of the build's is left in the image's environment, and no list of packages in its files."""
    with_tag = subprocess.run(
        ["docker", "image", "ls", "--filter", "reference=moat/run", "--format", "{{.Repository}}:{{.Tag}}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert with_tag
    for tag in with_tag:
        inspect = subprocess.run(["docker", "image", "inspect", tag], capture_output=True, text=True, check=True)
        env = {item.partition("=")[0] for item in json.loads(inspect.stdout)[0]["Config"]["Env"]}
        assert env <= {"PATH", "VIRTUAL_ENV", "PLAYWRIGHT_BROWSERS_PATH", "RUSTUP_HOME"}, tag


async def test_build_hooks(world, workspace):
    """The root hook runs as root, the other as the run's user in its home, many lines each; both are kept."""
    give(workspace)
    (workspace / "agent.yaml").write_text(
        "hooks:\n"
        "  post_build_root: |\n    id -u >/etc/of-root\n    echo 'two\n      lines' >>/etc/of-root\n"
        "  post_build: |\n    id -u >of-user\n    cd /tmp\n    pwd >>~/of-user\n"
    )
    async with Moat() as moat, moat.run(workspace, config="workspace") as run:
        assert (await run.read("/etc/of-root")).split() == [b"0", b"two", b"lines"]
        assert (await run.read("/home/moat/of-user")).split() == [b"1234", b"/tmp"]
        assert (await run.exec(["sh", "-c", "echo x >>~/of-user; stat -c %U ~"], check=True)).text == "moat\n"


async def test_a_failing_hook_is_an_error_with_what_it_said(world, workspace):
    """A build that fails is one sentence, with the end of what the build said."""
    (workspace / "agent.yaml").write_text("hooks: {post_build_root: 'echo this is why; exit 3'}\n")
    async with Moat() as moat:
        with pytest.raises(ImageError) as caught:
            async with moat.run(workspace, config="workspace"):
                pytest.fail("it opened")
    assert "this is why" in f"{caught.value} {caught.value.hint} {caught.value.details}"


async def test_no_wishes_no_build(world, workspace):
    """Without dependencies and hooks the container is made from the base itself."""
    async with Moat() as moat, moat.run(workspace) as run:
        assert run.run.plan.image.dockerfile is None
        assert run.run.image == "debian:bookworm-slim"


def test_mistakes_are_told_at_once_without_an_engine(moat, workspace):
    """Every wrong line is named, with what to write, and nothing is started."""
    (workspace / "agent.yaml").write_text("dependencies: [rufff, pytest, node@99]\n")
    done = moat("run", "--", "true", env={"DOCKER_HOST": "unix:///nowhere"})
    assert done.returncode == 2
    for words in (b"Did you mean ruff?", b"- python", b"18, 20, 22, 24"):
        assert words in done.stderr


async def test_mistakes_are_plan_errors(world, workspace):
    """The library raises them together."""
    async with Moat() as moat:
        with pytest.raises(PlanError) as caught:
            async with moat.run(workspace, dependencies=["rufff", "pytest"]):
                pytest.fail("it opened")
    assert len(caught.value.problems) == 2


def test_deps_command(moat):
    """`moat deps` works as part of the command."""
    assert json.loads(moat("deps", "list", "--json").stdout)
    assert moat("deps", "info", "rufff").returncode == 2
