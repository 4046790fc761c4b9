"""`DockerSandbox`, one container, and the context that makes a run's.

The order is: create (through the ledger), attach, start, compare what is mounted, admit. Nothing here stops the
container at the end of the run: its release from the ledger does, after it had its chance to end by itself.
"""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio

from moat_core.errors import EngineError, SandboxGone
from moat_core.plan import word
from moat_core.runtime.base import Sandbox
from moat_core.types import RunState
from moat_plugins.docker import labels
from moat_plugins.docker.environment import make_exec_env
from moat_plugins.docker.exec import open_exec
from moat_plugins.docker.frames import Demultiplexer
from moat_plugins.docker.gone import gone_if_missing
from moat_plugins.docker.look import look_at_mounts
from moat_plugins.docker.main_process import MainProcess, attach
from moat_plugins.docker.ready import wait_until_ready
from moat_plugins.docker.runtime import make_info

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from moat_core.runtime.base import MountSeen, Process, SandboxInfo
    from moat_core.types import Command, Output
    from moat_plugins.docker.client import Engine

__all__ = ["DockerSandbox"]

_ALIVE = {RunState.RUNNING, RunState.PAUSED}
_LOOKS = 2
_KILLED = {128 + signal.SIGKILL, 128 + signal.SIGTERM}
_ANEW_S, _ANEW_POLL_S = 1.0, 0.1
"""`docker restart` kills and starts in two steps; a look between them sees a container that has ended."""
"""Look after so many times what one call may take: a minute by default."""
_SETS_SIZE = {"runc", "crun", "youki", "io.containerd.runc.v2"}


class DockerSandbox(Sandbox):
    """See `Sandbox`.

    Args:
        user: ``uid:gid`` of the run's user.
        tty: The main process has a terminal.
        is_idle: It has no command of its own, and is ready when the init steps are done.
        env: The ``Env`` that it was created with, see `moat_plugins.docker.container.make_start_env`.
    """

    def __init__(
        self, engine: Engine, info: SandboxInfo, *, user: str, tty: bool, is_idle: bool = False, env: Sequence[str] = ()
    ) -> None:
        self.info = info
        self._env = tuple(env)
        self._engine = engine
        self._user = user
        self._tty = tty
        self._is_idle = is_idle
        self._found: Mapping[str, Any] = {}
        self._admitted = ""
        self._main: MainProcess | None = None
        self._waiting = anyio.Lock()
        self._end: SandboxInfo | None = None
        self._is_stopped = False
        self._moved = anyio.Event()

    @classmethod
    def from_inspection(cls, engine: Engine, found: Mapping[str, Any]) -> DockerSandbox:
        """Make it from the answer of GET /containers/{id}/json."""
        config = found["Config"]
        user = (config.get("Labels") or {}).get(labels.USER) or config.get("User") or "0:0"
        info = make_info(found, is_here=engine.endpoint.is_here)
        sandbox = cls(engine, info, user=user, tty=config["Tty"], env=config.get("Env") or ())
        sandbox._found, sandbox._admitted = found, found["State"].get("StartedAt", "")
        return sandbox

    async def attach(self) -> MainProcess:
        """Attach to the main process; before the start this catches its first byte. `open_main` hands it out."""
        stream = await attach(self._engine, self.info.id, tty=self._tty)
        self._main = MainProcess(self._engine, self.info.id, stream, self.wait)
        return self._main

    async def detach(self) -> None:
        """Let go of what `attach` opened and nobody asked for: a client that does not read would block the process."""
        main, self._main = self._main, None
        if main is not None:
            await main.aclose()

    async def mounted(self, targets: Sequence[str]) -> Mapping[str, MountSeen]:
        """See `Sandbox`; looks at the container as it was when it was last refreshed, which is since its start."""
        return look_at_mounts(self._found, targets)

    async def admit(self) -> None:
        """See `Sandbox`. A container that was started anew is attached to anew: its streams are others."""
        again, self._admitted = bool(self._admitted), self._started
        main = self._main
        if main is None or again:
            stream = await attach(self._engine, self.info.id, tty=self._tty)
            main = MainProcess(self._engine, self.info.id, stream, self.wait)
        try:
            with suppress(BrokenPipeError):  # it has ended already, and says why
                await main.write(word(tty=self._tty))
            if self._is_idle:
                await wait_until_ready(main, self)
        finally:
            if main is not self._main:
                await main.aclose()
        if self._is_idle:
            await self.detach()

    @property
    def _started(self) -> str:
        """When the engine started it last; it is held again each time."""
        return str((self._found.get("State") or {}).get("StartedAt", ""))

    def open_process(self, command: Command) -> AbstractAsyncContextManager[Process]:
        """See `Sandbox`."""
        # Only runc and its kin are known to; gVisor is known not to.
        sets_size = self.info.oci_runtime in _SETS_SIZE
        env = make_exec_env(self._env, is_own=command.user is None or _uid(command.user) == _uid(self._user))
        return open_exec(self._engine, self.info.id, command, user=self._user, env=env, sets_size=sets_size)

    @asynccontextmanager
    async def open_main(self) -> AsyncIterator[Process]:
        """See `Sandbox`. The first one gets the stream that was attached before the start."""
        if self._main is None:
            await self.attach()
        main, self._main = self._main, None
        assert main is not None
        try:
            yield main
        finally:
            await main.aclose()

    async def wait(self) -> SandboxInfo:
        """See `Sandbox`. However many wait, the engine is asked once.

        Raises:
            SandboxGone: The engine, or the container, has gone without telling how it ended.
        """
        async with self._waiting:
            while self._end is None:
                # An answer that was lost on the way would make us wait for ever: look for ourselves now and then.
                with anyio.move_on_after(_LOOKS * self._engine.timeout_s), gone_if_missing():
                    await self._engine.containers.wait(self.info.id)
                before = self.info.ports
                info = await self._look_at_end()
                if info.state not in _ALIVE:
                    self._end = info
                elif info.ports != before or self._started != self._admitted:
                    self._moved.set()
                    self._moved = anyio.Event()
            return self._end

    async def _look_at_end(self) -> SandboxInfo:
        """Look at it after the engine has said that it ended; if somebody else killed it, until that is for good."""
        info = await self.refresh()
        deadline = anyio.current_time() + _ANEW_S
        while info.state not in _ALIVE and info.exit_code in _KILLED and not (self._is_stopped or info.oom_killed):
            if anyio.current_time() >= deadline:
                break
            await anyio.sleep(_ANEW_POLL_S)
            try:
                info = await self.refresh()
            except SandboxGone:
                break  # and removed: how it ended has been seen
        return info

    async def wait_moved(self, before: Mapping[int, int]) -> SandboxInfo:
        """See `Sandbox`."""
        while self.info.ports == before and self._started == self._admitted:
            await self._moved.wait()
        return self.info

    async def refresh(self) -> SandboxInfo:
        """See `Sandbox`."""
        with gone_if_missing():
            found = await self._engine.containers.inspect(self.info.id)
        self._found = found
        self.info = make_info(found, is_here=self._engine.endpoint.is_here)
        return self.info

    async def stop(self, grace_s: float) -> None:
        """See `Sandbox`."""
        self._is_stopped = True
        try:
            await self._engine.containers.stop(self.info.id, grace_s)
        except EngineError as error:
            if error.status not in (304, 404):
                raise

    async def logs(self, *, tail: int | None, follow: bool) -> AsyncIterator[Output]:
        """See `Sandbox`."""
        demultiplexer = Demultiplexer(raw=self._tty)
        with gone_if_missing():
            async with self._engine.containers.logs(self.info.id, tail=tail, follow=follow) as pieces:
                async for data in pieces:
                    for piece in demultiplexer.feed(data):
                        yield piece


def _uid(user: str) -> str:
    name = user.partition(":")[0]
    return "0" if name == "root" else name
