"""The plan: everything that decides what a run will be, frozen and printable."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from moat_core.config import Widening
from moat_core.types import EnvValue, ImageSpec, InitStep, Limits, Mount, Port, Problem, Tmpfs, User, Volume

__all__ = ["Note", "Plan"]


@attrs.frozen
class Note:
    """Who contributed what, in words, for ``--dry-run``."""

    origin: str
    text: str


@attrs.frozen(kw_only=True)
class Plan:
    """One run, decided. Two plans from the same request, config and files are equal.

    Args:
        command: ``None``: no command of its own; the container waits for ``exec``.
        user: Whom privileges are dropped to.
        groups: Further numeric groups.
        capabilities: Linux capabilities that are kept (without ``CAP_``) -> why. All others are dropped. ``ALL`` is
            all, and then programs may gain privileges, too.
        privileged: Why the container must be privileged, which is root on the engine's machine; ``""``: it is not.
        oci_runtime: What the engine shall start the container with; ``None`` is its default.
        sandboxed: Whether that isolates more than the kernel's namespaces do.
        network: ``bridge`` reaches the world; ``none`` does not.
        own_network: The run needs a segment of its own, because several containers of it must see each other.
        hosts: Name -> address for ``/etc/hosts``; `Run.add_host` adds what is only known later.
        dns: Name servers; empty leaves the engine's.
        tty: The main process gets a terminal, of ``size`` (rows, columns) if that is known.
        stdin: The main process gets a standard input.
        details: What plugins tell each other, under their own names; JSON-able.
        needs_trust: What the workspace's file would give the run and is not in this plan, because the user has not
            said that the file is trusted.
    """

    run_id: str
    name: str
    runtime: str
    workspace: Path
    command: tuple[str, ...] | None
    image: ImageSpec
    env: Mapping[str, EnvValue]
    mounts: tuple[Mount, ...]
    tmpfs: tuple[Tmpfs, ...]
    volumes: tuple[Volume, ...]
    user: User
    groups: tuple[int, ...]
    capabilities: Mapping[str, str]
    privileged: str
    oci_runtime: str | None
    sandboxed: bool
    network: Literal["bridge", "none"]
    own_network: bool
    hosts: Mapping[str, str]
    dns: tuple[str, ...]
    ports: tuple[Port, ...]
    init_steps: tuple[InitStep, ...]
    limits: Limits
    working_dir: str
    tty: bool
    size: tuple[int, int] | None
    stdin: bool
    keep: bool
    rebuild: bool
    timeout_s: float | None
    warnings: tuple[Problem, ...]
    notes: tuple[Note, ...]
    details: Mapping[str, Any]
    needs_trust: tuple[Widening, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what ``--dry-run --json`` prints. Values given by flag are left out: they may be secrets."""
        left_out = {"image", "env", "workspace", "needs_trust", "identity"}
        data = attrs.asdict(self, filter=lambda field, _: field.name not in left_out)
        return data | {
            "workspace": str(self.workspace),
            "needs_trust": [each.to_json() for each in self.needs_trust],
            "image": {
                "reference": self.image.reference,
                "base": self.image.base,
                "dockerfile": self.image.dockerfile,
                "files": sorted(self.image.files),
            },
            "env": {
                key: {"origin": item.origin} | ({} if item.origin.startswith("flag") else {"value": item.value})
                for key, item in sorted(self.env.items())
            },
        }
