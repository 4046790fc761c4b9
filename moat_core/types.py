"""Frozen values that every layer speaks of. Nothing here does anything."""

from __future__ import annotations

import enum
import re
import secrets
from collections.abc import Mapping
from typing import Literal

import attrs

from moat_core import checks
from moat_core.checks import NAME_RE, is_name
from moat_core.errors import CommandFailed, CommandTimeout
from moat_core.findings import Check, Leftover, StatusLine

__all__ = [
    "NAME_RE",
    "RUN_ID_RE",
    "Check",
    "Command",
    "CommandInfo",
    "DependencyInfo",
    "EnvValue",
    "ExecResult",
    "ImageSpec",
    "InitStep",
    "Leftover",
    "Limits",
    "Mount",
    "Output",
    "Port",
    "Problem",
    "RunState",
    "StatusLine",
    "Stream",
    "Tmpfs",
    "User",
    "Volume",
    "is_name",
    "new_run_id",
]

RUN_ID_RE = re.compile(r"run-[0-9a-f]{8}")


def new_run_id() -> str:
    """Make a run id: ``run-`` and 8 random hex digits."""
    return "run-" + secrets.token_hex(4)


Stream = Literal["stdout", "stderr"]
"""Where a piece of output came from. With a TTY everything is ``stdout``."""


class RunState(enum.StrEnum):
    """What the engine (and the owner's lock) say of a run; never what a file says."""

    STARTING = "starting"
    """Its owner lives; it has no started container yet."""
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"  # the container has ended, the owner still undoes things
    KEPT = "kept"
    """Over, but its container was kept on request."""
    GONE = "gone"  # it was kept, and has been removed from outside
    EXITED = "exited"
    FAILED = "failed"
    """Over; it could not be opened, was cancelled, or its owner died."""
    UNKNOWN = "unknown"
    """The engine, whose word is needed, does not answer."""


@attrs.frozen
class Problem:
    """A thing that is wrong without being fatal by itself, or one of several that are.

    Args:
        message: One sentence.
        hint: What to do.
        where: ``agent.yaml:3``, ``--mount``, a plugin's name …
    """

    message: str
    hint: str = ""
    where: str = ""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  {self.hint}" if self.hint else text

    def to_json(self) -> dict[str, str]:
        """Return the four fields as a dict."""
        return {"severity": self.severity, "where": self.where, "message": self.message, "hint": self.hint}


@attrs.frozen
class DependencyInfo:
    """A name for ``dependencies:`` that a plugin brings, and then finds in ``plan.details["dependencies"]``.

    Args:
        name: ``family:mode``; only one mode of a family may be asked for.
        implies: Names that are installed with it; ``script``: sh that the build runs as root after them.
        widens: What it gives a run beyond the default, so that a workspace's file needs trust for it; ``""``: nothing.
    """

    name: str
    summary: str
    implies: tuple[str, ...] = ()
    script: str = ""
    widens: str = "what a plugin gives the run"


@attrs.frozen(field_transformer=checks.fields(source=checks.path, target=checks.path, read_only=checks.flag))
class Mount:
    """A host folder or file, bound into the container. Both paths are absolute.

    Args:
        identity: Device and inode of the source when it was planned (`moat_core.host_path`); its path is then without
            links, and a run does not start with anything else. ``None``: it is looked at when the run opens.
    """

    source: str
    target: str
    read_only: bool = False
    identity: tuple[int, int] | None = attrs.field(
        default=None,
        repr=False,
        eq=False,
        kw_only=True,
        metadata={"moat_asks": ()},  # core itself sees to it
    )

    def __str__(self) -> str:
        return f"{self.source}:{self.target}" + (":ro" if self.read_only else "")


@attrs.frozen(field_transformer=checks.fields(target=checks.path, size_bytes=checks.count))
class Tmpfs:
    """Memory-backed scratch space.

    Args:
        target: Absolute path in the container; ``size_bytes`` is its upper limit.
        options: Further mount options as the engine takes them (``exec``, ``mode=1777``).
    """

    target: str
    size_bytes: int = 64 * 1024 * 1024
    options: tuple[str, ...] = ()


@attrs.frozen
class Volume:
    """Storage that the engine keeps outside any container's layers.

    Args:
        name: A DNS label, unique within the run.
        cache: ``""``: the run's own, made empty and gone with it. Else what it is kept for across runs (an agent's
            name), in one workspace, see `moat_core.runtime.locks`: who mounts it holds a lock, if only one may;
            ``moat clean`` removes it.
    """

    name: str
    target: str
    cache: str = ""


@attrs.frozen(field_transformer=checks.fields(value=checks.word, origin=checks.text))
class EnvValue:
    """One variable of the container's environment, and who gave it that value."""

    value: str
    origin: str


@attrs.frozen(field_transformer=checks.fields(endpoint=checks.text, number=checks.port))
class Port:
    """A port of the container that is published on 127.0.0.1, by its endpoint's name."""

    endpoint: str
    number: int


@attrs.frozen(field_transformer=checks.fields(uid=checks.count, gid=checks.count, name=checks.text, home=checks.path))
class User:
    """Who the command runs as. ``name`` and ``home`` exist in the container."""

    uid: int = 0
    gid: int = 0
    name: str = "root"
    home: str = "/root"


@attrs.frozen(
    field_transformer=checks.fields(memory_bytes=checks.count_or_none, cpus=checks.amount_or_none, pids=checks.count)
)
class Limits:
    """Ceilings of the container; ``None`` leaves the engine's own."""

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int = 4096


@attrs.frozen
class ImageSpec:
    """What the container is made from.

    Args:
        base: An image reference; it is pulled if the engine does not have it.
        dockerfile: If set, an image is built from this text and ``base`` is only for show.
        tag: The name of the image to build; stands for *everything* that decides its content.
        files: Build context beside the Dockerfile: path -> content.
        build_args: ``--build-arg`` values. Proxy settings do not decide the content, the others are in the tag.
        trust: Certificates (PEM, one each) of CAs to trust beside the base's own, in builds and in runs.
            `moat_core.plan.finish_image` writes them into the Dockerfile, before anything is fetched.
    """

    base: str
    dockerfile: str | None = None
    tag: str | None = None
    files: Mapping[str, bytes] = attrs.field(factory=dict)
    build_args: Mapping[str, str] = attrs.field(factory=dict)
    trust: tuple[bytes, ...] = ()

    @property
    def reference(self) -> str:
        """What the container is created from."""
        return self.tag or self.base


@attrs.frozen(field_transformer=checks.fields(name=checks.text, script=checks.text, order=checks.whole))
class InitStep:
    """A piece of POSIX sh that `moat-init` runs as root, before privileges are dropped and the command starts.

    Steps run by ``order`` (then as added), in subshells, under ``set -eu``; one that fails ends the run, and is named.
    Only what every Debian base has may be called, and every process costs milliseconds in gVisor. Root has nothing of
    the run's environment; its PATH is `moat_core.plan.ROOT_PATH`, its folder ``/``.

    Args:
        name: For messages.
        script: The sh text. Values from outside go in through `shlex.quote`.
        order: Lower comes first; 50 is the middle.
        as_user: Run it as the run's user, in the working folder, after all of root's; it prints to stderr.
        inline: Run it as a function of root's: a fork less (16 ms in gVisor). It ends early by ``return``, never
            ``exit``, and leaves no options, traps or variables (but ``moat_*``) behind.
        env: Those of the run's variables that it wants all the same: data, never what programs obey. Not inline.
    """

    name: str
    script: str
    order: int = 50
    as_user: bool = False
    inline: bool = False
    env: tuple[str, ...] = ()


@attrs.frozen(field_transformer=checks.fields(
    argv=checks.argv, env=checks.env, cwd=checks.optional(checks.path), user=checks.optional(checks.user),
    tty=checks.flag, stdin=checks.flag, size=checks.optional(checks.size),
))  # fmt: skip
class Command:
    """A command to run inside.

    Args:
        argv: Program and arguments; no shell is involved.
        env: Added to the run's environment.
        cwd: Working folder; ``None`` is the run's.
        user: ``None`` is the run's; ``"root"`` or ``"uid:gid"`` else, who finds nothing of the run's environment.
        tty: Give it a pseudo-terminal; stdout and stderr are then one.
        stdin: Give it a standard input (``write``, ``close_stdin``); else it reads end-of-file at once.
        size: Rows and columns of the terminal.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = attrs.field(factory=dict)
    cwd: str | None = None
    user: str | None = None
    tty: bool = False
    stdin: bool = False
    size: tuple[int, int] | None = None


@attrs.frozen
class Output:
    """A piece of output, in the order it was received. ``data`` is never empty, and splits anywhere."""

    stream: Stream
    data: bytes


@attrs.frozen
class ExecResult:
    """How a command ended.

    Args:
        exit_code: 0 to 255; 126 and 127 as shells use them, 128 + n when signal n ended it.
        stdout: What was kept of it, as bytes; `text` decodes.
        stderr: Likewise.
        truncated: Output beyond the limit was dropped (from the middle on: the *beginning* is kept).
        timed_out: ``timeout_s`` passed and the whole process tree was killed.
        oom_killed: The kernel killed something in the container for want of memory.
        duration_s: Seconds from the request to the end.
    """

    argv: tuple[str, ...]
    exit_code: int
    stdout: bytes = b""
    stderr: bytes = b""
    truncated: bool = False
    timed_out: bool = False
    oom_killed: bool = False
    duration_s: float = 0.0

    @property
    def returncode(self) -> int:
        """The same as ``exit_code``, for those used to `subprocess`."""
        return self.exit_code

    @property
    def ok(self) -> bool:
        """Whether it ended by itself, with 0."""
        return self.exit_code == 0 and not self.timed_out

    @property
    def text(self) -> str:
        """``stdout`` as UTF-8, with replacement characters for what is not."""
        return self.stdout.decode("utf-8", "replace")

    def check(self) -> ExecResult:
        """Return this result, or raise.

        Raises:
            CommandTimeout: It was killed when its time was up.
            CommandFailed: It ended with another code than 0.
        """
        program = self.argv[0] if self.argv else "the command"
        tail = self.stderr.decode("utf-8", "replace").strip().splitlines()[-3:]
        hint = "\n".join(tail)
        if self.timed_out:
            raise CommandTimeout(
                f"{program} was killed after {self.duration_s:.1f} s, its time limit.", self, hint=hint
            )
        if self.exit_code != 0:
            why = " (out of memory)" if self.oom_killed else ""
            raise CommandFailed(f"{program} ended with exit code {self.exit_code}{why}.", self, hint=hint)
        return self


@attrs.frozen
class CommandInfo:
    """A verb that a plugin adds to the command line.

    Args:
        name: The verb, ``deps``.
        summary: One line for ``moat --help``.
        load: ``"package.module:attribute"`` of a `click.Command`; imported only when the verb is used.
    """

    name: str
    summary: str
    load: str
