"""A run that is alive: what every hook of the phases open, act and finish is given."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import anyio
import attrs
from anyio.abc import TaskStatus

from moat_core.errors import HookContractError, MoatError, RunError, RunOver, ServiceCrashed, ServiceNotReady, unwrap
from moat_core.events import Event, EventStream, Progress, Warned
from moat_core.host_path import nobody
from moat_core.lifecycle.teardown import UndoStack
from moat_core.types import Problem

if TYPE_CHECKING:
    from moat_core.hooks.dispatch import Dispatcher
    from moat_core.host_path import HeldPath, IsShared
    from moat_core.ledger import Held, Ledger, Resource
    from moat_core.plan import Plan
    from moat_core.runtime.base import Connection, Runtime, Sandbox, SandboxInfo
    from moat_core.runtime.facets import PrivateFile

__all__ = ["GRACE_S", "Outcome", "Run", "RunResult"]

T = TypeVar("T")
C = TypeVar("C", bound="Connection")
GRACE_S = 10.0
"""What leaving one context may take, in seconds."""
READY_S = 60.0
"""What a service may take to say that it is ready, in seconds."""


@attrs.frozen
class Outcome:
    """How the body of a run ended.

    Args:
        status: ``finished`` (it returned), ``failed`` (something raised), ``cancelled`` (somebody asked).
        value: What the body returned.
        error: Why it failed or was cancelled.
    """

    status: Literal["finished", "failed", "cancelled"]
    value: Any = None
    error: BaseException | None = None


@attrs.frozen(kw_only=True)
class RunResult:
    """A run that is over.

    Args:
        exit_code: Of the run's own command; ``None`` if it had none or it never ended.
        problems: What did not go well without deciding the outcome: listeners that failed, things not undone.
        left: Those of them that mean that something could not be undone; the reaper is at it.
        duration_s: From the request to the end of the undoing.
    """

    run_id: str
    name: str
    outcome: Outcome
    exit_code: int | None
    oci_runtime: str | None
    problems: tuple[Problem, ...]
    left: tuple[Problem, ...]
    duration_s: float

    @property
    def is_clean(self) -> bool:
        """Whether the body finished and everything was undone."""
        return self.outcome.status == "finished" and not self.problems

    def check(self) -> RunResult:
        """Return this result, or raise what ended the run.

        Raises:
            MoatError: It failed, or was cancelled for a reason.
        """
        if self.outcome.error is not None:
            raise self.outcome.error
        if self.outcome.status == "cancelled":
            raise RunError(f"The run {self.name} was cancelled.")
        return self


@attrs.define(eq=False)
class Run:
    """One life. Made by `execute`; plugins use it, they do not make it.

    Args:
        plan: What was decided. A context of ``moat_open_run`` may replace it (`replace_plan`).
        home: The run's own folder, for its log.
        locks: Folder for `flock` files that runs share.
        labels: For everything an engine makes for this run.
        hosts: Name -> address for the container's ``/etc/hosts``, growing while the run opens.
        files: What the container is given before it starts, likewise; see `add_file`.
        urls: Endpoint -> where it is reached, set by `moat_open_endpoints`; ``http://127.0.0.1:<port>`` for the others.
        outcome: How the body ended; ``None`` until then.
        image: What ``moat_resolve_image`` answered.
        held_mounts: Target -> what of this machine is mounted there, held open from ``moat_open_network`` to the end.
        given: Tells which folders of this machine any run was ever given to write to, this one included by then.
        timed_out: The plan's ``timeout_s`` has passed.
        detached: Another process owns it now: leaving undoes nothing durable.
        main_ended: What the engine said when the main process had ended; ``main_done`` is set then.
    """

    plan: Plan
    home: Path
    locks: Path
    address: str
    labels: dict[str, str]
    dispatcher: Dispatcher
    ledger: Ledger
    runtime_class: type[Runtime]
    grace_s: float = GRACE_S
    hosts: dict[str, str] = attrs.field(factory=dict)
    files: list[PrivateFile] = attrs.field(factory=list, repr=False)
    urls: dict[str, str] = attrs.field(factory=dict)
    events: EventStream = attrs.field(factory=EventStream)
    problems: list[Problem] = attrs.field(factory=list)
    outcome: Outcome | None = None
    image: str = ""
    held_mounts: dict[str, HeldPath] = attrs.field(factory=dict)
    given: IsShared = nobody
    main_ended: SandboxInfo | None = None
    main_done: anyio.Event = attrs.field(factory=anyio.Event)
    started: float = attrs.field(factory=time.monotonic)
    undo: UndoStack = attrs.field(init=False)
    _provided: dict[type[Any], Any] = attrs.field(factory=dict)
    _services: anyio.abc.TaskGroup | None = None
    _sandbox: Sandbox | None = None
    timed_out: bool = False
    detached: bool = False
    _held: list[Held] = attrs.field(factory=list)
    _service_names: list[str] = attrs.field(factory=list)
    _requested: bool = False
    _abort: BaseException | None = None

    def __attrs_post_init__(self) -> None:
        self.undo = UndoStack(self.grace_s, self.problems)

    @property
    def id(self) -> str:
        """``run-`` and 8 hex digits."""
        return self.plan.run_id

    @property
    def name(self) -> str:
        """The agent's name."""
        return self.plan.name

    @property
    def moat_home(self) -> Path:
        """The state folder, ``MOAT_HOME``: for what several runs share, in a folder of the plugin's name."""
        return self.locks.parent

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody asked for the end."""
        return self._requested

    @property
    def cancel_reason(self) -> BaseException | None:
        """The error that was given as the reason."""
        return self._abort

    @property
    def time_left_s(self) -> float | None:
        """What is left of the plan's ``timeout_s``, in seconds; ``None`` without a limit."""
        if self.plan.timeout_s is None:
            return None
        return max(0.0, self.plan.timeout_s - (time.monotonic() - self.started))

    @property
    def service_names(self) -> tuple[str, ...]:
        """What runs in the background of this process for the run."""
        return tuple(self._service_names)

    @property
    def sandbox(self) -> Sandbox:
        """The live container.

        Raises:
            RunOver: There is none, not yet or not any more.
        """
        if self._sandbox is None:
            raise RunOver(f"The run {self.name} has no container now.")
        return self._sandbox

    def cancel(self, error: BaseException | None = None) -> None:
        """Ask for the end, once politely; asked again while it is undone, nothing gets any more time.

        Args:
            error: Why. The run then counts as failed with it, else as cancelled. Something that breaks while the
                run is undone anyway takes nobody's patience.
        """
        if self._requested and self.undo.closing and error is None:
            self.undo.lose_patience()
        self._requested, self._abort = True, self._abort or error
        if self.undo.target is not None and not self.undo.closing:
            self.undo.target.cancel()

    def replace_plan(self, plan: Plan) -> None:
        """Change the plan while nothing has been made from it: in ``moat_open_run`` only."""
        if self.image:
            raise HookContractError("The plan may only be replaced in moat_open_run.")
        self.plan = plan

    def provide(self, value: object, kind: type[Any] | None = None, *, replace: bool = False) -> None:
        """Offer VALUE to other plugins, under its class or KIND.

        Args:
            replace: Whoever asks from now on gets this one, although there is one already.

        Raises:
            HookContractError: There is one already: two plugins would not know of each other.
        """
        key = kind or type(value)
        if key in self._provided and not replace:
            raise HookContractError(
                f"There is a {key.__qualname__} in the run {self.name} already.",
                hint="Only one can be got: ask for its replacement with replace=True, or offer another type.",
            )
        self._provided[key] = value

    def get(self, kind: type[T]) -> T:
        """Return what was provided as KIND.

        Raises:
            HookContractError: Nobody provided it.
        """
        if kind not in self._provided:
            raise HookContractError(f"Nothing provides {kind.__qualname__} in the run {self.name}.")
        value: T = self._provided[kind]
        return value

    def add_host(self, name: str, address: str) -> None:
        """Make NAME resolve to ADDRESS inside, in every runtime."""
        self.hosts[name] = address

    def add_file(self, file: PrivateFile) -> None:
        """Put FILE into the run's container before it starts, by runtimes that have sidecars."""
        self.files.append(file)

    async def runtime(self) -> Runtime:
        """Return the connection to the engine that makes this run's containers."""
        return await self.ledger.connection(self.runtime_class, self.address)

    async def connection(self, kind: type[C], address: str) -> C:
        """Return the open connection of KIND to ADDRESS, shared by everybody in this process."""
        return await self.ledger.connection(kind, address)

    async def acquire(self, resource: Resource) -> Any:
        """Make a durable thing so that it cannot be lost, and return what its ``create`` returned.

        It is undone when the run unwinds, in reverse order, by the reaper if we die, and at once if making it
        fails.
        """
        held = await self.ledger.acquire(resource)

        self._held.append(held)

        async def release() -> None:
            if self.detached:
                return  # another process owns it now
            self._held.remove(held)
            await self.ledger.settle(held, keep=self.plan.keep and self._ended_well())

        self.undo.push("ledger", resource.kind, release)
        return held.value

    def follow(self, ports: Mapping[int, int]) -> None:
        """Have what was acquired follow the container, whose engine has started it anew (the lifecycle does)."""
        for held in self._held:
            self.ledger.follow(held, ports)

    async def start_service(
        self, name: str, func: Callable[..., Awaitable[Any]], *args: Any, ready_s: float = READY_S
    ) -> Any:
        """Run FUNC in the background and return what it passed to ``task_status.started(value)``.

        Its stop is pushed on the undo stack now, so it outlives whatever is opened later and is gone before
        what was opened earlier. Its early end, or its crash, ends the run in order.

        Args:
            name: For messages.
            func: ``async def func(*args, task_status)``; it must call ``task_status.started()``.
            ready_s: How long it may take to do so, in seconds.

        Raises:
            ServiceNotReady: ``ready_s`` passed; the service is stopped.
        """
        assert self._services is not None
        self._service_names.append(name)
        scope, done = anyio.CancelScope(), anyio.Event()

        async def supervise(*, task_status: TaskStatus[Any]) -> None:
            status = _Status(task_status)
            try:
                with scope:
                    await func(*args, task_status=status)
                if not scope.cancel_called and not self.undo.closing:
                    self.cancel(ServiceCrashed(f"The service {name} of {self.name} ended early."))
            except Exception as raised:
                if not status.ready:
                    raise
                error = unwrap(raised)
                if scope.cancel_called or self.undo.closing:
                    self.problems.append(Problem(f"{type(error).__name__}: {error}", where=name))
                else:
                    self.cancel(error if isinstance(error, MoatError) else _crashed(name, error))
            finally:
                done.set()

        value = None
        with anyio.move_on_after(ready_s) as starting:
            value = await self._services.start(supervise)
        if starting.cancelled_caught:
            raise ServiceNotReady(f"The service {name} of {self.name} was not ready within {ready_s:g} s.")

        async def stop() -> None:
            scope.cancel()
            await done.wait()

        self.undo.push("service", name, stop)
        return value

    async def emit(self, event: Event) -> None:
        """Tell subscribers and the hook ``moat_on_event``."""
        self._publish(event)
        await self.tell("moat_on_event", run=self, event=event)

    async def tell(self, hook: str, **arguments: Any) -> None:
        """Tell everyone who implements an event hook; they have ``grace_s`` in all, and their failures are problems."""
        if self.dispatcher.has(hook):
            self.problems += await self.dispatcher.notify(hook, budget_s=self.grace_s, **arguments)

    def progress(self, task: str, text: str = "", **numbers: Any) -> None:
        """Tell subscribers that long work goes on; see `Progress` for the NUMBERS."""
        self._publish(Progress(self.id, task, text, **numbers))

    def _publish(self, event: Event) -> None:
        try:
            self.events.publish(event)
        except Exception as error:  # noqa: BLE001 - a listener may not keep a run from being undone
            self.problems.append(Problem(f"A subscriber failed: {type(error).__name__}: {error}", where="events"))

    async def warn(self, problem: Problem) -> None:
        """Tell the user something, without stopping."""
        await self.emit(Warned(self.id, attrs.evolve(problem, severity="warning")))

    def _ended_well(self) -> bool:
        return self.outcome is not None and self.outcome.status == "finished"


class _Status:
    """`anyio.abc.TaskStatus` that remembers whether its task has said it is ready."""

    def __init__(self, inner: TaskStatus[Any]) -> None:
        self._inner = inner
        self.ready = False

    def started(self, value: Any = None) -> None:
        self.ready = True
        self._inner.started(value)


def _crashed(name: str, error: BaseException) -> ServiceCrashed:
    crash = ServiceCrashed(f"The service {name} crashed: {type(error).__name__}: {error}")
    crash.__cause__ = error
    return crash
