"""Making a plan: what was asked for, the config and every plugin's contribution, merged in a fixed order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from moat_core.checks import ENV_NAME_RE, is_name, is_utf8
from moat_core.config.values import BadValue, check_ports
from moat_core.config.widening import left_out
from moat_core.errors import HookContractError, HostPathError, PlanError, PluginError
from moat_core.hooks.dispatch import unknown
from moat_core.host_path import nobody, resolve
from moat_core.plan.builder import PlanBuilder
from moat_core.plan.ceiling import exceeds, fill, limits_of
from moat_core.plan.claims import ask_sandbox, check_honours, check_taken_up
from moat_core.plan.environment import ENV_PREFIX
from moat_core.plan.init import make_init
from moat_core.plan.names import random_name
from moat_core.types import Problem

if TYPE_CHECKING:
    from moat_core.config import Config
    from moat_core.hooks.dispatch import Dispatcher
    from moat_core.host_path import IsShared
    from moat_core.plan.plan import Plan
    from moat_core.plan.request import RunRequest
    from moat_core.runtime.base import RuntimeInfo
    from moat_core.types import DependencyInfo, Mount

__all__ = ["make_plan", "offered_dependencies", "runtimes"]

_MAX_PORT = 65535


def runtimes(dispatcher: Dispatcher) -> dict[str, RuntimeInfo]:
    """Return the registered runtimes by name.

    Raises:
        PluginError: Two plugins registered the same name.
    """
    return _by_name(dispatcher, "moat_register_runtimes", "runtime")


def offered_dependencies(dispatcher: Dispatcher) -> dict[str, DependencyInfo]:
    """Return what plugins let users list under ``dependencies:``, by name.

    Raises:
        PluginError: Two plugins registered the same name.
    """
    return _by_name(dispatcher, "moat_register_dependencies", "dependency")


def _by_name(dispatcher: Dispatcher, hook: str, what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for plugin, info in dispatcher.collect_items(hook):
        if not isinstance(getattr(info, "name", None), str):
            message = f"Plugin '{plugin}': {hook} gave {info!r:.100}, which names no {what}."
            raise HookContractError(message, hint="`moat hooks` shows what it is to return.", plugin=plugin)
        if info.name in found:
            raise PluginError(
                f"Plugins '{owners[info.name]}' and '{plugin}' both register a {what} '{info.name}'.",
                hint=f"Go without one of them: --without {plugin}.",
            )
        found[info.name], owners[info.name] = info, plugin
    return found


def make_plan(request: RunRequest, config: Config, dispatcher: Dispatcher, *, given: IsShared = nobody) -> Plan:
    """Decide everything about a run. Reads files, asks no engine, changes nothing.

    Args:
        given: Tells which folders of the host runs were ever given to write to: no link is followed below them.

    Raises:
        PlanError: What was asked for does not hold together; it carries every problem found.
        UnknownName: There is no such runtime.
    """
    config = fill(config)
    core = config.core
    name = request.name or core.name or random_name(request.run_id)
    plan = PlanBuilder(request.run_id, name, _runtime(request, config, dispatcher), request.workspace)
    plan.offered, plan.given = offered_dependencies(dispatcher), given
    plan.command = None if request.hold else request.command or core.command
    plan.limits = limits_of(config)
    plan.network = core.network
    plan.sandbox = ask_sandbox(request, config)
    plan.dns = core.container.dns
    plan.stdin = request.interactive or (core.interactive and not request.hold)
    plan.tty, plan.size = request.tty, request.size
    plan.keep, plan.rebuild, plan.timeout_s = request.keep, request.rebuild, request.timeout_s
    plan.set_env("MOAT_RUN_ID", plan.run_id)
    plan.set_env("MOAT_NAME", plan.name)
    _check_request(request, plan)
    if (warning := left_out(config)) is not None:
        plan.problems.append(warning)

    for impl in dispatcher.plugins.implementations("moat_add_to_plan"):
        with plan.contributing(impl.plugin_name):
            dispatcher.call(impl, "moat_add_to_plan", request=request, config=config, plan=plan)
    _add_what_the_user_wants(request, config, plan)

    frozen = plan.freeze()
    _check_env(plan, frozen)
    found = [problem for _, problem in dispatcher.collect_items("moat_check_plan", plan=frozen)]
    found += exceeds(frozen, request, config)
    found += _find_bytes(frozen)
    found += check_taken_up(request, config, plan.claims)
    found += check_honours(frozen, runtimes(dispatcher)[plan.runtime])
    problems = [problem for problem in [*plan.problems, *found] if problem.severity == "error"]
    if problems:
        raise PlanError(problems)
    make_init(frozen)
    warnings = tuple(problem for problem in found if problem.severity == "warning")
    needs_trust = () if config.is_trusted else config.widenings
    return attrs.evolve(frozen, warnings=(*frozen.warnings, *warnings), needs_trust=needs_trust)


def _runtime(request: RunRequest, config: Config, dispatcher: Dispatcher) -> str:
    known = runtimes(dispatcher)
    name = request.runtime or config.core.runtime
    if name is None:
        choice = dispatcher.first("moat_choose_runtime", request=request, config=config)
        if choice is None:
            problem = Problem("No plugin brings a runtime.", "`moat plugins` shows what is loaded.")
            raise PlanError([problem])
        name = str(choice.value)
    if name not in known:
        raise unknown("runtime", name, sorted(known))
    return name


def _find_bytes(plan: Plan) -> list[Problem]:
    """Find what no engine can be told: it takes Unicode text only, and would mount or name another file."""
    hint = "Give it a name that is UTF-8, or put a link of such a name to it: engines take no other."
    said = [(f"The workspace {str(plan.workspace)!r}", str(plan.workspace), hint)]
    said += [(f"The mounted path {mount.source!r}", mount.source, hint) for mount in plan.mounts]
    said += [(f"The mount's target {mount.target!r}", mount.target, hint) for mount in plan.mounts]
    said += [(f"The value of {key}", each.value, "Set it for one command: exec can.") for key, each in plan.env.items()]
    said = [each for number, each in enumerate(said) if each[1] not in [before[1] for before in said[:number]]]
    return [Problem(f"{what} is not UTF-8.", hint) for what, value, hint in said if not is_utf8(value)]


def _check_request(request: RunRequest, plan: PlanBuilder) -> None:
    if not is_name(plan.name):
        plan.problem(
            f"{plan.name!r} cannot be a run's name.",
            "Use 1 to 63 of a-z, 0-9 and '-', not beginning or ending in '-': it is part of host names.",
            where="--name" if request.name else "",
        )
    if plan.command is not None and (not plan.command or not plan.command[0]):
        plan.problem("The command is empty.", "Name a program after `--`.")
    for key in request.env:
        if not ENV_NAME_RE.fullmatch(key):
            plan.problem(f"{key!r} cannot be the name of an environment variable.", where="--env")
    for endpoint, number in request.ports.items():
        if not _is_port(endpoint, number):
            plan.problem(f"{endpoint}: {number} is not an endpoint and its port (1 to {_MAX_PORT}).", where="ports")


def _is_port(endpoint: str, number: int) -> bool:
    return is_name(endpoint) and 1 <= number <= _MAX_PORT


def _check_env(plan: PlanBuilder, frozen: Plan) -> None:
    for key, item in frozen.env.items():
        if key.startswith(ENV_PREFIX):
            plan.problem(f"{key} cannot be set: moat hands variables over under such names.", where=item.origin)


def _add_what_the_user_wants(request: RunRequest, config: Config, plan: PlanBuilder) -> None:
    """After all plugins, so that it wins."""
    with plan.contributing(config.path.name if config.path else "config"):
        for key, value in config.core.env.items():
            plan.set_env(key, value, by="config")
        for mount in config.core.mounts:
            _add_mount(plan, mount, "mounts")
        for endpoint, number in config.core.ports.items():
            plan.add_port(endpoint, number)
    with plan.contributing("request"):
        for key, value in request.env.items():
            plan.set_env(key, value, by="flag")
        for mount in request.mounts:
            _add_mount(plan, mount, "--mount")
        for endpoint, number in request.ports.items():
            if _is_port(endpoint, number):  # else it is a problem by now
                plan.add_port(endpoint, number)
        try:
            check_ports(plan.ports)
        except BadValue as error:
            plan.problem(f"Config and request together: {error.reason}.", error.hint, where="ports")


def _add_mount(plan: PlanBuilder, mount: Mount, where: str) -> None:
    """Add what the user wants mounted. An engine would say less clearly that it is not there, or make it."""
    try:
        resolve(mount.source, plan.is_shared)
    except HostPathError:
        pass  # `add_mount` says so
    except (OSError, ValueError):
        plan.problem(f"There is no {mount.source} to mount at {mount.target}.", where=where)
    plan.add_mount(mount.source, mount.target, read_only=mount.read_only)
