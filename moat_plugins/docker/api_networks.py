"""The engine's calls about networks and volumes (Docker Engine API v1.45, /networks and /volumes)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from moat_plugins.docker.api_containers import make_filters

if TYPE_CHECKING:
    from moat_plugins.docker.client import Engine

__all__ = ["Networks", "Volumes"]


class Networks:
    """Part of `Engine`. A missing network is an EngineError of status 404."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        """POST /networks/create; return the id."""
        body = {"Name": name, "CheckDuplicate": True, **config}
        made = await self._engine.call("create the network", "POST", "/networks/create", body=body)
        return str(made["Id"])

    async def inspect(self, name: str) -> dict[str, Any]:
        """GET /networks/{id}."""
        found = await self._engine.call("look at the network", "GET", f"/networks/{quote(name, safe='')}")
        return cast("dict[str, Any]", found)

    async def remove(self, name: str) -> None:
        """DELETE /networks/{id}."""
        await self._engine.call("remove the network", "DELETE", f"/networks/{quote(name, safe='')}")

    async def disconnect(self, name: str, container: str) -> None:
        """POST /networks/{id}/disconnect, by force."""
        path = f"/networks/{quote(name, safe='')}/disconnect"
        body = {"Container": container, "Force": True}
        await self._engine.call("disconnect from the network", "POST", path, body=body)

    async def list_labelled(self, *labels: str) -> list[dict[str, Any]]:
        """GET /networks: those with all LABELS."""
        params = {"filters": make_filters(label=labels)}
        return await self._engine.list("list networks", "/networks", params=params)


class Volumes:
    """Part of `Engine`. A missing volume is an EngineError of status 404."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def create(self, name: str, labels: Mapping[str, str]) -> dict[str, Any]:
        """POST /volumes/create; one that is there already is left as it is. Return what there is now."""
        body = {"Name": name, "Labels": dict(labels)}
        made = await self._engine.call("create the volume", "POST", "/volumes/create", body=body)
        return cast("dict[str, Any]", made)

    async def remove(self, name: str) -> None:
        """DELETE /volumes/{name}."""
        await self._engine.call(
            "remove the volume", "DELETE", f"/volumes/{quote(name, safe='')}", params={"force": "1"}
        )

    async def inspect(self, name: str) -> dict[str, Any]:
        """GET /volumes/{name}."""
        found = await self._engine.call("look at the volume", "GET", f"/volumes/{quote(name, safe='')}")
        return cast("dict[str, Any]", found)

    async def list_labelled(self, *labels: str) -> list[dict[str, Any]]:
        """GET /volumes: those with all LABELS."""
        params = {"filters": make_filters(label=labels)}
        return await self._engine.list("list volumes", "/volumes", params=params)
