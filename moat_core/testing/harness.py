"""The fixture ``moat``: a machine of its own for a plugin to run on, with a fake engine and an empty state folder."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from moat_core.api import Moat, RunHandle
from moat_core.hooks.dispatch import Dispatcher
from moat_core.hooks.markers import GROUP
from moat_core.store import Home, Store
from moat_core.store.paths import is_locked
from moat_core.testing.engine import ADDRESS_VARIABLE, FakeEngine
from moat_core.testing.record import HookCall, RecordingDispatcher, RunRecord

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    import pytest

    from moat_core.events import Event
    from moat_core.plan import Plan

__all__ = ["Harness"]

FAKE = "moat_core.testing.fake"
_CLI = "import sys; from moat_core.cli.main import main; sys.exit(main())"


class Harness:
    """A workspace, a state folder and a fake engine below TMP_PATH; and the plugins that a test registers.

    The environment says the same to every process that the test starts, reapers included: ``MOAT_HOME``,
    ``MOAT_FAKE_ENGINE``, ``MOAT_PLUGINS`` and ``MOAT_DISABLE``. Installed plugins are left out, but for those named.

    Args:
        enabled: Names of installed plugins to load.

    Attributes:
        workspace: Where runs run.
        home: ``MOAT_HOME``.
        engine: What the runtime ``fake`` runs on.
        grace_s: What undoing one thing may take.
    """

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, enabled: Iterable[str] = ()) -> None:
        self.home = Home(tmp_path / "moat-home")
        self.workspace = tmp_path / "workspace"
        self.workspace.mkdir(exist_ok=True)
        self.engine = FakeEngine(tmp_path / "engine")
        self.grace_s = 5.0
        self._monkeypatch = monkeypatch
        self._plugins: dict[str, object] = {}
        installed = {entry_point.name for entry_point in metadata.entry_points(group=GROUP)}
        monkeypatch.setenv("MOAT_HOME", self.home.path)
        monkeypatch.setenv(ADDRESS_VARIABLE, self.engine.folder)
        monkeypatch.setenv("MOAT_PLUGINS", FAKE)
        monkeypatch.setenv("MOAT_DISABLE", ",".join(sorted(installed - set(enabled))))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user-config"))

    # -- setting up --------------------------------------------------------------------------------------------

    def register(self, plugin: object, name: str | None = None) -> None:
        """Load PLUGIN in what follows: a module, or an object with hook methods.

        A module that can be imported is named in ``MOAT_PLUGINS``, so that `cli` and reapers have it, too; it is
        called by the last part of its name. An object is known to `run` and `plan` only.
        """
        if isinstance(plugin, ModuleType) and name is None:
            self._monkeypatch.setenv("MOAT_PLUGINS", f"{os.environ['MOAT_PLUGINS']},{plugin.__name__}")
        else:
            self._plugins[name or type(plugin).__name__] = plugin

    def file(self, path: str, text: str | bytes) -> Path:
        """Write a file of the workspace, ``agent.yaml`` perhaps, and return its path."""
        target = self.workspace / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text if isinstance(text, bytes) else text.encode())
        return target

    # -- doing -------------------------------------------------------------------------------------------------

    def moat(self, **arguments: Any) -> Moat:
        """Return a `Moat` with the registered plugins; enter it with ``async with``."""
        return _RecordedMoat(**{"plugins": self._plugins, "grace_s": self.grace_s, **arguments})

    def plan(self, **arguments: Any) -> Plan:
        """Plan a run of the workspace, whose file is the test's own word; ARGUMENTS are `moat_core.RunRequest`'s."""
        moat = self.moat()
        return moat.plan(moat.request(self.workspace, **{"config": "workspace", **arguments}))

    async def run(
        self, what: Sequence[str] | Callable[[RunHandle], Awaitable[Any]] | None = None, **arguments: Any
    ) -> RunRecord:
        """Run something in the workspace, and return how it was. A run that fails is a record, too.

        Args:
            what: The argv of a command that is exec'd, or an async function that is given the live run. An
                AssertionError of it is raised, any other error is in the record's outcome.
            arguments: Those of `moat_core.RunRequest`. The workspace's ``agent.yaml`` is the test's own word, and
                counts as a whole, unless ``config`` says something else.

        Raises:
            UsageError: It cannot be planned.
        """
        events: list[Event] = []
        async with self.moat() as moat:
            assert isinstance(moat, _RecordedMoat)
            handle = moat.run(self.workspace, on_event=events.append, **{"config": "workspace", **arguments})
            value: Any = None
            try:
                async with handle as run:
                    value = await _do(run, what)
            except AssertionError:
                raise
            except Exception:
                if not handle.is_begun:
                    raise
            result = await handle.aclose()
            hooks = moat.hooks
        return RunRecord(handle.run.plan, result, value, events, hooks, self.left())

    def cli(
        self, *argv: str, stdin: str = "", env: dict[str, str] | None = None, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run the ``moat`` command in the workspace, in a process of its own."""
        return subprocess.run(
            [sys.executable, "-c", _CLI, *argv],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.workspace,
            env={**os.environ, **(env or {})},
            timeout=timeout_s,
            check=False,
        )

    # -- looking -----------------------------------------------------------------------------------------------

    def store(self) -> Store:
        """Return the state, to look into; close it."""
        return Store(self.home)

    def left(self) -> list[str]:
        """Return what is still there of any run: on the engine, in the ledger, and locks that are held."""
        store = self.store()
        try:
            rows = [f"row {row.kind} ({row.state})" for row in store.resources() if row.state != "kept"]
            unfinished = [f"run {run_id} (not over)" for run_id in store.unfinished()]
            locked = [f"lock of {row.id}" for row in store.runs() if is_locked(self.home.run_lock(row.id))]
            kept = {row.data["name"] for row in store.resources() if row.state == "kept"}
        finally:
            store.close()
        return [*(name for name in self.engine.left() if name not in kept), *rows, *unfinished, *locked]


class _RecordedMoat(Moat):
    """A `Moat` whose hooks are written down."""

    @property
    def dispatcher(self) -> Dispatcher:
        if not isinstance(self._dispatcher, RecordingDispatcher):
            self._dispatcher = RecordingDispatcher(super().dispatcher.plugins)
        return self._dispatcher

    @property
    def hooks(self) -> list[HookCall]:
        """What was called so far."""
        assert isinstance(self.dispatcher, RecordingDispatcher)
        return self.dispatcher.hooks


async def _do(run: RunHandle, what: Sequence[str] | Callable[[RunHandle], Awaitable[Any]] | None) -> Any:
    if what is None:
        return None
    if callable(what):
        return await what(run)
    return await run.exec(what)
