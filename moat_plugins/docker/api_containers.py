"""The engine's calls about containers and what runs in them (Docker Engine API v1.45, /containers and /exec)."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from math import ceil, inf
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

if TYPE_CHECKING:
    from moat_core.runtime.facets import PrivateFile
    from moat_plugins.docker.client import Engine

__all__ = ["Containers", "make_archive", "make_filters"]


class Containers:
    """Part of `Engine`. A container is named by its id or its name; a missing one is an EngineError of status 404."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        """POST /containers/create; return the id."""
        made = await self._engine.call(
            "create the container", "POST", "/containers/create", params={"name": name}, body=config
        )
        return str(made["Id"])

    async def put_files(self, name: str, files: Iterable[PrivateFile]) -> None:
        """PUT /containers/{id}/archive: put FILES into a container that has not started."""
        if not (archive := make_archive(files)):
            return
        headers = {"Content-Type": "application/x-tar"}
        async with self._engine.stream(
            "put files into the container", "PUT", _path(name, "archive"), params={"path": "/"}, data=archive,
            headers=headers,
        ) as pieces:  # fmt: skip
            async for _ in pieces:
                pass

    async def start(self, name: str) -> None:
        """POST /containers/{id}/start."""
        # gVisor with many at once takes seconds each: four times what another call may take.
        timeout_s = 4 * self._engine.timeout_s
        await self._engine.call("start the container", "POST", _path(name, "start"), timeout_s=timeout_s)

    async def inspect(self, name: str) -> dict[str, Any]:
        """GET /containers/{id}/json."""
        return cast("dict[str, Any]", await self._engine.call("look at the container", "GET", _path(name, "json")))

    async def wait(self, name: str) -> int:
        """POST /containers/{id}/wait: return the exit code once it is not running; for as long as that takes."""
        answer = await self._engine.call("wait for the container", "POST", _path(name, "wait"), timeout_s=inf)
        return int(answer["StatusCode"])

    async def wait_removed(self, name: str) -> None:
        """POST /containers/{id}/wait?condition=removed."""
        params = {"condition": "removed"}
        await self._engine.call("remove the container", "POST", _path(name, "wait"), params=params)

    async def stop(self, name: str, grace_s: float) -> None:
        """POST /containers/{id}/stop: SIGTERM, then SIGKILL after GRACE_S, rounded up to whole seconds."""
        params = {"t": str(ceil(grace_s))}
        limit = grace_s + self._engine.timeout_s
        await self._engine.call("stop the container", "POST", _path(name, "stop"), params=params, timeout_s=limit)

    async def kill(self, name: str, signal: int) -> None:
        """POST /containers/{id}/kill: send a signal to the main process."""
        params = {"signal": str(signal)}
        await self._engine.call("signal the container", "POST", _path(name, "kill"), params=params)

    async def limit_processes(self, name: str, limit: int) -> None:
        """POST /containers/{id}/update: change the limit of processes and threads."""
        await self._engine.call(
            "change the limit of processes", "POST", _path(name, "update"), body={"PidsLimit": limit}
        )

    async def remove(self, name: str) -> None:
        """DELETE /containers/{id}: kill it if it runs, remove it and its anonymous volumes."""
        params = {"force": "1", "v": "1"}
        await self._engine.call("remove the container", "DELETE", f"/containers/{quote(name, safe='')}", params=params)

    async def resize(self, name: str, rows: int, columns: int) -> None:
        """POST /containers/{id}/resize."""
        params = {"h": str(rows), "w": str(columns)}
        await self._engine.call("resize the terminal", "POST", _path(name, "resize"), params=params)

    async def list_labelled(self, *labels: str) -> list[dict[str, Any]]:
        """GET /containers/json: those with all LABELS (``key`` or ``key=value``), in every state."""
        params = {"all": "1", "filters": make_filters(label=labels)}
        return await self._engine.list("list containers", "/containers/json", params=params)

    def logs(self, name: str, *, tail: int | None, follow: bool) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """GET /containers/{id}/logs: raw pieces, framed unless the container has a terminal."""
        params = {"stdout": "1", "stderr": "1", "follow": "1" if follow else "0"}
        if tail is not None:
            params["tail"] = str(tail)
        idle_s = inf if follow else None
        return self._engine.stream("read the log", "GET", _path(name, "logs"), params=params, idle_s=idle_s)

    async def create_exec(self, name: str, config: Mapping[str, Any]) -> str:
        """POST /containers/{id}/exec; return the exec's id."""
        made = await self._engine.call("run a command", "POST", _path(name, "exec"), body=config)
        return str(made["Id"])

    async def inspect_exec(self, exec_id: str) -> dict[str, Any]:
        """GET /exec/{id}/json."""
        found = await self._engine.call("look at the command", "GET", f"/exec/{quote(exec_id, safe='')}/json")
        return cast("dict[str, Any]", found)

    async def resize_exec(self, exec_id: str, rows: int, columns: int) -> None:
        """POST /exec/{id}/resize."""
        params = {"h": str(rows), "w": str(columns)}
        path = f"/exec/{quote(exec_id, safe='')}/resize"
        await self._engine.call("resize the terminal", "POST", path, params=params)


def make_filters(**filters: tuple[str, ...] | list[str]) -> str:
    """Return the value of a ``filters`` parameter."""
    return json.dumps({name: list(values) for name, values in filters.items()})


def _path(name: str, verb: str) -> str:
    return f"/containers/{quote(name, safe='')}/{verb}"


def make_archive(files: Iterable[PrivateFile]) -> bytes:
    """Return a tar archive of FILES and the folders that they are in, or ``b""`` if there are none."""
    out, folders = io.BytesIO(), set[str]()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for file in files:
            name = file.path.strip("/")
            folder = name.rpartition("/")[0]
            if folder not in folders:
                folders.add(folder)
                entry = tarfile.TarInfo(folder)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.uid, entry.gid = len(file.data), file.mode, file.uid, file.gid
            archive.addfile(entry, io.BytesIO(file.data))
    return out.getvalue() if folders else b""
