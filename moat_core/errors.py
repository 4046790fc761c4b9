"""Every error that moat raises on purpose.

    MoatError                    code, hint, exit_code, details
    ├─ UsageError                the caller asked for something that cannot be (exit 2)
    │  ├─ ConfigError            the config file, a flag or an option is wrong; carries every problem found
    │  ├─ PlanError              the plan does not hold together; carries every problem found
    │  ├─ InvalidValue           an argument's value cannot be (also a ValueError)
    │  ├─ InvalidType            an argument is of a type that cannot be (also a TypeError)
    │  ├─ ArgumentTooLong        an argument is more than the kernel takes (also an OSError, E2BIG)
    │  └─ UnknownName            no such run, plugin, dependency …; carries the nearest matches
    ├─ PluginError               a plugin broke a promise
    │  ├─ PluginLoadError        it could not be imported or registered
    │  ├─ HookContractError      a hook is misspelt, of the wrong kind, or used against its contract
    │  └─ HookFailed             a hook implementation raised; the cause is chained
    ├─ HostError                 the machine or its engine
    │  ├─ RuntimeUnavailable     no engine answers (also a ConnectionError)
    │  ├─ EngineError            the engine answered with an error
    │  ├─ EngineTimeout          the engine did not answer in time (also a TimeoutError)
    │  ├─ SandboxUnavailable     the isolation asked for cannot be had here
    │  ├─ ImageError             an image cannot be pulled or built
    │  ├─ StoreError             the state under MOAT_HOME cannot be read or written
    │  ├─ HostPathError          a path of this machine does not lead where it should (also an OSError)
    │  └─ WorkspaceError         the workspace cannot be used
    ├─ SandboxError              inside a live run
    │  ├─ SandboxGone            the container is no longer there
    │  ├─ SandboxNotReady        the init steps failed or did not finish in time
    │  ├─ CommandFailed          a checked command ended with another code than 0; carries the result
    │  ├─ CommandTimeout         (also a TimeoutError); carries the partial result
    │  ├─ PathMissing            (also a FileNotFoundError)
    │  ├─ PathIsDirectory        (also an IsADirectoryError)
    │  ├─ PathNotDirectory       (also a NotADirectoryError)
    │  └─ PathDenied             (also a PermissionError)
    ├─ RunError
    │  ├─ RunOver                the run has ended; nothing can be done in it any more
    │  ├─ ServiceNotReady        a background service did not say it was ready
    │  └─ ServiceCrashed         a background service ended while the run was alive
    └─ TeardownError             something of a run could not be undone in time

``str(error)`` is one sentence about what is wrong; ``error.hint`` says what to do about it.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `moat list` imports this, and can do without the typing module
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, ClassVar

    from moat_core.types import ExecResult, Problem

__all__ = [
    "ArgumentTooLong",
    "CommandFailed",
    "CommandTimeout",
    "ConfigError",
    "EngineError",
    "EngineTimeout",
    "HookContractError",
    "HookFailed",
    "HostError",
    "HostPathError",
    "ImageError",
    "InvalidType",
    "InvalidValue",
    "MoatError",
    "PathDenied",
    "PathIsDirectory",
    "PathMissing",
    "PathNotDirectory",
    "PlanError",
    "PluginError",
    "PluginLoadError",
    "RunError",
    "RunOver",
    "RuntimeUnavailable",
    "SandboxError",
    "SandboxGone",
    "SandboxNotReady",
    "SandboxUnavailable",
    "ServiceCrashed",
    "ServiceNotReady",
    "StoreError",
    "TeardownError",
    "UnknownName",
    "UsageError",
    "WorkspaceError",
    "unwrap",
]

EXIT_USAGE = 2
"""Exit status of the command for a mistake of its user."""
EXIT_OURS = 125
"""Exit status for anything else that is not the container's own, as ``docker run`` does."""


class MoatError(Exception):
    """Base of every error here.

    Args:
        message: One sentence, about what is wrong.
        hint: What the user can do next; may hold several lines of commands. ``""`` if nothing is known.
        details: JSON-able facts for machines.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = EXIT_OURS

    def __init__(self, message: str, *, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details: dict[str, Any] = details

    def __str__(self) -> str:
        return self.message

    def to_json(self) -> dict[str, Any]:
        """Return ``{"code", "message", "hint", "details"}``, as ``--json`` prints it."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "details": self.details}


class UsageError(MoatError):
    """The caller asked for something that cannot be."""

    code = "usage"
    exit_code = EXIT_USAGE


class _Problems(UsageError):
    """Several problems at once; the message joins them, one a line."""

    def __init__(self, problems: Sequence[Problem], *, hint: str = "", **details: Any) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems), hint=hint, **details)

    def to_json(self) -> dict[str, Any]:
        """Add ``"problems"``: a list of objects with the fields of `Problem`."""
        return super().to_json() | {"problems": [problem.to_json() for problem in self.problems]}


class ConfigError(_Problems):
    """The config file, an option or an environment variable is wrong."""

    code = "config"


class PlanError(_Problems):
    """The plan does not hold together."""

    code = "plan"


class InvalidValue(UsageError, ValueError):
    """An argument's value cannot be: a NUL in a name, a negative time."""

    code = "invalid-value"


class InvalidType(UsageError, TypeError):
    """An argument is of a type that cannot be."""

    code = "invalid-type"


class ArgumentTooLong(UsageError, OSError):
    """One argument, or one ``NAME=value``, is more than the kernel hands to a program."""

    code = "argument-too-long"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.errno, self.strerror = 7, "Argument list too long"  # E2BIG everywhere; the module costs `moat list` time


class UnknownName(UsageError):
    """No such run, plugin, dependency or key."""

    code = "unknown-name"


class PluginError(MoatError):
    """A plugin broke a promise."""

    code = "plugin"


class PluginLoadError(PluginError):
    """A plugin could not be imported or registered."""

    code = "plugin-load"


class HookContractError(PluginError):
    """A hook is misspelt, of the wrong kind, or used against its contract."""

    code = "hook-contract"


class HookFailed(PluginError):
    """A hook implementation raised; ``__cause__`` is what it raised."""

    code = "hook-failed"


class HostError(MoatError):
    """The machine or its engine."""

    code = "host"


class RuntimeUnavailable(HostError, ConnectionError):
    """No engine answers; the hint tells where it was looked for."""

    code = "runtime-unavailable"


class EngineError(HostError):
    """The engine answered with an error.

    Args:
        status: The HTTP status, 0 if there was none.
    """

    code = "engine"

    def __init__(self, message: str, *, status: int = 0, hint: str = "", **details: Any) -> None:
        super().__init__(message, hint=hint, status=status, **details)
        self.status = status


class EngineTimeout(EngineError, TimeoutError):
    """The engine did not answer in time."""

    code = "engine-timeout"


class SandboxUnavailable(HostError):
    """The isolation that was asked for cannot be had here."""

    code = "sandbox-unavailable"


class ImageError(HostError):
    """An image cannot be pulled or built."""

    code = "image"


class StoreError(HostError):
    """The state under ``MOAT_HOME`` cannot be read or written."""

    code = "store"
    exit_code = EXIT_USAGE  # where MOAT_HOME is and what lies in it is the user's to decide


class HostPathError(HostError, OSError):
    """A path of this machine does not lead where it should, or what an engine mounted is not what was there."""

    code = "host-path"


class WorkspaceError(UsageError, OSError):
    """The workspace cannot be used."""

    code = "workspace"


class SandboxError(MoatError):
    """Something inside a live run."""

    code = "sandbox"


class SandboxGone(SandboxError):
    """The container is no longer there: killed, out of memory, or its engine has gone."""

    code = "sandbox-gone"


class SandboxNotReady(SandboxError):
    """The init steps failed or did not finish in time."""

    code = "sandbox-not-ready"


class CommandFailed(SandboxError):
    """A checked command ended with another code than 0."""

    code = "command-failed"

    def __init__(self, message: str, result: ExecResult, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, exit_code=result.exit_code)
        self.result = result


class CommandTimeout(CommandFailed, TimeoutError):
    """A command took longer than its ``timeout_s``; all of it was killed."""

    code = "command-timeout"


class PathMissing(SandboxError, FileNotFoundError):
    """No such file in the container."""

    code = "path-missing"


class PathIsDirectory(SandboxError, IsADirectoryError):
    """A file was expected and a folder is there."""

    code = "path-is-directory"


class PathNotDirectory(SandboxError, NotADirectoryError):
    """A part of the path is not a folder."""

    code = "path-not-directory"


class PathDenied(SandboxError, PermissionError):
    """The run's user may not read or write there."""

    code = "path-denied"


class RunError(MoatError):
    """The run as a whole."""

    code = "run"


class RunOver(RunError):
    """The run has ended."""

    code = "run-over"


class ServiceNotReady(RunError, TimeoutError):
    """A background service did not say in time that it was ready."""

    code = "service-not-ready"


class ServiceCrashed(RunError):
    """A background service ended while the run was alive."""

    code = "service-crashed"


class TeardownError(MoatError):
    """Something of a run could not be undone in time; ``plugin``, ``hook`` and ``seconds`` are in the details."""

    code = "teardown"


def unwrap(error: BaseException) -> BaseException:
    """Return what a task group has packed by itself: an only child, however deep, instead of its groups."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
