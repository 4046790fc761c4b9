"""``moat status``: what there is on this machine, and what of it nobody needs."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import click

from moat_core.cli.context import CliContext, pass_cli, run_async
from moat_core.cli.options import json_option
from moat_core.cli.render import format_size, print_json, print_problem, printable, style
from moat_core.types import Problem, StatusLine

if TYPE_CHECKING:
    from moat_core.api import Moat, RunInfo
    from moat_core.ledger import Upkeep
    from moat_core.types import Leftover

__all__ = ["folder_size", "status", "survey_status"]

_SURVEY_S = 20.0


@click.command("status")
@json_option
@pass_cli
def status(context: CliContext, /, *, as_json: bool) -> None:
    """Sum up runs, images, networks, disk and leftovers.

    It answers without an engine, too, and says what it could not see. The fields of --json: home; runs (as in
    `moat list --json`); sections (name -> lines with name, text and data); leftovers and dead_runs, which
    `moat clean` removes; problems.

    \b
    moat status
    moat status --json
    """
    context.keep_going()
    found = run_async(context, _look)
    if as_json:
        print_json(found.to_json())
    else:
        _print(found)
    for problem in found.problems:
        print_problem(problem)


@attrs.frozen
class _Found:
    home: str
    runs: list[RunInfo]
    lines: list[StatusLine]
    leftovers: list[Leftover]
    dead_runs: list[str]
    problems: list[Problem]

    def to_json(self) -> dict[str, Any]:
        sections: dict[str, list[dict[str, Any]]] = {}
        for line in self.lines:
            sections.setdefault(line.section, []).append(
                {"name": line.name, "text": line.text, "data": dict(line.data)}
            )
        return {
            "home": self.home,
            "runs": [info.to_json() for info in self.runs],
            "sections": sections,
            "leftovers": [
                {
                    "kind": each.kind,
                    "name": each.name,
                    "run_id": each.run_id,
                    "reason": each.reason,
                    "size_bytes": each.size_bytes,
                }
                for each in self.leftovers
            ],
            "dead_runs": self.dead_runs,
            "problems": [problem.to_json() for problem in self.problems],
        }


async def _look(moat: Moat) -> _Found:
    problems: list[Problem] = []
    upkeep = moat.upkeep()
    runs = await moat.list(over=True)
    lines, wrong = await survey_status(upkeep)
    leftovers, wrong_too = await upkeep.find_leftovers()
    problems += wrong + wrong_too
    problems += [Problem(text) for text in dict.fromkeys(info.engine_error for info in runs if info.engine_error)]
    unique = {problem.message: problem for problem in reversed(problems)}
    return _Found(
        home=moat.home.path,
        runs=runs,
        lines=[_disk(moat), *lines],
        leftovers=[each for _, each in leftovers],
        dead_runs=upkeep.dead_runs(),
        problems=list(reversed(unique.values())),
    )


async def survey_status(upkeep: Upkeep) -> tuple[list[StatusLine], list[Problem]]:
    """Ask every plugin what it holds; one that hangs is a problem."""
    with anyio.move_on_after(_SURVEY_S):
        items, problems = await upkeep.dispatcher.survey("moat_add_to_status", upkeep=upkeep)
        return [item for _, item in items], problems
    return [], [Problem(f"The plugins did not answer in {_SURVEY_S:.0f} s.", "Is the engine well?")]


def _disk(moat: Moat) -> StatusLine:
    size = folder_size(moat.home.path)
    logs = folder_size(moat.home.runs)
    data = {"path": moat.home.path, "size_bytes": size, "logs_bytes": logs}
    return StatusLine("disk", moat.home.path, f"{format_size(size)}, of which logs {format_size(logs)}", data)


def folder_size(path: str) -> int:
    """Return how many bytes the files below PATH have; what vanishes meanwhile counts nothing."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    return total


def _print(found: _Found) -> None:
    states = Counter(str(info.state) for info in found.runs)
    counted = ", ".join(f"{count} {state}" for state, count in states.items()) or "none"
    _heading("runs")
    print(f"  {counted}")
    sections: dict[str, list[StatusLine]] = {}
    for line in found.lines:
        sections.setdefault(line.section, []).append(line)
    for section, lines in sections.items():
        _heading(section)
        for line in lines:
            print(f"  {printable(line.name)}  {printable(line.text)}".rstrip())
    _heading("leftovers")
    remains = [info for info in found.runs if info.state in {"exited", "failed", "kept", "gone"}]
    for each in found.leftovers:
        size = f"  {format_size(each.size_bytes)}" if each.size_bytes is not None else ""
        print(f"  {each.kind} {printable(each.name)}{size}  {printable(each.reason)}")
    for run_id in found.dead_runs:
        print(f"  run {run_id}  Its owner died, and it could not be undone yet.")
    if remains:
        print(f"  {len(remains)} {'run is' if len(remains) == 1 else 'runs are'} over, with their logs")
    if found.leftovers or found.dead_runs or remains:
        print("  `moat clean` removes them.")
    else:
        print("  none")


def _heading(text: str) -> None:
    print(style(printable(text), "bold"))
