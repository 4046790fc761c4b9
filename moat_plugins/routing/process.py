"""The proxy's process: whether it runs, and starting and stopping it.

One runs under a ``MOAT_HOME``: it holds an ``flock(2)`` on a file for as long as it lives, and writes into it where it
is reached. Nobody else writes there, and a file without that lock says nothing.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import attrs

from moat_core.errors import HostError
from moat_core.imports import process_argv
from moat_core.types import Problem
from moat_plugins.routing.config import DEFAULT_PORT, ProxyConfig
from moat_plugins.routing.hearing import ProxySlow, converse, make_slow
from moat_plugins.routing.sockets import PortTaken, bind

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "Holding", "PortMismatch", "ProxySlow", "Running", "User", "ask", "ensure", "find", "find_differences",
    "make_folder", "stop",
]  # fmt: skip

_START_S = 20.0
_ASK_S = 3.0
_TAKEN_S = 1.0
_STOP_S = 15.0
_LOOK_S = 0.02
_CLAIM_S = 0.2


class PortMismatch(HostError):
    """The proxy runs on another port than the one that was asked for."""

    code = "proxy-port-mismatch"


@attrs.frozen
class Running:
    """A proxy that runs.

    Args:
        started: Seconds since 1970.
        options: What it was started with: of `moat_plugins.routing.serve`.
    """

    pid: int
    port: int
    started: float
    options: Mapping[str, float | None] = attrs.field(factory=dict, eq=False)

    @property
    def base(self) -> str:
        """Where it is reached; names of agents go in front of ``localhost``."""
        return base_url(self.port)

    def to_json(self) -> dict[str, Any]:
        """Return the fields."""
        return attrs.asdict(self)


@attrs.frozen
class User:
    """Whom the process shall run as: ``sudo`` binds the port, and what it serves is its caller's."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    environ: Mapping[str, str]


def base_url(port: int) -> str:
    """Return ``http://localhost:8080``, without the port where a browser leaves it out."""
    return "http://localhost" if port == 80 else f"http://localhost:{port}"  # noqa: PLR2004 - HTTP's own


def make_folder(home: Path) -> Path:
    """Make the proxy's folder, and the state folder if need be; each is its user's alone."""
    folder = home / "proxy"
    for path in (home, folder):  # makedirs gives its mode to the last one only
        os.makedirs(path, mode=0o700, exist_ok=True)
    return folder


def find(home: Path) -> Running | None:
    """Return the proxy that runs under HOME, if one does and is ready."""
    said = _read_held(home)
    try:
        return Running(**json.loads(said)) if said else None
    except (ValueError, TypeError):
        return None  # it is just being written


def _read_held(home: Path) -> bytes | None:
    """Return what the holder of the lock has written; ``None`` if nobody holds it."""
    try:
        descriptor = os.open(home / "proxy" / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, 4096, 0)
    else:
        return None
    finally:
        os.close(descriptor)


class Holding:
    """The proxy's proof of life: its lock, and what it says there. Entered by the proxy alone."""

    def __init__(self, home: Path) -> None:
        self._path = home / "proxy" / "lock"
        self._descriptor = -1

    def claim(self) -> bool:
        """Take the lock; return whether we have it. Who only looks has it for a moment: a refusal must last."""
        make_folder(self._path.parent.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        deadline = time.monotonic() + _CLAIM_S
        while True:
            if _lock(descriptor):
                os.ftruncate(descriptor, 0)
                self._descriptor = descriptor
                return True
            if time.monotonic() > deadline:
                os.close(descriptor)
                return False
            time.sleep(_LOOK_S / 4)

    def tell(self, running: Running) -> None:
        """Say where we are reached."""
        os.pwrite(self._descriptor, json.dumps(running.to_json()).encode(), 0)

    def release(self) -> None:
        """Let go; the file stays, since another may wait for it."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
        self._descriptor = -1


def ask(running: Running) -> dict[str, Any]:
    """Return what the proxy's page tells a program: ``runs`` and ``version``, or ``error``. It blocks."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=_ASK_S)
    try:
        connection.request("GET", "/", headers={"Accept": "application/json", "Host": f"localhost:{running.port}"})
        told: dict[str, Any] = json.loads(connection.getresponse().read())
    except TimeoutError:
        return {"error": f"did not answer in {_ASK_S:.0f} s", "unknown": True}
    except (OSError, ValueError, http.client.HTTPException) as error:
        return {"error": f"does not answer: {error}"}
    finally:
        connection.close()
    if "runs" not in told:
        return {"error": "answers as if it were not ours"}
    return {"runs": told["runs"], "version": told["version"]}


async def ensure(home: Path, port: int | None, options: Mapping[str, Any], user: User | None = None) -> Running:
    """Return the proxy under HOME; start it in the background if none runs.

    Args:
        port: Where it must listen; ``None`` if that does not matter, 0 for any that is free.
        options: For `moat_plugins.routing.serve`.
        user: Whom it shall run as.

    Raises:
        PortMismatch: It runs on another port.
        PortTaken: Another program listens there.
        ProxySlow: It is being started, by us or another, and is not ready yet.
        HostError: It cannot be started.
    """
    running = find(home)
    if running is None:
        async with _turn(home, user) as turn:
            running = await _start(home, port, options, user, turn)
    return check_port(running, port)


async def _start(
    home: Path, port: int | None, options: Mapping[str, Any], user: User | None, turn: int | None
) -> Running:
    deadline = time.monotonic() + _TAKEN_S
    while True:
        running = find(home)
        if running is not None:
            return running
        try:
            sockets = bind(DEFAULT_PORT if port is None else port)
        except PortTaken:
            # Perhaps by one that is just starting, and will say so soon, or by one that is just ending.
            is_starting = _read_held(home) is not None
            if time.monotonic() > deadline + (_START_S if is_starting else 0):
                raise
            await anyio.sleep(_LOOK_S)
            continue
        try:
            running = await _spawn(home, sockets, options, user, turn)
        finally:
            for listener in sockets:
                listener.close()
        if running is not None:
            return running
        # Another was quicker, and may not be ready yet.
        if time.monotonic() > deadline + _START_S:
            raise make_slow(_START_S)
        await anyio.sleep(_LOOK_S)


@asynccontextmanager
async def _turn(home: Path, user: User | None) -> AsyncIterator[int | None]:
    """Wait for whoever is starting it just now; the lock, which is yielded, is the new proxy's until it is ready.

    Root, for another, writes nothing there and takes its chance.

    Raises:
        ProxySlow: Somebody has been at it all the time.
    """
    if user is not None:
        yield None
        return
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        make_folder(home)
        descriptor = os.open(home / "proxy" / "starting", flags, 0o600)
    except OSError as error:
        raise HostError(
            f"The proxy's folder {home / 'proxy'} cannot be used: {error.strerror}.",
            hint="Make it writable, free some space, or set MOAT_HOME to another folder.",
        ) from error
    try:
        with anyio.move_on_after(_START_S) as waiting:
            # Ready is enough: who has become it may still have to let go.
            while not _lock(descriptor) and find(home) is None:  # noqa: ASYNC110 - it is another process's
                await anyio.sleep(_LOOK_S)
        if waiting.cancelled_caught:
            raise make_slow(_START_S)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def check_port(running: Running, port: int | None) -> Running:
    """Return RUNNING if it is where it was asked for.

    Raises:
        PortMismatch: It is not.
    """
    if port and port != running.port:
        raise PortMismatch(
            f"The proxy runs on port {running.port}; port {port} was asked for.",
            hint=f"`moat proxy restart --port {port}` moves it for all runs, or ask for port {running.port}.",
        )
    return running


def find_differences(running: Running, wanted: Mapping[str, float | None]) -> list[Problem]:
    """Return what was WANTED in vain, since the proxy that runs was started with other options.

    Args:
        wanted: As in the config; what it has by default nobody asked for.
    """
    defaults = {"idle": ProxyConfig().idle, "timeout": ProxyConfig().timeout}
    return [
        Problem(
            f"`proxy.{key}` is {value:g} s here, and the proxy that runs was started with {has:g} s.",
            "`moat proxy restart`, here, has it take over this one, for all runs.",
            severity="warning",
        )
        for key, value in wanted.items()
        if (has := running.options.get(key)) is not None and value is not None and value not in (has, defaults[key])
    ]


async def _spawn(
    home: Path, sockets: list[socket.socket], options: Mapping[str, Any], user: User | None, turn: int | None
) -> Running | None:
    """Start the process and wait until it says where it is; ``None`` if another had the lock already."""
    task = {**options, "home": str(home), "sockets": [each.fileno() for each in sockets], "turn": turn}
    inherited = [*task["sockets"], *([turn] if turn is not None else [])]
    environ = user.environ if user else os.environ
    # Nothing is written under HOME here: it may be another user's than root, who calls.
    who: dict[str, Any] = {"user": user.uid, "group": user.gid, "extra_groups": user.groups} if user else {}
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(  # noqa: ASYNC220 - not the loop's: it outlives it
                process_argv("moat_plugins.routing.serve"),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd="/",
                pass_fds=inherited, env=environ, **who,
            )  # fmt: skip
        except OSError as error:
            raise HostError(f"The proxy cannot be started: {error.strerror or error}.") from error
        said = await converse(process, json.dumps(task).encode(), _START_S)
        if not said:
            log.seek(0)
            words = log.read()[-2000:].decode(errors="replace").strip().splitlines()
            raise HostError(
                f"The proxy died before it was ready: {words[-1] if words else 'it said nothing'}.",
                hint="`moat proxy start --foreground` shows it starting.",
            )
    answer = json.loads(said)
    if "error" in answer:
        raise HostError(answer["error"]["message"], hint=answer["error"]["hint"])
    return Running(**answer["ready"]) if "ready" in answer else None


async def stop(home: Path) -> Running | None:
    """End the proxy, with what is under way getting a moment to finish; return which it was.

    Raises:
        HostError: It does not end.
    """
    running = find(home)
    if running is None:
        return None
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(running.pid, number)
        except ProcessLookupError:
            return running
        except PermissionError as error:
            raise HostError(
                f"The proxy (pid {running.pid}) is another user's.", hint=f"sudo kill {running.pid}"
            ) from error
        with anyio.move_on_after(_STOP_S):
            while (said := _read_held(home)) is not None:
                if said and find(home) not in {None, running}:
                    break  # the next one is there already
                await anyio.sleep(_LOOK_S)
            return running
    raise HostError(f"The proxy (pid {running.pid}) does not end.", hint="Look for what holds it up.")
