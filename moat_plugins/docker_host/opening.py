"""When a run opens: the mount is added to its plan, then the guard listens before the container exists."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs

from moat_core.errors import HostError
from moat_core.runtime.facets import RunNetwork
from moat_core.types import Mount
from moat_plugins.docker_host.contribute import CERTIFICATES, DETAIL, HOST, SOCKET_FOLDER
from moat_plugins.docker_host.events import Refusal, Widened
from moat_plugins.docker_host.folder import FOLDER, NAMES_FOLDER, GuardFolder
from moat_plugins.docker_host.guard import Guard
from moat_plugins.docker_host.listen import serve_guard
from moat_plugins.docker_host.names import Names
from moat_plugins.docker_host.raw import add_socket
from moat_plugins.docker_host.scope import Scope

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moat_core.lifecycle import Run
    from moat_core.runtime.facets import EngineApi, Guests
    from moat_plugins.docker_host.policy.verdict import Refused

__all__ = ["open_guard", "prepare"]

_TOLD = 1000
"""Refusals that are told of; a run could make more of them than anybody wants to store."""


@asynccontextmanager
async def prepare(run: Run) -> AsyncIterator[None]:
    """Add what is mounted to RUN's plan.

    Raises:
        HostError: This engine, or where it is, does not allow it.
    """
    api = await _api(run)
    plan = run.plan
    if plan.details[DETAIL]["access"] == "raw":
        run.replace_plan(await add_socket(run, api))
        yield
        return
    await _check_place(run, api)
    folder = GuardFolder(str(run.home / FOLDER), plan.user.uid, plan.user.gid)
    await run.acquire(folder)
    target = CERTIFICATES if plan.sandboxed else SOCKET_FOLDER
    run.replace_plan(attrs.evolve(plan, mounts=(*plan.mounts, Mount(folder.path, target, read_only=True))))
    yield


@asynccontextmanager
async def open_guard(run: Run) -> AsyncIterator[None]:
    """Serve the guard until everything that was made through it is to be released.

    Raises:
        HostError: It cannot listen where the run could reach it.
    """
    api, plan, network = await _api(run), run.plan, run.get(RunNetwork)
    if plan.details[DETAIL]["access"] == "raw":
        await run.emit(Widened(run.id, "raw"))
        yield
        return
    if not network.gateway:
        raise HostError("The engine does not tell its own address on the run's network, which docker:host needs.")
    scope = _make_scope(run, network, await api.hold_guests(run), api.version)
    guard = Guard(api, scope, _teller(run), await _make_names(run))
    for word in sorted(scope.allow):
        await run.emit(Widened(run.id, word))
    run.add_host(HOST, network.gateway)
    await run.start_service("docker guard", serve_guard, guard, str(run.home / FOLDER))
    yield


def _make_scope(run: Run, network: RunNetwork, guests: Guests, version: str) -> Scope:
    detail = run.plan.details[DETAIL]
    return Scope(
        plan=run.plan,
        held=run.held_mounts,
        given=run.given,
        guests=guests,
        network=network.name,
        gateway=network.gateway,
        version=version,
        allow=frozenset(detail["allow"]),
        build=bool(detail["build"]),
        hidden=(CERTIFICATES, SOCKET_FOLDER),
    )


async def _make_names(run: Run) -> Names | None:
    """In gVisor only: elsewhere Docker's own resolver does it."""
    if not run.plan.sandboxed:
        return None
    folder = GuardFolder(str(run.home / NAMES_FOLDER), 0, 0)
    return Names(await run.acquire(folder), run.plan.dns)


async def _api(run: Run) -> EngineApi:
    api = (await run.runtime()).api
    if api is None:
        raise HostError(
            f"docker:host needs an engine with Docker's API, which the runtime '{run.plan.runtime}' has not got.",
            hint="Use the runtime docker, or leave out docker:host.",
        )
    return api


async def _check_place(run: Run, api: EngineApi) -> None:
    """The guard is in this process, so the containers must be on this machine, and share its kernel."""
    known = await (await run.runtime()).oci_runtimes()
    local = api.address.startswith("unix://")
    if not local or (known is not None and known.is_desktop):
        where = "in a virtual machine" if local else f"at {api.address}"
        raise HostError(
            f"docker:host needs an engine on this machine, and this one is {where}: no guard is reached from there.",
            hint="Use docker:dind, which needs nothing of the machine, or run moat on the engine's own.",
        )


def _teller(run: Run) -> Any:
    left = _TOLD

    async def tell(method: str, path: str, refused: Refused) -> None:
        nonlocal left
        if refused.status != 403 or not left:  # noqa: PLR2004 - what is merely wrong or missing is not told, nor counted
            return
        left -= 1
        await run.emit(Refusal(run.id, method, path, refused.message, refused.option))

    return tell
