"""The life of a run, from top to bottom. Read this first.

The caller's cancellation never reaches a plugin: the whole life is driven in a task of its own, inside one shielded
scope, and a watcher turns whatever happens to the caller into the request ``run.cancel()``. From there on the end
is orderly: the body is left, then everything is undone in exact reverse.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskStatus

from moat_core.errors import HookContractError, HostError, RunError, SandboxGone
from moat_core.events import PhaseStarted, RunEnded, RunMoved, RunStarted
from moat_core.ledger import follow_moves
from moat_core.lifecycle.insist import insist_on_plan, insist_on_started
from moat_core.lifecycle.mounts import check_mounts
from moat_core.lifecycle.run import Outcome, Run, RunResult

if TYPE_CHECKING:
    from moat_core.lifecycle.open import Opened
    from moat_core.runtime.base import Sandbox

__all__ = ["Body", "execute"]

Body = Callable[[Run], Awaitable[Any]]


async def execute(run: Run, opened: Opened, body: Body) -> RunResult:
    """Live through RUN: open it, run BODY in it, undo it.

    Args:
        run: Planned, not yet open.
        opened: Its lock, row and watchdog: held before anything is made, given up when all is undone.
        body: What to do while it is alive. Its value is ``result.outcome.value``.

    Returns:
        How it ended. An error of the body or of a plugin is data here (``result.check()`` raises it); only the
        caller's own cancellation is raised, after everything is undone.
    """
    results: list[RunResult] = []
    async with anyio.create_task_group() as relay:

        async def watch(*, task_status: TaskStatus[None]) -> None:
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                if not results:
                    run.cancel()

        async def drive() -> None:
            with anyio.CancelScope(shield=True):
                results.append(await _live(run, opened, body))
            relay.cancel_scope.cancel()

        await relay.start(watch)
        relay.start_soon(drive)
    await anyio.lowlevel.checkpoint()  # a cancellation of the caller's that was pending surfaces here
    return results[0]


async def _live(run: Run, opened: Opened, body: Body) -> RunResult:
    async with anyio.create_task_group() as run._services:  # noqa: SLF001
        try:
            await opened.begin(run)
            for warning in run.plan.warnings:
                await run.warn(warning)

            await run.emit(PhaseStarted(run.id, "open"))
            await _enter_all(run, "moat_open_run")
            await _step(run, insist_on_plan)
            await _step(run, opened.hold_mounts)
            await _step(run, _resolve_image)
            await _enter_all(run, "moat_open_network")
            await _enter_all(run, "moat_open_services")
            await _open_sandbox(run)
            await _enter_all(run, "moat_open_endpoints")

            if not run.cancel_requested:
                await opened.started(run)
                await run.emit(RunStarted(run.id, run.sandbox.info.oci_runtime, time.monotonic() - run.started))
                await run.emit(PhaseStarted(run.id, "act"))
                await _step(run, functools.partial(_act, body=body))
            run.outcome = run.outcome or _cancelled(run)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - how it ended is data
            run.outcome = Outcome("failed", error=error)
        except anyio.get_cancelled_exc_class():
            foreign = HookContractError("A cancellation that moat was not asked for ended the run, a plugin's perhaps.")
            run.outcome = _cancelled(run) if run.cancel_requested else Outcome("failed", error=foreign)

        # From here on every wait is shielded and has a deadline: nothing may keep the undoing from being done.
        await run.emit(RunEnded(run.id, run.outcome.status))
        await run.tell("moat_on_body_end", run=run)
        await run.emit(PhaseStarted(run.id, "finish"))
        await run.undo.unwind()
        run._services.cancel_scope.cancel()  # noqa: SLF001
    return await opened.end(run)


async def _enter_all(run: Run, hook: str) -> None:
    for wanted in run.dispatcher.contexts(hook, run=run):
        if run.cancel_requested:
            return
        context = wanted.make()
        if context is not None:
            with run.dispatcher.calling(wanted.plugin, hook):
                await run.undo.enter(wanted.plugin, hook, context)


async def _step(run: Run, step: Callable[[Run], Awaitable[Any]]) -> Any:
    """Do something that holds nothing afterwards; a cancellation ends it and leaves ``None``."""
    if run.cancel_requested:
        return None
    run.undo.target = scope = anyio.CancelScope()
    try:
        with scope:
            return await step(run)
    finally:
        run.undo.target = None
    return None


async def _resolve_image(run: Run) -> None:
    result = await run.dispatcher.afirst("moat_resolve_image", run=run)
    if result is None:
        raise HostError(f"No plugin can provide the image {run.plan.image.reference}.")
    run.image = result.value


async def _open_sandbox(run: Run) -> None:
    """Enter the one context that makes the container, and watch over what it made."""
    if run.cancel_requested:
        return
    offers = [(wanted.plugin, wanted.make()) for wanted in run.dispatcher.contexts("moat_open_sandbox", run=run)]
    offers = [(plugin, context) for plugin, context in offers if context is not None]
    if len(offers) != 1:
        who = ", ".join(plugin for plugin, _ in offers) or "nobody"
        raise HookContractError(
            f"Exactly one plugin must open a container for the runtime '{run.plan.runtime}'; {who} did.",
            hint="`moat plugins` shows what is loaded.",
        )
    plugin, context = offers[0]
    assert context is not None
    with run.dispatcher.calling(plugin, "moat_open_sandbox"):
        run._sandbox = await run.undo.enter(plugin, "moat_open_sandbox", context)  # noqa: SLF001
        if run._sandbox is not None:  # noqa: SLF001
            await _step(run, functools.partial(_admit, sandbox=run._sandbox))  # noqa: SLF001
    if run._sandbox is not None and not run.cancel_requested:  # noqa: SLF001
        await run.start_service("watch", _watch, run, run._sandbox)  # noqa: SLF001
        await run.start_service("moves", _follow, run, run._sandbox)  # noqa: SLF001
        if run.plan.timeout_s is not None:
            await run.start_service("time limit", _limit, run, run._sandbox, run.plan.timeout_s)  # noqa: SLF001


async def _admit(run: Run, sandbox: Sandbox) -> None:
    """Let the container's main process begin, once it is known what it was started with and sees of this machine."""
    insist_on_started(run)
    await check_mounts(run.held_mounts, sandbox)
    await sandbox.admit()


async def _limit(run: Run, sandbox: Sandbox, seconds: float, *, task_status: TaskStatus[None]) -> None:
    """End the run when its time is up: its own command is killed, a run without one is over."""
    task_status.started()
    await anyio.sleep(seconds)
    run.timed_out = True
    if run.plan.command is None:
        run.cancel(RunError(f"The run {run.name} was ended after {seconds:g} s, its time limit."))
    else:
        await sandbox.stop(0)
    await anyio.sleep_forever()


async def _watch(run: Run, sandbox: Sandbox, *, task_status: TaskStatus[None]) -> None:
    """See the main process end. A run without a command of its own is over then, and did not mean to be."""
    task_status.started()
    run.main_ended = await sandbox.wait()
    run.main_done.set()
    if run.plan.command is None:
        why = "out of memory" if run.main_ended.oom_killed else f"exit code {run.main_ended.exit_code}"
        run.cancel(SandboxGone(f"The container of {run.name} has ended ({why}).", hint="Was it stopped from outside?"))
    await anyio.sleep_forever()


async def _follow(run: Run, sandbox: Sandbox, *, task_status: TaskStatus[None]) -> None:
    """Tell where the container is reached each time that its engine has started it anew."""
    ports = sandbox.info.ports
    task_status.started()
    while True:
        before, ports = ports, (await sandbox.wait_moved(ports)).ports
        if run.undo.closing:
            await anyio.sleep_forever()  # what would be made for it now, nobody would undo
        await _admit(run, sandbox)  # its mounts were made anew, too
        if ports == before:
            continue
        await follow_moves(run.follow, ports)
        await run.emit(RunMoved(run.id, ports))


async def _act(run: Run, body: Body) -> None:
    value = await body(run)
    run.outcome = run.outcome or Outcome("finished", value)


def _cancelled(run: Run) -> Outcome:
    reason = run.cancel_reason
    return Outcome("failed" if reason is not None else "cancelled", error=reason)
