"""``moat doctor``: what is wrong with this machine, and what mends it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import click

from moat_core.cli.context import CliContext, pass_cli
from moat_core.cli.options import json_option
from moat_core.cli.render import format_size, print_json, printable, style
from moat_core.config import left_out
from moat_core.errors import ConfigError, MoatError
from moat_core.types import Check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moat_core.api import Moat

__all__ = ["core_checks", "doctor"]

_LOW_BYTES = 1_000_000_000
_NONE_BYTES = 100_000_000
_OLDEST_PYTHON = (3, 11)
_ASK_S = 60.0
_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command("doctor")
@json_option
@pass_cli
def doctor(context: CliContext, /, *, as_json: bool) -> int:
    """Check this machine: moat itself, every plugin's needs, and the current folder's config.

    Exits with 1 if there is an error. --json prints a list of objects: plugin, name, status (ok, warning, error),
    message, fix.

    \b
    moat doctor
    moat doctor --json | jq '.[] | select(.status != "ok")'
    """
    context.keep_going()
    found = anyio.run(_examine, context)
    if as_json:
        print_json([{"plugin": plugin, **attrs.asdict(check)} for plugin, check in found])
    else:
        _print(found)
    return 1 if any(check.status == "error" for _, check in found) else 0


async def _examine(context: CliContext) -> list[tuple[str, Check]]:
    # Not run_async: a machine that is ill may not be able to reap, and that is for us to say.
    try:
        moat = context.quiet_moat()
        checks = [("moat", check) for check in core_checks(moat, Path.cwd())]
    except MoatError as error:
        return [("moat", Check("plugins", "error", error.message, error.hint))]
    async with moat:
        try:
            with anyio.move_on_after(_ASK_S) as scope:
                upkeep = moat.upkeep()
                found, problems = await upkeep.dispatcher.survey("moat_find_faults", upkeep=upkeep)
                checks += found
                checks += [(each.where, Check("plugin", "error", each.message, each.hint)) for each in problems]
            if scope.cancelled_caught:
                message = f"The plugins did not answer in {_ASK_S:.0f} s."
                checks.append(("moat", Check("plugins", "error", message, "Is the engine well? Try `docker info`.")))
        except MoatError as error:
            checks.append(("moat", Check("state", "error", error.message, error.hint)))
    return checks


def core_checks(moat: Moat, folder: Path) -> Iterator[Check]:
    """Yield what core itself needs."""
    yield _python()
    yield _home(moat.home.path)
    yield _store(moat)
    yield _space(moat.home.path)
    yield _shell()
    yield from _plugins(moat)
    yield from _config(moat, folder)


def _python() -> Check:
    text = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}."
    if sys.version_info < _OLDEST_PYTHON:
        return Check("python", "error", text, "Install Python 3.11 or newer.")
    return Check("python", "ok", text)


def _home(path: str) -> Check:
    existing = path
    while not os.path.exists(existing) and os.path.dirname(existing) != existing:
        existing = os.path.dirname(existing)
    fix = "Make it writable, or set MOAT_HOME to another folder."
    try:
        # access(2) says yes to root on a read-only or full file system; a file tells.
        with tempfile.NamedTemporaryFile(dir=existing) as file:
            file.write(b"moat")
            file.flush()
    except OSError as error:
        return Check("home", "error", f"{path} cannot be written: {error.strerror or error}.", fix)
    made = "" if existing == path else " (it is made when it is first needed)"
    return Check("home", "ok", f"The state folder is {path}{made}.")


def _store(moat: Moat) -> Check:
    try:
        dead = [run_id for run_id in moat.store.unfinished() if not _is_live(moat, run_id)]
    except MoatError as error:
        return Check("state", "error", error.message, error.hint)
    if dead:
        return Check("state", "warning", f"The owners of {', '.join(dead)} died.", "moat clean")
    return Check("state", "ok", "The state file is whole.")


def _is_live(moat: Moat, run_id: str) -> bool:
    from moat_core.store.paths import is_locked

    return is_locked(moat.home.run_lock(run_id))


def _space(path: str) -> Check:
    existing = path
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    free = shutil.disk_usage(existing).free
    text = f"{format_size(free)} are free for the state folder."
    if free < _NONE_BYTES:
        return Check("disk", "error", text, "Free some space: moat clean, docker system prune.")
    if free < _LOW_BYTES:
        return Check("disk", "warning", text, "Free some space: moat clean, docker system prune.")
    return Check("disk", "ok", text)


def _shell() -> Check:
    if os.access("/bin/sh", os.X_OK):
        return Check("shell", "ok", "/bin/sh is there, for the watchdog.")
    return Check("shell", "error", "/bin/sh cannot be started; each run's watchdog needs it.", "Install a POSIX shell.")


def _plugins(moat: Moat) -> Iterator[Check]:
    infos = moat.plugin_infos()
    for info in infos:
        if info.state == "broken":
            fix = f"Mend or uninstall it, or go without: MOAT_DISABLE={info.name}"
            yield Check("plugin", "error", info.error, fix)
    loaded = [info.name for info in infos if info.state == "loaded"]
    if not loaded:
        yield Check("plugins", "error", "No plugin is loaded, so nothing can run.", "Reinstall moat.")
    else:
        yield Check("plugins", "ok", f"Loaded: {', '.join(loaded)}.")


def _config(moat: Moat, folder: Path) -> Iterator[Check]:
    try:
        config = moat.config(folder, config="trusted")
    except ConfigError as error:
        for problem in error.problems:
            where = f"{problem.where}: " if problem.where else ""
            yield Check("config", "error", where + problem.message, problem.hint)
    except MoatError as error:
        yield Check("config", "error", error.message, error.hint)
    else:
        what = f"{config.path.name} is valid." if config.path else "There is no config file here; none is needed."
        unheeded = left_out(config)
        yield Check("config", "ok", f"{what} {unheeded.message}" if unheeded else what)


def _print(found: list[tuple[str, Check]]) -> None:
    width = max(len(f"{plugin} {check.name}") for plugin, check in found)
    for plugin, check in found:
        mark = style(check.status.ljust(7), _COLOURS[check.status])
        print(mark, f"{printable(plugin)} {printable(check.name)}".ljust(width), printable(check.message))
        if check.fix and check.status != "ok":
            for line in printable(check.fix).splitlines():
                print(" " * 7, " " * width, "->", line)
    counts: dict[str, Any] = {name: sum(check.status == name for _, check in found) for name in _COLOURS}
    print(f"{counts['ok']} ok, {counts['warning']} warnings, {counts['error']} errors")
