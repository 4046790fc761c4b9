"""What becomes of a build's result, and where it comes out on our side."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread
import attrs

from moat_plugins.buildkit.errors import ExportError
from moat_plugins.buildkit.places import explain, open_archive

if TYPE_CHECKING:
    from moat_core.host_path import IsShared
    from moat_plugins.buildkit.dial import Endpoint
    from moat_plugins.buildkit.places import Archive
    from moat_plugins.buildkit.session.filesend import Sink

__all__ = ["Output", "default_outputs", "open_targets"]

_TAGGED = frozenset({"moby", "image", "docker", "oci"})
_ARCHIVES = frozenset({"docker", "oci", "tar"})
_TAKEN = _ARCHIVES | {"local"}


def _to_path(place: str | Path | Sink | None) -> Path | Sink | None:
    return Path(place) if isinstance(place, str | os.PathLike) else place


@attrs.frozen
class Output:
    """What becomes of a result.

    Args:
        type: ``moby`` (a Docker engine's own images), ``image`` (a daemon's), ``docker`` and ``oci`` (archives),
            ``tar``, ``local`` (files). Which there are depends on the daemon.
        to: The folder of a ``local`` export; the file, or a function that is given its pieces, of an archive. What
            the function raises ends the build, and is raised by it.
        attrs: Further attributes of the exporter.
    """

    type: str
    to: Path | Sink | None = attrs.field(default=None, converter=_to_path)
    attrs: Mapping[str, str] = attrs.field(factory=dict)

    def named(self, tags: Sequence[str]) -> dict[str, str]:
        """Return the exporter's attributes, with TAGS where it gives names."""
        named = {"name": ",".join(tags)} if tags and self.type in _TAGGED else {}
        return named | dict(self.attrs)


def default_outputs(endpoint: Endpoint) -> list[Output]:
    """Return what is built for when nobody says: an image in the engine; the cache alone where there is no engine."""
    return [Output("moby")] if endpoint.is_engine else []


@asynccontextmanager
async def open_targets(
    outputs: Sequence[Output], given: IsShared | None = None
) -> AsyncIterator[dict[str, Sink | Path]]:
    """Yield what takes each output, by its number; an archive's file is complete or not there.

    Args:
        given: Tells which folders runs were given to write to, see `places`.

    Raises:
        ExportError: An output has nowhere to go, or its file cannot be written.
    """
    if problems := list(_find_problems(outputs)):
        raise ExportError("\n".join(problems))
    targets: dict[str, Sink | Path] = {}
    archives: list[tuple[Archive, Path]] = []
    async with AsyncExitStack() as stack:
        for number, output in enumerate(outputs):
            if output.to is None:
                continue
            if output.type == "local" or not isinstance(output.to, Path):
                targets[str(number)] = output.to
                continue
            archive = await stack.enter_async_context(open_archive(output.to, given))
            archives.append((archive, output.to))
            targets[str(number)] = archive.write
        yield targets
        for archive, path in archives:
            try:
                await anyio.to_thread.run_sync(archive.finish)
            except OSError as error:
                raise ExportError(f"The result cannot be written to {path}: {explain(error)}") from error


def _find_problems(outputs: Sequence[Output]) -> Iterator[str]:
    """Without these, the daemon would wait for somebody to take the result, or two results be written into one file."""
    taken: set[str] = set()
    for output in outputs:
        if output.type == "local" and not isinstance(output.to, Path):
            yield "The output 'local' needs a folder to go to: Output('local', Path('out'))."
        elif output.type in _ARCHIVES and output.attrs.get("tar") == "false":
            yield f"The output '{output.type}' comes as an archive only: leave out tar=false."
        elif output.type in _ARCHIVES and output.to is None:
            yield f"The output '{output.type}' needs a file to go to: Output('{output.type}', Path('out.tar'))."
        elif output.to is not None and output.type not in _TAKEN:
            yield f"The output '{output.type}' stays where it is built: leave out where it is to go."
        elif isinstance(output.to, Path):
            path = os.path.realpath(output.to)
            if path in taken:
                yield f"Two outputs go to {output.to}: give each its own."
            taken.add(path)
            if output.type != "local" and os.path.isdir(path):
                yield f"The output '{output.type}' is a file, and {output.to} is a folder."
