"""moat's own images, built with BuildKit: ``BUILDKIT_HOST``'s if that is set, else the engine's own.

Only that there is none, or that it is of no use, leaves the build to the engine's classic builder; a build that failed
has failed. ``MOAT_DISABLE_BUILDKIT=1`` leaves all to the classic one.
"""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

import anyio.to_thread

from moat_plugins.buildkit.client import BuildKit
from moat_plugins.buildkit.errors import BuildKitUnavailable
from moat_plugins.buildkit.fs.source import MemorySource
from moat_plugins.buildkit.outputs import Output
from moat_plugins.buildkit.progress import BuildEvent, StepChanged, StepOutput
from moat_plugins.buildkit.upload import load_image

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from moat_core.lifecycle import Run
    from moat_core.runtime.facets import EngineApi
    from moat_core.types import ImageSpec

__all__ = ["build_image"]


async def build_image(run: Run, image: ImageSpec, labels: Mapping[str, str]) -> str | None:
    """Implement ``moat_build_image``.

    Raises:
        ImageError: The build failed.
    """
    api = (await run.runtime()).api
    if api is None or image.dockerfile is None or os.environ.get("MOAT_DISABLE_BUILDKIT", "0") not in {"", "0"}:
        return None
    try:
        if host := os.environ.get("BUILDKIT_HOST"):
            return await _build_elsewhere(run, api, image, labels, host)
        version = tuple(int(part) for part in api.version.split("."))
        async with BuildKit.connect(
            "docker+" + api.address if api.address.startswith(("unix:", "tcp:")) else "docker+tcp://engine:1",
            connect=api.connect,
            version=(version[0], version[1]),
        ) as buildkit:
            await _build(run, buildkit, image, labels, Output("moby"))
    except BuildKitUnavailable as error:
        run.progress(f"build {image.reference}", f"{error.message} The classic builder it is.")
        return None
    return image.reference


async def _build_elsewhere(run: Run, api: EngineApi, image: ImageSpec, labels: Mapping[str, str], host: str) -> str:
    """Build at HOST and load the image into the engine, by way of a file: it may be larger than memory.

    The file has no name: whatever becomes of us, nothing of it stays.
    """
    with tempfile.TemporaryFile() as archive:

        async def take(data: bytes) -> None:
            await anyio.to_thread.run_sync(archive.write, data)

        async with BuildKit.connect(host) as buildkit:
            await _build(run, buildkit, image, labels, Output("docker", take))
        await load_image(api, archive)
    return image.reference


async def _build(run: Run, buildkit: BuildKit, image: ImageSpec, labels: Mapping[str, str], output: Output) -> None:
    await buildkit.build(
        MemorySource(dict(image.files)),
        dockerfile_text=image.dockerfile,
        tags=[image.reference],
        labels=labels,
        build_args=image.build_args,
        no_cache=run.plan.rebuild,
        outputs=[output],
        on_event=_teller(run, f"build {image.reference}"),
    )


def _teller(run: Run, task: str) -> Callable[[BuildEvent], None]:
    """Return what tells the run's listeners of the steps that count."""
    seen: set[int] = set()
    done: set[int] = set()

    def tell(event: BuildEvent) -> None:
        if isinstance(event, StepChanged) and not event.name.startswith("[internal]"):
            seen.add(event.number)
            if event.state in {"done", "cached"}:
                done.add(event.number)
            else:
                run.progress(task, event.name, done=len(done), total=len(seen), unit="steps")
        elif isinstance(event, StepOutput) and event.line.strip():
            run.progress(task, event.line)

    return tell
