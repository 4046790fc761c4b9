"""`Moat`: the plugins, the state and the connections of one program."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from moat_core import checks
from moat_core.api.handle import RunHandle
from moat_core.api.history import check_origin, forget_old
from moat_core.api.inside import AttachedRun, OnOutput
from moat_core.api.runs import RunInfo, find_run, list_runs
from moat_core.api.trust import read_config
from moat_core.config import Config, ConfigSchema, HistoryConfig
from moat_core.errors import InvalidType, InvalidValue, MoatError, RunOver, SandboxGone, StoreError, UsageError
from moat_core.events import Event
from moat_core.hooks.dispatch import Dispatcher
from moat_core.hooks.manager import PluginInfo, PluginManager, load_plugins
from moat_core.ledger import Connections, Kinds, Ledger, Upkeep, Watchdog, kinds_of
from moat_core.ledger.ledger import RELEASE_S, LedgerStep
from moat_core.lifecycle import GRACE_S, Opened, Run
from moat_core.plan import ConfigChoice, Plan, RunRequest, make_plan, offered_dependencies, runtimes
from moat_core.runtime.base import Runtime, Sandbox
from moat_core.runtime.load import load_attribute
from moat_core.store import Home, Store, default_home
from moat_core.store.given import Given
from moat_core.store.log import LogFollower
from moat_core.store.paths import is_locked
from moat_core.types import RUN_ID_RE, Mount, RunState

if TYPE_CHECKING:
    from types import TracebackType

    from moat_core.config import Trust

__all__ = ["Moat"]


class Moat:
    """Opens runs. Enter it once in a program; many runs may be alive in it at a time.

    Args:
        home: The state folder; ``MOAT_HOME`` or the platform's if not given.
        without: Plugins to leave out.
        plugins: Further plugin objects, by name.
        grace_s: What undoing one thing of a run may take, in seconds.
        on_warning: Told one sentence when something is odd about the state folder.
        keep_going: Go without broken plugins; `plugin_infos` names them. Else they are errors.
        owner_kind: Who may end its runs from outside, and how: ``library``, ``foreground`` or ``detached``.
    """

    def __init__(
        self,
        *,
        home: str | os.PathLike[str] | None = None,
        without: Iterable[str] = (),
        plugins: Mapping[str, object] | None = None,
        grace_s: float = GRACE_S,
        on_warning: Callable[[str], None] | None = None,
        owner_kind: str = "library",
        keep_going: bool = False,
    ) -> None:
        self.home = Home(checks.path(home, "home") if home is not None else default_home())
        self.store = Store(self.home, on_warning)
        self.grace_s = checks.seconds(grace_s, "grace_s")
        self._without = checks.items(checks.text, without, "without")
        self._extra = checks.mapping(checks.anything, plugins or {}, "plugins")
        self._owner_kind = owner_kind
        self._keep_going = checks.flag(keep_going, "keep_going")
        self._dispatcher: Dispatcher | None = None
        self._schema: ConfigSchema | None = None
        self._kinds: Kinds | None = None
        self._connections: Connections | None = None
        self._watchdog = Watchdog(self.home)
        self._history: HistoryConfig | None = None
        self._has_run = False

    async def __aenter__(self) -> Self:
        self._connections = await Connections(self.home.path).__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._connections is not None
        connections, self._connections = self._connections, None
        await connections.__aexit__(kind, error, trace)
        # A run that could not be undone is the watchdog's from here on: it is left without a word.
        self._watchdog.stop(orderly=self._watchdog.pid is None or not self._has_dead_runs())
        if self._history is not None and self._has_run:
            with suppress(StoreError):  # history is not worth an error
                forget_old(self.store, self._history)
        self.store.close()

    def _has_dead_runs(self) -> bool:
        """Whether a run of this process is not over although nobody (no other `Moat` of it, either) owns it."""
        try:
            mine = self.store.unfinished_of(os.getpid())
            return any(not is_locked(self.home.run_lock(run_id)) for run_id in mine)
        except StoreError:
            return True  # the reaper will say why

    # -- plugins and config ------------------------------------------------------------------------------------

    @property
    def dispatcher(self) -> Dispatcher:
        """The loaded plugins' hooks; loading happens at the first use."""
        if self._dispatcher is None:
            manager = load_plugins(without=self._without, keep_going=self._keep_going)
            for name, plugin in self._extra.items():
                manager.register(plugin, name)
            self._dispatcher = Dispatcher(manager)
        return self._dispatcher

    @property
    def plugins(self) -> PluginManager:
        """The plugin manager."""
        return self.dispatcher.plugins

    def plugin_infos(self) -> list[PluginInfo]:
        """Return what is loaded, disabled or broken."""
        return list(self.plugins.plugins.values())

    @property
    def schema(self) -> ConfigSchema:
        """The config's schema, with every plugin's section."""
        if self._schema is None:
            schema = ConfigSchema()
            for impl in self.plugins.implementations("moat_add_config"):
                with schema.contributing(impl.plugin_name):
                    self.dispatcher.call(impl, "moat_add_config", schema=schema)
            schema.offered = lambda: offered_dependencies(self.dispatcher)
            self._schema = schema
        return self._schema

    def config(
        self,
        folder: str | os.PathLike[str],
        options: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        config: ConfigChoice = None,
        trust: Trust | None = None,
    ) -> Config:
        """Read the config of the workspace FOLDER, merged with the user's and the environment's.

        Args:
            options: Plugin section -> key -> value, which win.
            config: See `run`.
            trust: Decides whether what the workspace's file widens is heeded; nothing is, if not given.

        Raises:
            ConfigError: With every problem found.
        """
        overrides = {
            f"{section}.{key}": (value, "argument")
            for section, values in checks.sections({} if options is None else options, "options").items()
            for key, value in values.items()
        }
        workspace = Path(checks.path(folder, "folder"))
        return read_config(self.schema, workspace, config, home=self.home, overrides=overrides, trust=trust)

    # -- runs --------------------------------------------------------------------------------------------------

    def request(self, workspace: str | os.PathLike[str] = ".", **arguments: Any) -> RunRequest:
        """Make a `RunRequest`; mounts may be ``"SRC:DST[:ro]"`` strings, and sequences lists.

        Raises:
            InvalidType, InvalidValue: An argument cannot be; see `moat_core.checks`.
            ConfigError: A mount cannot be.
        """
        if "mounts" in arguments:
            arguments["mounts"] = checks.items(_mount, arguments["mounts"], "mounts")
        folder = os.path.abspath(checks.path(workspace, "workspace"))
        try:
            return RunRequest(workspace=Path(folder), **arguments)
        except TypeError as error:
            if isinstance(error, MoatError):
                raise
            raise InvalidType(f"A run cannot be asked for like that: {error}.") from error

    def plan(self, request: RunRequest) -> Plan:
        """Decide what REQUEST comes to. No engine is asked and nothing is changed."""
        config = self.config(request.workspace, request.options, config=request.config)
        self._history = check_origin(config)
        return make_plan(request, config, self.dispatcher, given=Given(self.store))

    def run(
        self,
        workspace: str | os.PathLike[str] = ".",
        *,
        command: Sequence[str] | None = None,
        config: ConfigChoice = None,
        on_output: OnOutput | None = None,
        on_event: Callable[[Event], None] | None = None,
        **arguments: Any,
    ) -> RunHandle:
        """Open a run: ``async with moat.run("./project", dependencies=["python"]) as run``.

        Args:
            workspace: The folder that appears at ``/workspace``.
            command: The run's own command, see `RunHandle.wait`. Without one (and whatever the config says)
                the container waits for ``exec``.
            config: Whose word ``agent.yaml`` is. ``None``: the workspace may be a stranger's. Its file is read, but
                what would give the run more than it has without is left out, with a warning that says what.
                ``"workspace"``: all of that file counts. ``"trusted"``: that, where the user trusts its content
                (``moat config trust``). A path or a mapping: it is read instead of the workspace's, and is yours.
            on_output: Awaited with each piece of its own command's output; it is then not kept in memory.
            on_event: Called with every event of the run, from its first.
            arguments: See `RunRequest`.

        Raises:
            ConfigError, PlanError: When it is entered: it cannot be, with every reason.
            HostError: When it is entered: the engine does not answer or refuses.
        """
        request = self.request(workspace, command=command, config=config, hold=command is None, **arguments)
        return self.open(request, on_output=on_output, on_event=on_event)

    def open(
        self,
        request: RunRequest,
        *,
        plan: Plan | None = None,
        on_output: OnOutput | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> RunHandle:
        """Open a run from a request (and its plan, if it was made already)."""

        async def make() -> tuple[Run, Opened]:
            run, opened = self._make_run(plan or self.plan(request))
            if on_event is not None:
                run.events.subscribe(on_event)
            return run, opened

        return RunHandle(make, on_output)

    async def list(self, *, over: bool = False) -> list[RunInfo]:
        """Return the live runs under this home, newest first (with those that are OVER, if so asked)."""
        return await list_runs(self.store, self._connect, runtimes(self.dispatcher), over=over)

    async def find(self, reference: str) -> RunInfo:
        """Return the run that an id, a unique id prefix or a name means.

        Raises:
            UnknownName: None or several match; the hint names them.
        """
        reference = checks.text(reference, "reference")
        return await find_run(self.store, self._connect, runtimes(self.dispatcher), reference)

    async def attach(self, reference: str) -> AttachedRun:
        """Return a handle to a live run of another process, by id, unique id prefix or name.

        Raises:
            UnknownName: There is no such run.
            RunOver: It is not alive.
            SandboxGone: Its container was kept, and has been removed from outside.
        """
        info = await self.find(reference)
        if info.engine_error:
            await self._connect(info.runtime, info.address)  # raises the whole error, with its hint
        _check_not_gone(info)
        if info.state not in {RunState.RUNNING, RunState.PAUSED} or info.sandbox is None:
            raise RunOver(f"The run {info.name} ({info.id}) is not running: it is {info.state}.")
        return AttachedRun(info.name, await self.sandbox(info), Given(self.store))

    async def sandbox(self, info: RunInfo) -> Sandbox:
        """Return the container of a run that was found, whether or not it is running.

        Raises:
            RunOver: It has none.
            SandboxGone: It was kept, and has been removed from outside.
        """
        _check_not_gone(info)
        if info.sandbox is None:
            raise RunOver(f"The run {info.name} ({info.id}) has no container.")
        runtime = await self._connect(info.runtime, info.address)
        return await runtime.get_sandbox(info.sandbox)

    def log(self, run_id: str, *, tail: int | None = None) -> LogFollower:
        """Return what reads a run's log while it is written, also after its end; it has to be closed.

        Args:
            tail: Begin with so many of the last lines; ``None`` with all.
        """
        if not RUN_ID_RE.fullmatch(checks.text(run_id, "run_id")):
            raise InvalidValue("run_id must be 'run-' and 8 hex digits.", hint="`find` knows the id of a name.")
        lines = None if tail is None else checks.count(tail, "tail")
        return LogFollower(self.home.run_folder(run_id), tail=lines)

    def watch(self) -> None:
        """Start the watchdog now; opening a run does so by itself."""
        self._watchdog.start()

    def upkeep(self, *, automatic: bool = False) -> Upkeep:
        """Return what looks after things outside any run."""
        return Upkeep(self.store, self.dispatcher, self._entered(), automatic=automatic)

    # -- plumbing ----------------------------------------------------------------------------------------------

    def _entered(self) -> Connections:
        if self._connections is None:
            raise RunOver("This Moat is not open.", hint="Use it with `async with Moat() as moat`.")
        return self._connections

    async def _connect(self, runtime: str, address: str) -> Runtime:
        kind = self._runtime_class(runtime)
        return await self._entered().get(kind, address)

    def _runtime_class(self, name: str) -> type[Runtime]:
        known = runtimes(self.dispatcher)
        if name not in known:
            raise UsageError(
                f"The runtime '{name}' is not registered.",
                hint="The plugin that brings it is not loaded: `moat plugins`.",
            )
        kind: type[Runtime] = load_attribute(known[name].load)
        return kind

    def _make_run(self, plan: Plan) -> tuple[Run, Opened]:
        self._has_run = True
        kind = self._runtime_class(plan.runtime)
        if self._kinds is None:
            self._kinds = kinds_of(self.dispatcher)
        release_s = min(RELEASE_S, self.grace_s)
        ledger = Ledger(plan.run_id, self.store, self._kinds, self._entered(), self._on_step(), release_s=release_s)
        run = Run(
            plan=plan,
            home=Path(self.home.run_folder(plan.run_id)),
            locks=Path(self.home.locks),
            address=kind.find_address(),
            labels={"moat.run-id": plan.run_id, "moat.name": plan.name, "moat.owner": self.home.owner},
            dispatcher=self.dispatcher,
            ledger=ledger,
            runtime_class=kind,
            grace_s=self.grace_s,
            given=Given(self.store),
        )
        probe = runtimes(self.dispatcher)[plan.runtime].probe
        return run, Opened(self.home, self.store, self._watchdog, self._owner_kind, probe)

    def _on_step(self) -> Callable[[LedgerStep], Awaitable[None]] | None:
        if not self.dispatcher.has("moat_on_ledger_step"):
            return None

        async def tell(step: LedgerStep) -> None:
            # A tenth, since it is told in the middle of an undoing that has the whole.
            await self.dispatcher.notify("moat_on_ledger_step", budget_s=self.grace_s / 10, step=step)

        return tell


def _check_not_gone(info: RunInfo) -> None:
    if info.state == RunState.GONE:
        raise SandboxGone(
            f"The run {info.name} ({info.id}) cannot be used any more. {info.error}",
            hint="`moat logs` shows its output, `moat destroy` forgets it.",
        )


def _mount(mount: Mount | str, what: str) -> Mount:
    if isinstance(mount, Mount):
        return mount
    from moat_core.config import parse_mount_flag

    return parse_mount_flag(checks.text(mount, what), Path.cwd())
