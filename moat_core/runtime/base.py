"""What a runtime offers: the contract between core and whoever makes containers.

Core, the library and the command use only these. A facet that a runtime has not got is ``None``; callers check
and say so, nobody asks which runtime it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol, Self

import anyio
import attrs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from moat_core.runtime.facets import EngineApi, Sidecars
    from moat_core.types import Command, Output, RunState

__all__ = ["Connection", "MountSeen", "OciRuntimes", "Process", "Runtime", "RuntimeInfo", "Sandbox", "SandboxInfo"]


class Connection(Protocol):
    """A client that `moat_core.ledger.Connections` opens once per process and address, and closes at the end."""

    @classmethod
    async def connect(cls, address: str) -> Self:
        """Open a connection to ADDRESS; ``""`` means: find the default one."""

    async def aclose(self) -> None:
        """Close it; never raises for what is closed already."""


@attrs.frozen
class RuntimeInfo:
    """A way to make containers, as a plugin registers it.

    Args:
        name: ``docker``.
        load: ``"package.module:Class"`` of a `Runtime`; imported when it is first needed.
        summary: One line.
        probe: ``"package.probe:states"``, stdlib only and synchronous, for quick listings. The module's and the
            function's names are fixed, since the name comes back from the database; any other is not called.
            ``states(address: str, timeout_s: float, home: str) -> list[dict]``, each dict with ``run_id``, ``role``,
            ``state`` (a `RunState` value), ``exit_code`` (int or ``None``), ``oci_runtime``, ``name`` (the
            agent's), ``id``; of containers only that are proven to be of the state folder HOME, see
            `moat_core.runtime.proof`. It raises OSError when the engine does not answer. Its package's ``__init__``
            is not run: it may import its sibling modules, but nothing that is made there.
    """

    name: str
    load: str
    summary: str = ""
    probe: str = ""


@attrs.frozen
class OciRuntimes:
    """What an engine can start containers with.

    Args:
        names: As they are registered: ``runc``, ``runsc`` …
        default: What it takes when a container names none.
        engine_os: Of the engine, not of its client: ``linux``, ``windows``.
        is_desktop: The engine lives in a virtual machine that a desktop product manages, so that nobody can
            register anything there for long.
        commands: Name -> path and arguments that it is registered with, where the engine tells.
        maps_users: User ids inside are others than on the host (a rootless engine): root inside is its user.
    """

    names: tuple[str, ...]
    default: str
    engine_os: str = "linux"
    is_desktop: bool = False
    commands: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    maps_users: bool = False


@attrs.frozen
class SandboxInfo:
    """What the engine says of one container of ours, in whatever state it is."""

    id: str
    run_id: str
    role: str
    state: RunState
    name: str
    oci_runtime: str
    exit_code: int | None = None
    oom_killed: bool = False
    ports: Mapping[int, int] = attrs.field(factory=dict)
    """Port in the container -> port on 127.0.0.1."""


@attrs.frozen
class MountSeen:
    """What a container really has at a mount's target, as far as it can be seen; the first that is known counts.

    Args:
        identity: Device and inode of what is there, as stat(2) tells them on this machine.
        place: Where in which file system it lies, as ``mountinfo`` tells (`moat_core.host_path.place_of`).
        source: The path that the engine says it mounted.
    """

    identity: tuple[int, int] | None = None
    place: tuple[str, str] | None = None
    source: str | None = None


class Process(ABC):
    """A command that runs inside, seen through its streams.

    Iterate over it for its output: pieces arrive as they are written (pushed, not polled), and an iterator that
    is not asked for more stops the reading, so that a slow reader slows the writer down instead of filling memory.
    Leaving its context before the end kills the whole process tree inside.
    """

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[Output]:
        """Yield output until both streams are at their end. One reader only."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Send DATA to its stdin; returns when there is room for more.

        Raises:
            BrokenPipeError: It does not read any more.
        """

    @abstractmethod
    async def close_stdin(self) -> None:
        """Half-close: it reads end-of-file, its output goes on."""

    @abstractmethod
    async def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal a new size."""

    @abstractmethod
    async def signal(self, number: int) -> None:
        """Send signal NUMBER to every process of its tree."""

    @abstractmethod
    async def wait(self) -> int:
        """Wait for the end, dropping output that nobody reads, and return its exit code (126, 127, 128 + n)."""


class Sandbox(ABC):
    """One live container."""

    info: SandboxInfo

    async def mounted(self, targets: Sequence[str]) -> Mapping[str, MountSeen]:  # noqa: ARG002
        """Return what is mounted at TARGETS inside, looked at from outside; one that is missing is not mounted.

        Core compares it with what the plan meant, after the start and before `admit`. The default sees nothing, and
        says so by an empty answer: for runtimes that cannot look.
        """
        return {}

    async def admit(self) -> None:  # noqa: B027 - see its last sentence
        """Let the main process begin: it is started, but holds before anything of the run's own, until this is called.

        For a run without a command it returns when the init steps are done. Called again each time that the engine
        has started the container anew. The default does nothing: for runtimes that cannot hold.

        Raises:
            SandboxNotReady: The init steps failed or did not finish in time.
        """

    @abstractmethod
    def open_process(self, command: Command) -> AbstractAsyncContextManager[Process]:
        """Start COMMAND inside; the context ends with the process gone, whatever happened."""

    @abstractmethod
    def open_main(self) -> AbstractAsyncContextManager[Process]:
        """Attach to the main process's streams; leaving does not end it."""

    @abstractmethod
    async def wait(self) -> SandboxInfo:
        """Wait until the main process has ended and return what the engine then says."""

    async def wait_moved(self, before: Mapping[int, int]) -> SandboxInfo:  # noqa: ARG002
        """Wait until its engine has started it anew: it is to be admitted again, and its ports may not be those BEFORE.

        Told while somebody is in `wait`. The default never returns: for runtimes that start nothing anew.
        """
        await anyio.sleep_forever()
        raise AssertionError

    @abstractmethod
    async def refresh(self) -> SandboxInfo:
        """Ask the engine again.

        Raises:
            SandboxGone: There is no such container any more.
        """

    @abstractmethod
    async def stop(self, grace_s: float) -> None:
        """Ask the main process to end (SIGTERM), kill it after GRACE_S seconds. Ended already is success."""

    @abstractmethod
    def logs(self, *, tail: int | None, follow: bool) -> AsyncIterator[Output]:
        """Yield what the engine kept of the main process's output: the last TAIL lines, and on if FOLLOW."""


class Runtime(ABC):
    """A live connection to what makes containers (`Connection` plus what listings and other processes need)."""

    name: str
    address: str
    home: str = ""
    """The state folder of whoever uses it, by whose key things of ours are told; set when it is connected."""

    @classmethod
    @abstractmethod
    async def connect(cls, address: str) -> Self:
        """See `Connection.connect`.

        Raises:
            RuntimeUnavailable: Nothing answers there.
        """

    @classmethod
    @abstractmethod
    def find_address(cls) -> str:
        """Find where the engine answers, without asking it: from the environment and files, as its own client does.

        Raises:
            RuntimeUnavailable: There is none; the hint tells where it was looked for.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close every connection."""

    @abstractmethod
    async def find_sandboxes(self, run_id: str | None = None) -> list[SandboxInfo]:
        """Find containers that are proven to be of `home`, in every state, of one run or of all."""

    @abstractmethod
    async def get_sandbox(self, info: SandboxInfo) -> Sandbox:
        """Return a handle to a container found."""

    @property
    def sidecars(self) -> Sidecars | None:
        """Return what makes helper containers; ``None``: it cannot."""
        return None

    @property
    def api(self) -> EngineApi | None:
        """Return the engine's own API, if it has one of Docker's kind."""
        return None

    async def oci_runtimes(self) -> OciRuntimes | None:
        """Return what containers can be started with, asked once a connection; ``None``: no such choice."""
        return None
