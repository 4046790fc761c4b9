"""The client's public names, in one place: ``from moat_plugins.buildkit.api import BuildKit``."""

from moat_plugins.buildkit.client import BuildKit, BuildResult, Cache
from moat_plugins.buildkit.errors import (
    BuildCancelled,
    BuildError,
    BuildKitUnavailable,
    ContextError,
    DockerfileError,
    ExportError,
    RunFailed,
    SessionLost,
    SourceRange,
)
from moat_plugins.buildkit.fs.source import DiskSource, MemorySource, Source
from moat_plugins.buildkit.outputs import Output
from moat_plugins.buildkit.progress import BuildEvent, StepChanged, StepOutput, StepProgress, StepWarning

__all__ = [
    "BuildCancelled",
    "BuildError",
    "BuildEvent",
    "BuildKit",
    "BuildKitUnavailable",
    "BuildResult",
    "Cache",
    "ContextError",
    "DiskSource",
    "DockerfileError",
    "ExportError",
    "MemorySource",
    "Output",
    "RunFailed",
    "SessionLost",
    "Source",
    "SourceRange",
    "StepChanged",
    "StepOutput",
    "StepProgress",
    "StepWarning",
]
