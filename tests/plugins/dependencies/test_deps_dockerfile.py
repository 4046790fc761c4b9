"""The Dockerfile: the same for the same wishes, in an order that caches, harmless, and for every user."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys

import pytest

from moat_core.types import ImageSpec, User
from moat_plugins import dependencies
from moat_plugins.dependencies.dockerfile import Hooks, choose_base, make_dockerfile
from moat_plugins.dependencies.parse import resolve
from moat_plugins.dependencies.registry import REGISTRY

USER = User(1234, 5678, "moat", "/home/moat")
ALL = [name for name, entry in REGISTRY.items() if entry.kind != "meta"]
DYNAMIC = ["npm:left-pad@1.3.0", "pip:requests[socks]@2.32.0", "uv:httpie", "cargo:tokei", "go:example.com/a/b"]
KNOWN = {"FROM", "USER", "ARG", "RUN", "COPY", "ENV"}


def make(*texts, base=None, hooks=None, user=USER):
    found, problems = resolve(texts)
    assert problems == []
    return make_dockerfile(found, hooks or Hooks(), user, base)


def instructions(text):
    """Return (word, rest) of each instruction, continuation lines joined."""
    joined = text.replace("\\\n", " ")
    return [tuple(line.split(" ", 1)) for line in joined.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("base", [None, "debian:trixie-slim"])
def test_everything_at_once_is_well_formed(base):
    """All names together make a Dockerfile of nothing but what the classic builder knows; every RUN is valid sh."""
    built = make(*ALL, *DYNAMIC, base=base, hooks=Hooks("echo 1", "echo 2"))
    lines = instructions(built.dockerfile)
    assert {word for word, _ in lines} <= KNOWN
    assert "--mount" not in built.dockerfile
    assert "<<" not in built.dockerfile
    for word, rest in lines:
        if word == "RUN":
            assert subprocess.run(["sh", "-nc", rest], check=False).returncode == 0, rest
        if word == "COPY":
            assert rest.split()[0] in built.files
    assert {f"moat/{name}" for name in ("fetch.sh", "node.sh", "go.sh", "post_build.sh", "post_build_root.sh")} == set(
        built.files
    )
    for name, data in built.files.items():
        assert subprocess.run(["sh", "-n"], input=data, check=False).returncode == 0, name


@pytest.mark.parametrize("name", [*ALL, *DYNAMIC])
def test_each_by_itself_is_well_formed(name):
    """Every name builds something with just what it requires, and says its own package somewhere."""
    requires = {"npm": "node", "pip": "python", "uv": "python", "cargo": "rust", "go": "go"}
    entry = REGISTRY.get(name)
    needed = entry.requires if entry else (requires[name.partition(":")[0]],)
    built = make(name, *needed, base="debian:bookworm-slim")
    for word, rest in instructions(built.dockerfile):
        assert word in KNOWN
        if word == "RUN":
            assert subprocess.run(["sh", "-nc", rest], check=False).returncode == 0, rest
    mark = (entry.package or name) if entry else name.partition(":")[2].partition("@")[0]
    assert mark in built.dockerfile


def test_order_of_the_list_does_not_matter():
    """Every order of the same names is the same text."""
    texts = {
        make(*order).dockerfile for order in itertools.permutations(["python", "pytest", "jq", "node", "prettier"])
    }
    assert len(texts) == 1


def test_text_is_the_same_in_every_process():
    """Neither hash seeds nor anything else of a process shows."""
    program = (
        "from moat_plugins.dependencies.dockerfile import *; from moat_plugins.dependencies.parse import resolve;"
        "from moat_core.types import User; import hashlib;"
        "found, _ = resolve(['python-dev', 'python', 'k8s', 'git', 'make', 'jq', 'curl']);"
        "built = make_dockerfile(found, Hooks(), User(), None);"
        "print(hashlib.sha256((built.dockerfile + repr(list(built.files.items()))).encode()).hexdigest())"
    )
    out = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(out) == 1


@pytest.mark.parametrize(
    ("texts", "asked", "base"),
    [
        ((), None, "debian:bookworm-slim"),
        ((), "ubuntu:24.04", "ubuntu:24.04"),
        (("python",), None, "debian:bookworm-slim"),
        (("python@3.11",), None, "debian:bookworm-slim"),
        (("python@3.13",), None, "python:3.13-slim"),
        (("node",), None, "node:22-slim"),
        (("go@1.24.1",), None, "golang:1.24.1"),
        (("node", "python"), None, "debian:bookworm-slim"),
        (("node",), "debian:bookworm-slim", "debian:bookworm-slim"),
        (("jq",), None, "debian:bookworm-slim"),
    ],
)
def test_base(texts, asked, base):
    """What is asked for wins, then an only language's official image, then the default."""
    assert choose_base(resolve(texts)[0], asked) == base


@pytest.mark.parametrize(("texts", "base"), [((), None), (("node",), None), (("go",), None), ((), "ubuntu:24.04")])
def test_nothing_to_install_is_no_build(texts, base):
    """No dependencies, or an official image that has it all: nothing is built."""
    assert make(*texts, base=base) is None


def test_slow_things_come_before_changing_ones():
    """The distribution first, then languages, then tools, then the user's hooks."""
    text = make("jq", "node", "python", "prettier", "pytest", "ripgrep", hooks=Hooks("echo 1", "echo 2")).dockerfile
    marks = [
        "apt-get",
        "node.sh 22",
        "moat_program rg",
        "prettier",
        "python3 -m venv",
        "pytest",
        "post_build_root.sh",
        "post_build.sh",
    ]
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)
    assert text.count("apt-get -o Acquire::Retries=3 install") == 1


def test_lists_are_cleaned_and_nobody_is_asked():
    """apt's lists do not stay in a layer, and nothing waits for an answer."""
    text = make("jq").dockerfile
    assert "ARG DEBIAN_FRONTEND=noninteractive" in text
    assert "ENV DEBIAN_FRONTEND" not in text
    for _, rest in (line for line in instructions(text) if line[0] == "RUN"):
        if "apt-get" in rest:
            assert " -y " in rest
            assert "rm -rf /var/lib/apt/lists/*" in rest


def test_nothing_is_installed_for_root_alone():
    """Whatever user the run has can use everything: nothing goes below /root, and caches are removed."""
    built = make(*ALL, *DYNAMIC, base="debian:bookworm-slim")
    everything = built.dockerfile + b"".join(built.files.values()).decode()
    assert "/root" not in everything
    assert "break-system-packages" not in everything
    assert not re.search(r"(?<!bin/)pip install", everything.replace("uv pip install", ""))


def test_python_programs_that_import_the_run_are_beside_it():
    """pytest sees what pip: installs; ruff is by itself."""
    text = make("python", "pytest", "ruff", "pip:requests").dockerfile
    assert re.search(r"uv pip install .*requests pytest|uv pip install .*pytest requests", text)
    assert re.search(r"uv tool install .* ruff\n", text)


def test_another_python_than_the_bases_is_fetched_by_uv():
    """With a base of the user's own, a version that it has not comes from uv."""
    assert "uv venv --seed --python 3.13 " in make("python@3.13", base="debian:bookworm-slim").dockerfile
    assert "uv venv" not in make("python", base="debian:bookworm-slim").dockerfile


def test_versions_are_pinned_where_they_are_asked_for():
    """A version reaches each installer in its own spelling."""
    text = make(
        "python", "ruff@0.5.0", "pip:requests@2.32.0", "node", "prettier@3.3.0", "go", "gopls@0.16.0", "rust@1.80.0",
        "cargo:tokei@12.1.2", "ripgrep@13.0.0", "npm@10",
    ).dockerfile  # fmt: skip
    for mark in (
        "ruff==0.5.0", "requests==2.32.0", "prettier@3.3.0", "gopls@v0.16.0", "--default-toolchain 1.80.0",
        "--version 12.1.2 tokei", "ripgrep-13.0.0", "npm@10",
    ):  # fmt: skip
        assert mark in text


def test_hooks_are_files_and_run_as_whom_they_should():
    """The root hook runs as root, the other as the run's user in its home; no text of theirs can end a RUN."""
    hooks = Hooks("apt-get update\n# FROM evil\nUSER 0", "echo 'a\nRUN b'")
    built = make(hooks=hooks)
    lines = instructions(built.dockerfile)
    assert built.files["moat/post_build_root.sh"] == hooks.root.encode() + b"\n"
    assert built.files["moat/post_build.sh"] == hooks.user.encode() + b"\n"
    users = [rest for word, rest in lines if word == "USER"]
    assert users == ["root", "1234:5678", "root"]
    assert ("RUN", "cd /home/moat && HOME=/home/moat sh -e /usr/local/lib/moat/post_build.sh") in lines
    assert "evil" not in built.dockerfile


def test_root_needs_no_other_user():
    """Where the run is root's, so is its hook."""
    built = make(hooks=Hooks(user="echo 1"), user=User())
    assert [rest for word, rest in instructions(built.dockerfile) if word == "USER"] == ["root", "root"]


# -- in a plan


def test_plan_without_wishes_has_the_base_alone(planned):
    """No dependencies and no hooks: the container is made from the base itself."""
    assert planned(dependencies).freeze().image == ImageSpec("debian:bookworm-slim")
    assert planned(dependencies, text="base_image: ubuntu:24.04").freeze().image == ImageSpec("ubuntu:24.04")


def test_plan_has_a_named_image(planned):
    """With dependencies there is a Dockerfile and a name of its own; file and request are one list."""
    plan = planned(dependencies, text="dependencies: [python]", dependencies=("pytest",)).freeze()
    assert re.fullmatch(r"moat/run:[0-9a-f]{16}", plan.image.reference)
    assert plan.details["dependencies"] == ["pytest", "python"]


@pytest.mark.parametrize(
    "change",
    [
        {"text": "dependencies: [jq, git]"},
        {"text": "dependencies: [jq]\nbase_image: debian:trixie-slim"},
        {"text": "dependencies: [jq]\nhooks: {post_build: echo 1}"},
        {"text": "dependencies: [jq]\nhooks: {post_build_root: echo 1}"},
        {"text": "dependencies: [jq, python, 'pip:x']"},
        {"text": "dependencies: [jq, python, 'uv:x']"},
    ],
    ids=lambda change: change["text"],
)
def test_every_wish_is_in_the_name(planned, change):
    """Another dependency, kind, base or hook is another image."""
    names = {
        planned(dependencies, **each).freeze().image.tag
        for each in (
            {"text": "dependencies: [jq]"},
            {"text": "dependencies: [jq, python, 'npm:x', node]"},
            change,
        )
    }
    assert len(names) == 3


def test_wrong_wishes_are_problems_of_the_plan(planned):
    """All mistakes are told together, and no image is decided."""
    plan = planned(dependencies, dependencies=("rufff", "pytest"))
    assert [problem.severity for problem in plan.problems] == ["error", "error"]
    plan = planned(dependencies, base_image="NO SUCH IMAGE")
    assert [problem.where for problem in plan.problems] == ["base_image"]


def test_the_demo_has_what_it_needs(planned):
    """The example's config is understood and brings Python and pytest."""
    from pathlib import Path

    text = (Path(__file__).parents[3] / "examples/python-project/agent.yaml").read_text()
    plan = planned(dependencies, text=text).freeze()
    assert plan.details["dependencies"] == ["pytest", "python"]
    assert plan.image.base == "debian:bookworm-slim"
