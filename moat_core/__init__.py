"""moat: run agents and other untrusted code in isolated containers.

Importing this does nothing and is quick; a public name is imported when it is first used::

    async with Moat() as moat:
        async with moat.run("./project") as run:
            result = await run.exec(["pytest", "-q"], timeout_s=300)
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from moat_core.api import Moat as Moat
    from moat_core.api import RunHandle as RunHandle
    from moat_core.errors import CommandFailed as CommandFailed
    from moat_core.errors import CommandTimeout as CommandTimeout
    from moat_core.errors import MoatError as MoatError
    from moat_core.hooks import hookimpl as hookimpl
    from moat_core.lifecycle import Outcome as Outcome
    from moat_core.lifecycle import RunResult as RunResult
    from moat_core.plan import Plan as Plan
    from moat_core.plan import RunRequest as RunRequest
    from moat_core.types import Command as Command
    from moat_core.types import ExecResult as ExecResult
    from moat_core.types import Mount as Mount
    from moat_core.types import Output as Output

__version__ = "0.1.0.dev0"

_WHERE = {
    "CommandFailed": "moat_core.errors",
    "CommandTimeout": "moat_core.errors",
    "Command": "moat_core.types",
    "ExecResult": "moat_core.types",
    "Moat": "moat_core.api",
    "MoatError": "moat_core.errors",
    "Mount": "moat_core.types",
    "Outcome": "moat_core.lifecycle",
    "Output": "moat_core.types",
    "Plan": "moat_core.plan",
    "RunHandle": "moat_core.api",
    "RunRequest": "moat_core.plan",
    "RunResult": "moat_core.lifecycle",
    "hookimpl": "moat_core.hooks",
}

__all__ = [*sorted(_WHERE), "__version__"]  # noqa: PLE0604 - computed from the table that serves them


def __getattr__(name: str) -> object:
    if name in _WHERE:
        import importlib

        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'moat_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
