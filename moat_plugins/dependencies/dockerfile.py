"""The Dockerfile of a run: the same text for the same dependencies, always, in the order that caches best.

What changes seldom comes first. Only what the engine's classic builder knows is used. Everything is installed for
everybody, below ``/usr/local`` and ``/opt/moat``: which user the run will have is not the image's business.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import attrs

from moat_core.plan import DEFAULT_IMAGE
from moat_plugins.dependencies.custom import APT, custom_commands, program_command
from moat_plugins.dependencies.python import python_lines
from moat_plugins.dependencies.scripts import FOLDER, SCRIPTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from moat_core.types import User
    from moat_plugins.dependencies.parse import Dependency
    from moat_plugins.dependencies.registry import Installer

__all__ = ["Built", "Hooks", "choose_base", "make_dockerfile"]

_DEBIAN_PYTHON = "3.11"
"""Of `DEFAULT_IMAGE`."""
_PYTHON_IF_MISSING = "$(python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3 python3-venv)"
_NEEDS_APT = "moat: dependencies need a base image with apt-get, of Debian or Ubuntu."
_ENV = {"playwright": "PLAYWRIGHT_BROWSERS_PATH=/opt/moat/playwright", "rust": "RUSTUP_HOME=/opt/moat/rustup"}


@attrs.frozen
class Hooks:
    """The user's own sh texts at the end of the build: ``root`` first, then ``user`` as the run's user."""

    root: str | None = None
    user: str | None = None


@attrs.frozen
class Built:
    """What to build: the text, and the files beside it."""

    base: str
    dockerfile: str
    files: Mapping[str, bytes]


def choose_base(dependencies: Sequence[Dependency], asked: str | None) -> str:
    """Return the image to start from: what was ASKED for, an only language's official image, or the default.

    Python is Debian's own where that is what is wanted.
    """
    runtimes = [each for each in dependencies if each.entry.kind == "runtime"]
    if asked is not None or len(runtimes) != 1:
        return asked or DEFAULT_IMAGE
    only = runtimes[0]
    if only.name == "python" and only.version in {"", _DEBIAN_PYTHON}:
        return DEFAULT_IMAGE
    return f"golang:{only.version}" if only.name == "go" else f"{only.name}:{only.version}-slim"


def make_dockerfile(
    dependencies: Sequence[Dependency], hooks: Hooks, user: User, asked_base: str | None
) -> Built | None:
    """Return what to build; ``None`` if the base is all that is needed.

    Args:
        dependencies: In order of name.
        hooks: To run at the end.
        user: Whom the run will have; only its own hook makes it matter.
        asked_base: The base that the user wants, if any.
    """
    base = choose_base(dependencies, asked_base)
    is_official = asked_base is None and base != DEFAULT_IMAGE
    names = {each.name for each in dependencies}
    if is_official and names <= {"node", "go"}:
        dependencies = ()
    if not dependencies and hooks == Hooks():
        return None
    files: dict[str, bytes] = {}
    lines = ["# Made by moat.", f"FROM {base}", "USER root"]
    if dependencies:
        lines += _install_lines(_Groups(dependencies), files, base, is_official=is_official)
    lines += _hook_lines(hooks, user, files)
    return Built(base, "\n".join(lines) + "\n", files)


class _Groups:
    """The dependencies by how they are installed, each group in order of name."""

    def __init__(self, dependencies: Sequence[Dependency]) -> None:
        self._all = dependencies
        self.names = {each.name: each for each in dependencies}

    def of(self, *installers: Installer) -> list[Dependency]:
        return [each for each in self._all if each.entry.installer in installers]

    @property
    def downloads(self) -> list[Dependency]:
        """What is fetched as a file. With Python there, uv comes from the index, which knows its digest."""
        return [each for each in self.of("download") if each.name != "uv" or "python" not in self.names]


def _install_lines(groups: _Groups, files: dict[str, bytes], base: str, *, is_official: bool) -> list[str]:
    lines = ["ARG DEBIAN_FRONTEND=noninteractive", _apt_line(groups, is_official=is_official)]
    languages = [] if is_official else groups.of("node", "go")
    if languages or groups.downloads or groups.of("custom"):
        lines.append(_copy(files, "fetch.sh", SCRIPTS["fetch.sh"]))
    for each in languages:
        lines.append(_copy(files, f"{each.name}.sh", SCRIPTS[f"{each.name}.sh"]))
        lines.append(f"RUN sh {FOLDER}/{each.name}.sh {shlex.quote(each.version)}")
    lines += [f"RUN . {FOLDER}/fetch.sh; {_download(each)}" for each in groups.downloads]
    lines += _npm_lines(groups.of("npm"))
    if (python := groups.names.get("python")) is not None:
        is_own = base == DEFAULT_IMAGE and python.version == _DEBIAN_PYTHON
        lines += python_lines(
            python,
            groups.names.get("uv"),
            groups.of("python-package"),
            groups.of("python-program"),
            is_native=not python.version or is_official or is_own,
        )
    for each in groups.of("custom"):
        lines.append(_run([f". {FOLDER}/fetch.sh", *custom_commands(each)], "; "))
        lines += [f"ENV {_ENV[each.name]}"] if each.name in _ENV else []
    lines += [_go_line(each) for each in groups.of("go-install")]
    lines += [_cargo_line(each) for each in groups.of("cargo")]
    for each in groups.of("plugin"):
        if each.entry.script:
            file = each.name.replace(":", "-") + ".sh"
            lines += [_copy(files, file, each.entry.script), f"RUN sh -eu {FOLDER}/{file}"]
    return lines


def _apt_line(groups: _Groups, *, is_official: bool) -> str:
    """Return the one RUN for everything of the distribution: what is wanted, and what installing the rest takes."""
    packages = {"ca-certificates"} | {each.package for each in groups.of("apt")}
    if groups.downloads or (groups.of("node", "go") and not is_official):
        packages.add("curl")
    if any(each.entry.download and ".zip" in each.entry.download.url for each in groups.downloads):
        packages.add("unzip")
    for each in groups.of("custom"):
        packages.update(APT.get(each.name, ()))
    wanted = sorted(packages)
    if "python" in groups.names and not is_official:
        wanted.append(_PYTHON_IF_MISSING)
    commands = [
        f"{{ command -v apt-get >/dev/null || {{ echo {shlex.quote(_NEEDS_APT)} >&2; exit 1; }}; }}",
        "apt-get -o Acquire::Retries=3 update",
        f"apt-get -o Acquire::Retries=3 install -y --no-install-recommends {' '.join(wanted)}",
        "rm -rf /var/lib/apt/lists/*",
    ]
    return _run(commands, " && ")


def _download(dependency: Dependency) -> str:
    download, version = dependency.entry.download, dependency.version
    assert download is not None
    known = download.sha256 if version == dependency.entry.default else {}
    return program_command(
        dependency.entry.program,
        download.url.replace("{version}", version),
        download.member.replace("{version}", version),
        (download.amd64, download.arm64),
        (known.get("amd64", ""), known.get("arm64", "")),
    )


def _npm_lines(dependencies: Sequence[Dependency]) -> list[str]:
    """Return the RUNs for npm's packages; another npm comes first, since it installs the others."""
    first = [each for each in dependencies if each.name == "npm"]
    others = [each for each in dependencies if each.name != "npm"]
    return [
        f"RUN npm install --global --no-fund --no-audit --no-update-notifier --cache /tmp/npm {_specs(group)}"
        " && rm -rf /tmp/npm"
        for group in (first, others)
        if group
    ]


def _specs(dependencies: Iterable[Dependency]) -> str:
    return shlex.join(_at(each.package, each.version) for each in dependencies)


def _go_line(dependency: Dependency) -> str:
    version = dependency.version or "latest"
    if version[0].isdigit():
        version = "v" + version  # Go's versions begin with one, and everybody forgets it
    return (
        "RUN GOBIN=/usr/local/bin GOPATH=/tmp/go GOCACHE=/tmp/go-cache GOFLAGS=-modcacherw go install"
        f" {shlex.quote(_at(dependency.package, version))} && rm -rf /tmp/go /tmp/go-cache"
    )


def _cargo_line(dependency: Dependency) -> str:
    version = f" --version {shlex.quote(dependency.version)}" if dependency.version else ""
    return (
        "RUN CARGO_HOME=/tmp/cargo CARGO_TARGET_DIR=/tmp/target cargo install --locked --root /usr/local"
        f"{version} {shlex.quote(dependency.package)} && rm -rf /tmp/cargo /tmp/target"
    )


def _hook_lines(hooks: Hooks, user: User, files: dict[str, bytes]) -> list[str]:
    """Return the RUNs for the user's own texts. They are files, so that no line of theirs can end the RUN."""
    lines: list[str] = []
    if hooks.root is not None:
        lines.append(_copy(files, "post_build_root.sh", hooks.root + "\n"))
        lines.append(f"RUN sh -e {FOLDER}/post_build_root.sh")
    if hooks.user is not None:
        lines.append(_copy(files, "post_build.sh", hooks.user + "\n"))
        home = shlex.quote(user.home)
        if user.uid != 0:
            lines.append(f"RUN install -d -m 700 -o {user.uid} -g {user.gid} {home}")
            lines.append(f"USER {user.uid}:{user.gid}")
        lines.append(f"RUN cd {home} && HOME={home} sh -e {FOLDER}/post_build.sh")
        lines.append("USER root")
    return lines


def _copy(files: dict[str, bytes], name: str, text: str) -> str:
    """Put TEXT into the build's context as NAME and return the line that puts it into the image."""
    files[f"moat/{name}"] = text.encode()
    return f"COPY moat/{name} {FOLDER}/{name}"


def _run(commands: Iterable[str], joint: str) -> str:
    return "RUN " + f"{joint}\\\n    ".join(commands)


def _at(name: str, version: str) -> str:
    return f"{name}@{version}" if version else name
