"""What ``moat doctor`` says of gVisor: registered, with which options, and how old."""

from __future__ import annotations

import datetime as dt
import re
import shutil
from typing import TYPE_CHECKING

import anyio

from moat_core.errors import MoatError
from moat_core.runtime.load import load_attribute
from moat_core.types import Check
from moat_plugins.gvisor.explain import INSTALL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moat_core.ledger import Upkeep
    from moat_core.runtime.base import OciRuntimes, Runtime, RuntimeInfo

__all__ = ["check_age", "check_options", "find_faults"]

_ASK_S = 15.0
_VERSION_S = 5.0
_OLD_DAYS = 365
_RELEASE = re.compile(r"release-(\d{4})(\d{2})(\d{2})")
_NAME = "gVisor"

# What runsc's own documentation says against them: https://gvisor.dev/docs/user_guide/
_BAD_OPTIONS = {
    "--network=host": "gives the run the host's network stack instead of gVisor's own",
    "--host-uds=all": "lets a run connect to every Unix socket that is mounted into it",
    "--host-uds=open": "lets a run connect to every Unix socket that is mounted into it",
    "--TESTONLY-unsafe-nonroot": "is for gVisor's own tests",
    "--debug": "writes a log of every system call, which is slow and fills the disk",
    "--strace": "writes a log of every system call, which is slow and fills the disk",
}


async def find_faults(upkeep: Upkeep) -> Iterable[Check]:
    """Check every runtime that offers a choice of OCI runtimes and answers; others report themselves."""
    checks: list[Check] = []
    for _, info in upkeep.dispatcher.collect_items("moat_register_runtimes"):
        checks += await _ask(upkeep, info)
    return checks


async def _ask(upkeep: Upkeep, info: RuntimeInfo) -> Iterable[Check]:
    kind: type[Runtime] = load_attribute(info.load)
    try:
        with anyio.fail_after(_ASK_S):
            known = await (await upkeep.connection(kind, "")).oci_runtimes()
    except TimeoutError:  # an engine's own time-out is one, too
        text = f"Whether {info.name} has gVisor is unknown: it did not answer in {_ASK_S:g} s."
        return [Check(_NAME, "warning", text, "Is the engine well?")]
    except MoatError:
        return ()
    return await _check(known) if known is not None else ()


async def _check(known: OciRuntimes) -> list[Check]:
    if known.is_desktop or known.engine_os != "linux":
        return [Check(_NAME, "ok", "This engine is in a virtual machine of its own; gVisor is not used with it.")]
    names = [name for name in known.names if name.startswith("runsc")]
    if not names:
        return [Check(_NAME, "error", "gVisor is not registered with this engine, so no run can start.", INSTALL)]
    checks = [Check(_NAME, "ok", f"gVisor is registered as {', '.join(names)}.")]
    for name in names:
        checks += check_options(name, known.commands.get(name, ()))
    path = next((known.commands[name][0] for name in names if known.commands.get(name)), "")
    checks += check_age(await _version(path), dt.datetime.now(dt.UTC).date())
    return checks


def check_options(name: str, command: tuple[str, ...]) -> list[Check]:
    """Look at the COMMAND (path and arguments) that runsc is registered with under NAME."""
    options = [re.sub(r"^--?", "--", option).removesuffix("=true") for option in command[1:]]
    return [
        Check(
            f"{_NAME} ({name})",
            "warning",
            f"It is registered with {option}, which {_BAD_OPTIONS[option]}.",
            f"Take {option} out of runtimeArgs in /etc/docker/daemon.json; sudo systemctl reload docker",
        )
        for option in options
        if option in _BAD_OPTIONS
    ]


def check_age(version: str, today: dt.date) -> list[Check]:
    """Judge what ``runsc --version`` says: ``runsc version release-20240729.0 …``."""
    found = _RELEASE.search(version)
    try:
        released = dt.date(*(int(part) for part in found.groups())) if found else None
    except ValueError:
        released = None
    if released is None:
        return []
    days = (today - released).days
    if days <= _OLD_DAYS:
        return [Check(f"{_NAME} release", "ok", f"runsc is of {released}.")]
    return [
        Check(
            f"{_NAME} release",
            "warning",
            f"runsc is of {released}; newer kernels may be more than it knows.",
            "sudo apt-get update && sudo apt-get install -y runsc",
        )
    ]


async def _version(path: str) -> str:
    """Ask the program, if the engine is on this machine and it is here; ``""`` if not."""
    program = shutil.which(path) if path else None
    if program is None:
        return ""
    try:
        with anyio.fail_after(_VERSION_S):
            done = await anyio.run_process([program, "--version"], check=False)
    except (OSError, TimeoutError):
        return ""
    return done.stdout.decode("utf-8", "replace")
