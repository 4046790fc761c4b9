"""The library: `Moat` opens runs, `RunHandle` is one that is alive."""

from moat_core.api.handle import RunHandle
from moat_core.api.inside import AttachedRun, SandboxHandle
from moat_core.api.moat import Moat
from moat_core.api.runs import RunInfo, find_run, list_runs
from moat_core.store import default_home

__all__ = ["AttachedRun", "Moat", "RunHandle", "RunInfo", "SandboxHandle", "default_home", "find_run", "list_runs"]
