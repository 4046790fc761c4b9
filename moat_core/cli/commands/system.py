"""``moat system``: what the engines hold of moat's, whatever makes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from moat_core.cli.commands.status import survey_status
from moat_core.cli.context import CliContext, pass_cli, run_async
from moat_core.cli.options import json_option
from moat_core.cli.render import print_json, print_problem, print_table
from moat_core.errors import EngineError, RuntimeUnavailable
from moat_core.plan import runtimes
from moat_core.runtime.load import load_attribute
from moat_core.types import Problem, StatusLine

if TYPE_CHECKING:
    from moat_core.api import Moat
    from moat_core.runtime.base import Runtime

__all__ = ["system"]

_CONTAINER_FIELDS = ("id", "name", "run_id", "role", "state", "oci_runtime", "runtime", "address")


@click.group("system")
def system() -> None:
    """Show the engine's images, containers and networks of moat."""


@system.command("containers")
@json_option
@pass_cli
def containers(context: CliContext, /, *, as_json: bool) -> int:
    """Show every container of moat's, sidecars too, in every state.

    The fields of --json: id, name, run_id, role, state, oci_runtime, runtime, address.

    \b
    moat system containers
    """
    context.keep_going()
    found, problems = run_async(context, _containers)
    if as_json:
        print_json(found)
    else:
        headers = ("CONTAINER ID", "NAME", "RUN ID", "ROLE", "STATE", "OCI RUNTIME")
        rows = [[str(each[name]) for name in _CONTAINER_FIELDS[:6]] for each in found]
        print_table(headers, [[row[0][:12], *row[1:]] for row in rows], shrink=1)
    return _tell(problems, answered=bool(found) or not problems)


async def _containers(moat: Moat) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Ask every engine of a remembered run, and each runtime's default one."""
    known, upkeep = runtimes(moat.dispatcher), moat.upkeep()
    engines = [(name, address) for name, address in upkeep.addresses() if name in known]
    found: dict[str, dict[str, Any]] = {}
    problems: list[Problem] = []
    for name in known:
        kind: type[Runtime] = load_attribute(known[name].load)
        try:
            engines.append((name, kind.find_address()))
        except RuntimeUnavailable as error:
            problems.append(Problem(error.message, error.hint, name))
    for name, address in dict.fromkeys(engines):
        kind = load_attribute(known[name].load)
        try:
            sandboxes = await (await upkeep.connection(kind, address)).find_sandboxes()
        except (RuntimeUnavailable, EngineError) as error:
            problems.append(Problem(error.message, error.hint, name))
            continue
        for each in sandboxes:
            found[each.id] = {
                "id": each.id,
                "name": each.name,
                "run_id": each.run_id,
                "role": each.role,
                "state": str(each.state),
                "oci_runtime": each.oci_runtime,
                "runtime": name,
                "address": address,
            }
    return list(found.values()), problems


def _section(name: str, section: str, what: str) -> click.Command:
    """Return the verb that shows the lines which plugins give for a section of `moat status`."""

    @click.command(name, help=f"{what}\n\n--json prints objects with name, text and the plugin's own fields.")
    @json_option
    @pass_cli
    def show(context: CliContext, /, *, as_json: bool) -> int:
        context.keep_going()

        async def look(moat: Moat) -> tuple[list[StatusLine], list[Problem]]:
            lines, problems = await survey_status(moat.upkeep())
            return [line for line in lines if line.section == section], problems

        lines, problems = run_async(context, look)
        if as_json:
            print_json([{"name": line.name, "text": line.text, **line.data} for line in lines])
        else:
            print_table((name[:-1].upper(), "ABOUT"), [(line.name, line.text) for line in lines], shrink=1)
        return _tell(problems, answered=bool(lines) or not problems)

    return show


def _tell(problems: list[Problem], *, answered: bool) -> int:
    for problem in problems:
        print_problem(problem)
    return 0 if answered else RuntimeUnavailable.exit_code


system.add_command(_section("images", "images", "Show the images that moat built."))
system.add_command(_section("networks", "networks", "Show the networks that runs share."))
