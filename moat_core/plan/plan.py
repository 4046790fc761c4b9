"""The plan: everything that decides what a run will be, frozen and printable."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from moat_core.config import Widening
from moat_core.plan.claims import ASKS
from moat_core.types import EnvValue, ImageSpec, InitStep, Limits, Mount, Port, Problem, Tmpfs, User, Volume

__all__ = ["Note", "Plan"]


@attrs.frozen
class Note:
    """Who contributed what, in words, for ``--dry-run``."""

    origin: str
    text: str


def _own(default: Any = attrs.NOTHING) -> Any:
    """Return a field that core itself sees to, or that only says something."""
    return attrs.field(default=default, metadata={ASKS: ()})


def _asks(nothing: object) -> Any:
    """Return a field that asks something of a runtime unless it is NOTHING; see `moat_core.plan.claims`."""
    return attrs.field(metadata={ASKS: (nothing,)})


@attrs.frozen(kw_only=True)
class Plan:
    """One run, decided. Two plans from the same request, config and files are equal.

    What a field asks for, a runtime has to say that it honours (ADR 23); a new field asks until it says otherwise.

    Args:
        command: ``None``: no command of its own; the container waits for ``exec``.
        user: Whom privileges are dropped to.
        groups: Further numeric groups.
        capabilities: Linux capabilities that are kept (without ``CAP_``) -> why. All others are dropped. ``ALL`` is
            all, and then programs may gain privileges, too.
        privileged: Why the container must be privileged, which is root on the engine's machine; ``""``: it is not.
        oci_runtime: What the engine shall start the container with; ``None`` is its default.
        sandbox: Whether it is to be isolated by more than the kernel's namespaces: ``True`` insists, ``None`` is the
            default and means the same where it can be had, ``False``: somebody asked for less.
        sandboxed: Whether the OCI runtime does isolate more.
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

    run_id: str = _own()
    name: str = _own()
    runtime: str = _own()
    workspace: Path = _own()
    command: tuple[str, ...] | None = _asks(None)
    image: ImageSpec = attrs.field()
    env: Mapping[str, EnvValue] = _asks({})
    mounts: tuple[Mount, ...] = _asks(())
    tmpfs: tuple[Tmpfs, ...] = _asks(())
    volumes: tuple[Volume, ...] = _asks(())
    user: User = _asks(User())
    groups: tuple[int, ...] = _asks(())
    capabilities: Mapping[str, str] = attrs.field()
    privileged: str = _asks("")
    oci_runtime: str | None = _asks(None)
    sandbox: bool | None = _own()
    sandboxed: bool = _own()
    network: Literal["bridge", "none"] = _asks("bridge")
    own_network: bool = _asks(False)
    hosts: Mapping[str, str] = _asks({})
    dns: tuple[str, ...] = _asks(())
    ports: tuple[Port, ...] = _asks(())
    init_steps: tuple[InitStep, ...] = _asks(())
    limits: Limits = _asks(Limits(pids=0))
    working_dir: str = _asks("/")
    tty: bool = _asks(False)
    size: tuple[int, int] | None = _asks(None)
    stdin: bool = _asks(False)
    keep: bool = _asks(False)
    rebuild: bool = _asks(False)
    timeout_s: float | None = _own()
    warnings: tuple[Problem, ...] = _own()
    notes: tuple[Note, ...] = _own()
    details: Mapping[str, Any] = _own()
    needs_trust: tuple[Widening, ...] = _own(())

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
