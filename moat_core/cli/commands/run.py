"""``moat run``: in the foreground, detached, or only planned."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import attrs
import click

from moat_core.api.live import live
from moat_core.cli.context import CliContext, pass_cli, run_async
from moat_core.cli.options import SECONDS
from moat_core.cli.progress import ProgressPrinter
from moat_core.cli.render import format_size, print_json, print_problem, printable, say, warn
from moat_core.cli.terminal import Screen, can_write, feed, follow_size, raw_mode, terminal_size
from moat_core.cli.trust import truster
from moat_core.config import parse_env_flag, parse_mount_flag, parse_port_flag
from moat_core.errors import ConfigError, UsageError, WorkspaceError
from moat_core.types import Output, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from moat_core.api import Moat, RunHandle
    from moat_core.api.live import Lived
    from moat_core.config import Config
    from moat_core.plan import Plan, RunRequest

__all__ = ["run"]

T = TypeVar("T")
_SIGPIPE_EXIT = 128 + 13


class _AfterDashes(click.Command):
    """A command whose ``--`` ends its own arguments: what follows is the user's, word for word."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            cut = args.index("--")
            ctx.meta["moat.command"] = tuple(args[cut + 1 :])
            args = args[:cut]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*filter(None, super().collect_usage_pieces(ctx)), "[-- COMMAND ...]"]


@click.command(cls=_AfterDashes)
@click.argument("path", default=".", required=False)
@click.argument("extra", nargs=-1, required=False, metavar="")
@click.option("-n", "--name", help="The agent's name; part of its host names.")
@click.option("-d", "--detach", is_flag=True, help="Return when the run is up; it lives on by itself.")
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on; on a terminal, as a terminal.")
@click.option("-e", "--env", multiple=True, metavar="K[=V]", help="Set a variable, or pass on yours.")
@click.option("-m", "--mount", multiple=True, metavar="SRC:DST[:ro]", help="Mount a folder or file.")
@click.option("-p", "--port", multiple=True, metavar="NAME=N", help="Publish port N as the endpoint NAME.")
@click.option("--dep", multiple=True, metavar="NAME", help="Add a dependency; `moat deps list` shows them.")
@click.option("--base-image", help="Use another base image (Debian or a derivative).")
@click.option("--runtime", help="Use another runtime; `moat plugins` shows who brings them.")
@click.option("--sandbox/--no-sandbox", default=None, help="Insist on gVisor, or go without it.")
@click.option("--trust/--no-trust", default=None, help="Trust agent.yaml as it is, or leave out what needs that.")
@click.option("--config", "config_file", metavar="FILE", help="Read this file of yours instead of agent.yaml.")
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help="Kill the command after so long.")
@click.option("--keep", is_flag=True, help="Leave the container behind, stopped, when it has ended well.")
@click.option("--rebuild", is_flag=True, help="Build the image anew.")
@click.option("--dry-run", is_flag=True, help="Show the plan, and who contributed what; do nothing.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run or --detach: print JSON.")
@pass_cli
def run(context: CliContext, /, **options: Any) -> int:
    """Run a command, or what agent.yaml says, in an isolated container.

    PATH is the workspace (default: the current folder); it appears at /workspace. The exit code is the command's
    own; 126 and 127 as shells use them, 128+n for signals, 2 for a mistake in what was asked, 125 for anything else.

    \b
    moat run -- pytest -q
    moat run --dep node@22 -p web=3000 ./site -- npm start
    moat run -i                          a shell
    moat run -d --name api ./api         in the background; then: moat logs -f api
    """
    if options["extra"]:
        raise click.UsageError(
            f"Put the command after `--`: moat run {options['path']} -- {' '.join(options['extra'])}"
        )
    request = _request(context.moat, click.get_current_context().meta.get("moat.command"), options)
    plan = context.moat.plan(request)
    if options["dry_run"]:
        _show_plan(plan, as_json=options["as_json"])
        return 0
    if options["as_json"] and not options["detach"]:
        raise click.UsageError("--json goes with --detach or --dry-run: stdout is the command's own.")
    if options["detach"]:
        return run_async(context, lambda moat: _detached(context, moat, request, plan, options))
    return run_async(context, lambda moat: _foreground(moat, request, plan))


def _request(moat: Moat, command: tuple[str, ...] | None, options: dict[str, Any]) -> RunRequest:
    path = Path(options["path"])
    if command is None and path.name == options["path"] and not path.exists():
        raise WorkspaceError(f"There is no folder '{path}' here.", hint=f"A command goes after --: moat run -- {path}")
    tty = options["interactive"] and os.isatty(0) and os.isatty(1)
    try:
        config = _config(moat, path, options) if path.is_dir() else None
    except PermissionError as error:
        raise WorkspaceError(
            f"The workspace {path} cannot be read: {error.strerror}.", hint="Run moat as somebody who may."
        ) from error
    configured = config.core.command if config else None
    interactive = options["interactive"] or bool(config and config.core.interactive and command is None)
    if command is None and configured is None and interactive:
        command = ("/bin/bash",)
    if command is None and configured is None and config and not (options["detach"] or options["dry_run"]):
        raise UsageError(
            "There is nothing to run.",
            hint="Put a command after `--` or as `command:` into agent.yaml; "
            "-i opens a shell, -d waits for `moat exec`.",
        )
    if command == ():
        raise UsageError("The command after `--` is empty.", hint="moat run -- pytest -q")
    if options["detach"] and options["interactive"]:
        raise UsageError("--detach and --interactive exclude each other.", hint="Use `moat exec -i` on a detached run.")
    _check_env(options["env"], config)
    problems: list[Problem] = []
    env = _parse(lambda text: parse_env_flag(text, os.environ), options["env"], problems)
    mounts = _parse(lambda text: parse_mount_flag(text, Path.cwd()), options["mount"], problems)
    ports = _parse(parse_port_flag, options["port"], problems)
    if problems:
        raise ConfigError(problems)
    return moat.request(
        path,
        command=command,
        name=options["name"],
        config=(config and config.file) or options["config_file"],
        env=dict(env),
        mounts=mounts,
        ports=dict(ports),
        dependencies=options["dep"],
        base_image=options["base_image"],
        runtime=options["runtime"],
        sandbox=options["sandbox"],
        interactive=interactive,
        tty=tty or (interactive and os.isatty(0) and os.isatty(1)),
        size=terminal_size() if interactive and os.isatty(1) else None,
        keep=options["keep"],
        rebuild=options["rebuild"],
        timeout_s=options["timeout"],
    )


def _config(moat: Moat, path: Path, options: dict[str, Any]) -> Config:
    """Read the config, and have it decided whether what it widens is heeded; a plan that is only shown asks nobody."""
    word, file = options["trust"], options["config_file"]
    if options["dry_run"]:
        return moat.config(path, config=file or {None: "trusted", True: "workspace", False: None}[word])
    return moat.config(path, config=file, trust=truster(moat, word))


def _check_env(texts: Iterable[str], config: Config | None) -> None:
    for text in texts:
        if config and not config.ceiling.host_env and "=" not in text:
            raise UsageError(
                f"--env {text} would pass a variable of yours on, which your ceiling forbids.",
                hint="It is your own: `ceiling: {host_env: false}` in ~/.config/moat/config.yaml.",
            )


def _parse(parse: Callable[[str], T], texts: Iterable[str], problems: list[Problem]) -> list[T]:
    """Return what PARSE makes of each of TEXTS, and add what is wrong with any to PROBLEMS: all is told at once."""
    made = []
    for text in texts:
        try:
            made.append(parse(text))
        except ConfigError as error:
            problems.extend(error.problems)
    return made


async def _foreground(moat: Moat, request: RunRequest, plan: Plan) -> int:
    screen, printer = Screen(), ProgressPrinter()
    broken = False

    async def show(output: Output) -> None:
        nonlocal broken
        printer.clear()
        try:
            await screen.write(output)
        except BrokenPipeError:  # our reader has left, as `| head` does: so does the run
            broken = True
            handle.run.cancel()

    handle = moat.open(request, plan=plan, on_output=show, on_event=printer)

    async def ready() -> None:
        printer.clear()
        _tell_urls(handle.urls)
        if plan.stdin:
            await handle.run.start_service("stdin", _stdin, handle, plan)

    def on_signal(_number: int, count: int) -> None:
        screen.hurry()
        if count == 1 and can_write(2):
            say("\rStopping; once more to stop waiting.")

    try:
        lived = await live(handle, on_ready=ready, on_signal=on_signal)
    finally:
        screen.reset()
        printer.clear()
    _tell_end(lived, plan)
    return _SIGPIPE_EXIT if broken else lived.exit_code


def _tell_end(lived: Lived, plan: Plan) -> None:
    """Say what the exit code does not."""
    if lived.run is not None:
        for problem in lived.run.problems:
            print_problem(problem)
        if plan.keep and lived.run.outcome.status == "finished":
            say(f"Kept: {plan.name} ({plan.run_id}). `moat destroy {plan.run_id}` removes it.")
    if lived.result is not None and lived.result.timed_out:
        warn(f"The command was killed after {plan.timeout_s:g} s, its time limit.")
    if lived.result is not None and lived.result.oom_killed:
        warn("The kernel killed something in the container for want of memory.")


def _tell_urls(urls: Mapping[str, str]) -> None:
    """Say where the endpoints are, one a line."""
    for endpoint, url in urls.items():
        say(f"{endpoint}: {url}")


async def _stdin(handle: RunHandle, plan: Plan, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    # Raw only while there is a command to take the keys: before and after it, Ctrl-C is for us.
    with raw_mode() if plan.tty else nullcontext():
        task_status.started()
        async with anyio.create_task_group() as group:
            if plan.tty:
                group.start_soon(follow_size, handle.main)
            group.start_soon(feed, handle.main)
            await handle.run.main_done.wait()
            group.cancel_scope.cancel()
    await anyio.sleep_forever()


async def _detached(context: CliContext, moat: Moat, request: RunRequest, plan: Plan, options: dict[str, Any]) -> int:
    from moat_core.api.supervisor import detach

    printer = ProgressPrinter()
    # The plan has given the run its name; the supervisor must come to the same one.
    request = attrs.evolve(request, name=plan.name)

    def told(message: dict[str, Any]) -> None:
        if "progress" in message:
            printer.progress(message["progress"])
        elif "warning" in message:
            printer.clear()
            say(f"warning: {message['warning']['message']}")

    try:
        ready = await detach(moat.home, request, without=context.without, on_message=told)
    finally:
        printer.clear()
    if options["as_json"]:
        print_json(ready)
    else:
        print(ready["id"])
        say(f"{ready['name']} is up ({ready['oci_runtime']}). Follow it: moat logs -f {ready['name']}")
        _tell_urls(ready["urls"])
    return 0


def _show_plan(plan: Plan, *, as_json: bool) -> None:
    if as_json:
        print_json(plan.to_json())
        return
    lines: list[tuple[str, str]] = [
        ("run", f"{plan.name} ({plan.run_id})"),
        ("workspace", str(plan.workspace)),
        ("command", " ".join(plan.command) if plan.command is not None else "(none: waits for exec)"),
        ("image", plan.image.reference + (f" (built from {plan.image.base})" if plan.image.dockerfile else "")),
        ("isolation", f"{plan.runtime}, {plan.oci_runtime or 'the default OCI runtime'}"),
        ("user", f"{plan.user.name} ({plan.user.uid}:{plan.user.gid}), home {plan.user.home}"),
        ("network", plan.network + (", a segment of its own" if plan.own_network else "")),
        (
            "limits",
            f"memory {plan.limits.memory_bytes or '-'}, cpus {plan.limits.cpus or '-'}, pids {plan.limits.pids}",
        ),
    ]
    lines += [("privileged", plan.privileged)] if plan.privileged else []
    lines += [("mount", str(mount)) for mount in plan.mounts]
    lines += [("tmpfs", f"{tmpfs.target} ({format_size(tmpfs.size_bytes)})") for tmpfs in plan.tmpfs]
    lines += [
        ("volume", f"{each.target} ({f'kept for {each.cache}' if each.cache else 'gone with the run'})")
        for each in plan.volumes
    ]
    lines += [("port", f"{port.endpoint} = {port.number}") for port in plan.ports]
    lines += [
        ("env", f"{key}={item.value if not item.origin.startswith('flag') else '…'}   [{item.origin}]")
        for key, item in plan.env.items()
    ]
    lines += [("capability", f"{name}: {why}") for name, why in plan.capabilities.items()]
    lines += [("init step", step.name) for step in plan.init_steps]
    lines += [("note", f"{note.text}   [{note.origin}]") for note in plan.notes]
    lines += [("needs trust", f"{each.key}: {each.value}: {each.why}   [{each.where}]") for each in plan.needs_trust]
    for key, value in lines:
        print(f"{key:<11} {printable(value)}")
    for problem in plan.warnings:
        print_problem(problem)
