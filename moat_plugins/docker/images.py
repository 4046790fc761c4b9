"""Making sure that a run's image is there: pulled or built once, by whichever run needs it first."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import tarfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

from moat_core.errors import EngineError, EngineTimeout, HostError
from moat_plugins.docker import built
from moat_plugins.docker.context import read_config
from moat_plugins.docker.errors import image_error
from moat_plugins.docker.filelock import hold_lock
from moat_plugins.docker.runtime import connect_run
from moat_plugins.docker.text import printable

if TYPE_CHECKING:
    from moat_core.lifecycle import Run
    from moat_core.types import ImageSpec
    from moat_plugins.docker.client import Engine

__all__ = ["build_image", "make_context", "pull_image", "resolve_image"]

Tell = Callable[[str, int | None, int | None], None]
"""Told the newest line, and how much of how much is done."""

_LOCK_S = 3600.0
_LAST_LINES = 25
_LINE_CHARS = 500
_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)", re.DOTALL)
_HUB = "https://index.docker.io/v1/"


async def resolve_image(run: Run) -> str:
    """Return what the run's container is to be made from, which the engine then has.

    What was built here is meant by its id; its name may have been given to another image since, and then it is built
    anew. What comes from a registry is meant by the name that the user gave.

    Raises:
        ImageError: It cannot be pulled or built.
    """
    runtime = await connect_run(run)
    engine = runtime.engine
    spec, policy = run.plan.image, run.plan.details.get("docker", {}).get("pull", "missing")
    reference = spec.reference
    wants_new = run.plan.rebuild if spec.dockerfile is not None else policy == "always"
    is_built = spec.dockerfile is not None

    async def look() -> dict[str, Any] | None:
        found = await engine.images.find(reference)
        if found is None or not is_built:
            return found
        return found if built.is_current(runtime.home, runtime.address, reference, str(found.get("Id"))) else None

    before = await look()
    if before is not None and not wants_new:
        return str(before["Id"]) if is_built else reference
    if before is None and spec.dockerfile is None and policy == "never":
        raise image_error(
            f"The engine has no image {reference}, and `docker.pull` is `never`.", "No such image", image=reference
        )
    task = f"{'pull' if spec.dockerfile is None else 'build'} {reference}"

    def tell(text: str, done: int | None, total: int | None) -> None:
        run.progress(task, text, done=done, total=total, unit="bytes" if spec.dockerfile is None else "steps")

    async with hold_lock(run.locks, f"image {reference}", _LOCK_S):
        now = await look()
        if now is None or (wants_new and now.get("Id") == (before or {}).get("Id")):
            if spec.dockerfile is None:
                await pull_image(engine, reference, tell)
            elif not await _is_built_by_others(run, spec):
                await build_image(engine, spec, tell, no_cache=run.plan.rebuild)
            run.progress(task, "done", finished=True)
        if not is_built:
            return reference
        made = str((await engine.images.inspect(reference))["Id"])
        built.remember(runtime.home, runtime.address, reference, made)
    return made


async def _is_built_by_others(run: Run, spec: ImageSpec) -> bool:
    # Without a label of ours: images that others build from it would have it, too.
    return await run.dispatcher.afirst("moat_build_image", run=run, image=spec, labels={}) is not None


async def pull_image(engine: Engine, reference: str, tell: Tell) -> None:
    """Pull an image.

    Raises:
        ImageError: The registry, or the way to it, refused; also when that is said in the middle of the stream.
    """
    layers: dict[str, tuple[int, int]] = {}
    with _as_image_error(f"The image {reference} cannot be pulled"):
        async with aclosing(engine.images.pull(reference, find_auth(reference))) as messages:
            async for message in messages:
                if "error" in message:
                    text = _text_of(message)
                    raise image_error(f"The image {reference} cannot be pulled: {text}", text, image=reference)
                detail = message.get("progressDetail") or {}
                if detail.get("total"):
                    layers[str(message.get("id"))] = (int(detail.get("current", 0)), int(detail["total"]))
                done, total = (sum(column) for column in zip(*layers.values(), strict=True)) if layers else (None, None)
                tell(printable(str(message.get("status", ""))), done, total)
    if await engine.images.find(reference) is None:
        raise image_error(f"The engine broke the pull of {reference} off.", "", image=reference)


async def build_image(engine: Engine, spec: ImageSpec, tell: Tell, *, no_cache: bool = False) -> None:
    """Build an image with the engine's classic builder.

    Raises:
        ImageError: A step failed: which, and the last lines it printed, are in the hint.
    """
    step, lines = "", deque[str](maxlen=_LAST_LINES)
    made = engine.images.build(
        spec.reference,
        make_context(spec),
        labels={},
        build_args=spec.build_args,
        no_cache=no_cache,
    )
    with _as_image_error(f"The image {spec.reference} cannot be built"):
        async with aclosing(made) as messages:
            async for message in messages:
                if "error" in message:
                    raise _build_error(spec, step, list(lines), _text_of(message))
                text = printable(str(message.get("stream") or message.get("status") or "")).strip()
                if match := _STEP.match(text):
                    step = match.group(3).strip()
                    lines.clear()
                    tell(step[:_LINE_CHARS], int(match.group(1)), int(match.group(2)))
                elif text:
                    lines += [line[:_LINE_CHARS] for line in text.split("\n")[-_LAST_LINES:]]
                    tell(lines[-1], None, None)
    if await engine.images.find(spec.reference) is None:
        raise _build_error(spec, step, list(lines), "The engine broke the build off.")


@contextmanager
def _as_image_error(what: str) -> Iterator[None]:
    """Turn a refusal of the engine's into an `ImageError`; that it has gone, or does not answer, stays what it is."""
    try:
        yield
    except EngineError as error:
        if isinstance(error, EngineTimeout):
            raise
        text = str(error.details.get("engine_message", error.message))
        raise image_error(f"{what}: {text}", text) from error


def _build_error(spec: ImageSpec, step: str, lines: list[str], text: str) -> HostError:
    shown = step.splitlines()[0] if step else "its first step"
    error = image_error(f"The image {spec.reference} cannot be built: it failed at `{shown[:200]}`.", text, step=step)
    error.hint = "\n".join(filter(None, [*lines, text, error.hint]))
    return error


def make_context(spec: ImageSpec) -> bytes:
    """Return the build context as a tar archive: the same bytes for the same content, so that the cache hits."""
    buffer = io.BytesIO()
    files = {**spec.files, "Dockerfile": (spec.dockerfile or "").encode()}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(files):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode, entry.mtime = len(files[path]), 0o644, 0
            tar.addfile(entry, io.BytesIO(files[path]))
    return buffer.getvalue()


def find_auth(reference: str) -> str:
    """Return the ``X-Registry-Auth`` value for an image's registry, from `docker login`'s file; ``""`` if none.

    Credential helpers are not asked: what they guard is pulled with `docker pull`.
    """
    first, slash, _ = reference.partition("/")
    is_host = bool(slash) and ("." in first or ":" in first or first == "localhost")
    server = first if is_host else _HUB
    entry = (read_config(os.environ).get("auths") or {}).get(server) or {}
    try:
        user, _, password = base64.b64decode(entry.get("auth") or "").decode().partition(":")
    except ValueError:
        return ""
    if not user:
        return ""
    auth = {"username": user, "password": password, "serveraddress": server}
    return base64.urlsafe_b64encode(json.dumps(auth).encode()).decode()


def _text_of(message: dict[str, Any]) -> str:
    detail = message.get("errorDetail")
    text = detail.get("message") if isinstance(detail, dict) else None
    return printable(" ".join(str(text or message.get("error") or "unknown error").split()))
