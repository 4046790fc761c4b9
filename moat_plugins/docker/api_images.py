"""The engine's calls about images (Docker Engine API v1.45, /images and /build)."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from moat_core.errors import EngineError, HostError, ImageError
from moat_plugins.docker.api_containers import make_filters

if TYPE_CHECKING:
    from moat_plugins.docker.client import Engine

__all__ = ["Images"]

_PULL_IDLE_S = 300.0
_BUILD_IDLE_S = 3600.0  # a compiler may be silent for long


class Images:
    """Part of `Engine`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def find(self, reference: str) -> dict[str, Any] | None:
        """GET /images/{name}/json; ``None`` if the engine has no such image."""
        try:
            return await self.inspect(reference)
        except HostError as error:
            if error.details.get("status") == 404:  # noqa: PLR2004 - HTTP
                return None
            raise

    async def inspect(self, reference: str) -> dict[str, Any]:
        """GET /images/{name}/json."""
        path = _path(reference)
        return cast("dict[str, Any]", await self._engine.call("look at the image", "GET", f"{path}/json"))

    async def list_labelled(self, *labels: str) -> list[dict[str, Any]]:
        """GET /images/json: those with all LABELS."""
        params = {"filters": make_filters(label=labels)}
        return await self._engine.list("list images", "/images/json", params=params)

    async def list_named(self, pattern: str) -> list[dict[str, Any]]:
        """GET /images/json: those with a name that matches PATTERN; of their names only these are told."""
        params = {"filters": make_filters(reference=[pattern])}
        return await self._engine.list("list images", "/images/json", params=params)

    async def remove(self, reference: str, *, force: bool = False) -> None:
        """DELETE /images/{name}; untagged parents go with it, and with FORCE all names of the image."""
        params = {"force": "1"} if force else None
        await self._engine.call("remove the image", "DELETE", _path(reference), params=params, timeout_s=120)

    async def pull(self, reference: str, auth: str = "") -> AsyncGenerator[dict[str, Any], None]:
        """POST /images/create: yield what the engine says of its progress, errors included.

        Args:
            auth: Value of the ``X-Registry-Auth`` header.
        """
        headers = {"X-Registry-Auth": auth} if auth else None
        params = {"fromImage": reference}
        if "@" not in reference and ":" not in reference.rsplit("/", 1)[-1]:
            params["tag"] = "latest"  # the engine would pull every tag
        async for message in self._messages(
            f"pull {reference}", "/images/create", params, headers=headers, idle_s=_PULL_IDLE_S
        ):
            yield message

    async def build(
        self,
        tag: str,
        tar: bytes,
        *,
        labels: Mapping[str, str],
        build_args: Mapping[str, str],
        no_cache: bool = False,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """POST /build with the classic builder: yield what it says, errors included.

        Args:
            tar: The context, with a ``Dockerfile`` at its top.
        """
        params = {
            "t": tag,
            "version": "1",
            "rm": "1",
            "forcerm": "1",
            "labels": json.dumps(dict(labels)),
            "buildargs": json.dumps(dict(build_args)),
            "nocache": "1" if no_cache else "0",
        }
        headers = {"Content-Type": "application/x-tar"}
        async for message in self._messages(
            f"build {tag}", "/build", params, headers=headers, data=tar, idle_s=_BUILD_IDLE_S
        ):
            yield message

    async def _messages(
        self, doing: str, path: str, params: Mapping[str, str], *, idle_s: float, **more: Any
    ) -> AsyncGenerator[dict[str, Any], None]:
        from moat_plugins.docker.client import read_lines  # it imports us

        async with self._engine.stream(doing, "POST", path, params=params, idle_s=idle_s, **more) as pieces:
            async for line in read_lines(pieces):
                try:
                    message = json.loads(line)
                except ValueError as error:
                    raise EngineError(f"The Docker engine sent no JSON, asked to {doing}.") from error
                if isinstance(message, dict):
                    yield message


def _path(reference: str) -> str:
    if {"", ".", ".."} & set(reference.split("/")):  # it would name another thing than an image
        raise ImageError(f"'{reference}' is no image reference.", hint="An image is written as `name:tag`.")
    return f"/images/{quote(reference, safe='/:@')}"
