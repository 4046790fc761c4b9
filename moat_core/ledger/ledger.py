"""Making things so that they cannot be lost: intent, create, live; and release, which forgets.

The one place where a durable thing is made. Every arrow between two steps is a point at which the process may die;
`LedgerStep` names them, and the chaos test kills its owner at each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import anyio
import attrs

from moat_core.errors import HookContractError, MoatError, StoreError
from moat_core.ledger.resource import Resource, from_row, to_row

if TYPE_CHECKING:
    from moat_core.ledger.connections import Connections
    from moat_core.runtime.base import Connection
    from moat_core.store import LedgerRow, Store

__all__ = ["LATE_S", "RELEASE_S", "Held", "Kinds", "Ledger", "LedgerStep", "follow_moves"]

C = TypeVar("C", bound="Connection")
_RETRY_S = 0.25
RELEASE_S = 30.0
"""The most that undoing one thing may take, in seconds."""
LATE_S = 3.0
"""How long an engine may take to make what a client asked for who has gone, once it answers again, in seconds."""

Kinds = dict[str, type[Resource]]
"""Kind name -> class, as the plugins registered them."""


@attrs.frozen
class LedgerStep:
    """Something was just written or done.

    Args:
        step: ``opened`` and ``closed`` frame a run. For each resource: ``intent`` (written down), ``created``,
            ``live`` (written down), ``releasing``, ``released``, ``forgotten``.
        resource: Whose step it is; ``None`` for the run's own.
    """

    run_id: str
    step: Literal["opened", "intent", "created", "live", "releasing", "released", "forgotten", "closed"]
    resource: Resource | None = None


async def follow_moves(follow: Callable[[Mapping[int, int]], None], ports: Mapping[int, int]) -> None:
    """Have FOLLOW write down PORTS; a store that cannot be written just now ends no run: it is tried again."""
    while True:
        try:
            return follow(ports)
        except StoreError:
            await anyio.sleep(_RETRY_S)


@attrs.define(eq=False)
class Held:
    """A resource that exists, and its row."""

    row_id: int
    resource: Resource
    value: Any


class Ledger:
    """The ledger of one run; also the context that its resources are made and undone with.

    Args:
        on_step: Awaited with every step.
        release_s: The most that undoing one thing may take, in seconds.
    """

    def __init__(
        self,
        run_id: str,
        store: Store,
        kinds: Kinds,
        connections: Connections,
        on_step: Callable[[LedgerStep], Awaitable[None]] | None = None,
        *,
        release_s: float = RELEASE_S,
    ) -> None:
        self.run_id = run_id
        self._store = store
        self._kinds = kinds
        self._connections = connections
        self._on_step = on_step
        self._release_s = release_s

    async def connection(self, kind: type[C], address: str) -> C:
        """See `ResourceContext.connection`."""
        return await self._connections.get(kind, address)

    async def step(self, step: Any, resource: Resource | None = None) -> None:
        """Tell whoever listens."""
        if self._on_step is not None:
            await self._on_step(LedgerStep(self.run_id, step, resource))

    async def acquire(self, resource: Resource) -> Held:
        """Write RESOURCE down, make it, and write down that it is there.

        If making it fails or is cancelled, it is released before the error goes on, and looked for again for
        `LATE_S` if we cannot know whether the engine makes it all the same. If that fails too, the row stays for
        the reaper, and the first error is told.

        Raises:
            HookContractError: Its kind is not registered: nobody could undo it after a crash.
        """
        if self._kinds.get(resource.kind) is not type(resource):
            raise HookContractError(
                f"The resource kind '{resource.kind}' is not registered.",
                hint="Return the class from moat_register_resources.",
            )
        row_id = self._store.add_intent(self.run_id, resource.kind, to_row(resource))
        is_asked = False
        try:
            await self.step("intent", resource)
            is_asked = True
            value = await resource.create(self)
            await self.step("created", resource)
            self._store.set_state(row_id, "live")
            await self.step("live", resource)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                try:
                    await self.release(Held(row_id, resource, None), late_s=_late_s(error) if is_asked else 0.0)
                except Exception as problem:  # noqa: BLE001 - what went wrong first is what the user has to know
                    error.add_note(f"The {resource.kind} could not be undone either: {problem}")
            raise
        return Held(row_id, resource, value)

    def follow(self, held: Held, ports: Mapping[int, int]) -> None:
        """Have HELD be what it is at PORTS, see `Resource.moved`. Its row is a new one: newer than others' there."""
        resource = held.resource.moved(ports)
        if resource == held.resource:
            return
        before, held.row_id = held.row_id, self._store.add_intent(self.run_id, resource.kind, to_row(resource))
        held.resource = resource
        self._store.set_state(held.row_id, "live")
        self._store.forget_resource(before)

    async def release(self, held: Held, *, late_s: float = 0.0) -> bool:
        """Undo a resource and forget its row; return whether there was anything to undo.

        Args:
            late_s: How long to look for it again if it is not there (yet): an engine finishes what a client asked
                for who has died or gone.

        Raises:
            MoatError: It could not be undone; the row stays, so that the reaper tries again.
        """
        found = await self.undo(held, late_s=late_s)
        if late_s and not found:
            self._store.add_unseen(self.run_id)
        await self.forget(held)
        return found

    async def undo(self, held: Held, *, late_s: float = 0.0) -> bool:
        """Undo a resource; its row stays. Otherwise as `release`."""
        await self.step("releasing", held.resource)
        with anyio.fail_after(self._release_s):
            found = await self._persist(held.resource, late_s)
        await self.step("released", held.resource)
        return found

    async def forget(self, held: Held) -> None:
        """Forget the row of what is undone."""
        self._store.forget_resource(held.row_id)
        await self.step("forgotten", held.resource)

    async def _persist(self, resource: Resource, late_s: float) -> bool:
        """Release; an engine that is just being restarted is asked again until our time is up.

        How long the engine may still be making it counts from its first answer: before that it may have stood still.
        """
        deadline: float | None = None
        while True:
            try:
                if await resource.release(self):
                    return True
                now = anyio.current_time()
                deadline = now + late_s if deadline is None else deadline
                if now >= deadline:
                    return False
            except ConnectionError:
                if anyio.current_effective_deadline() - anyio.current_time() < 2 * _RETRY_S:
                    raise
            await anyio.sleep(_RETRY_S)

    async def settle(self, held: Held, *, keep: bool) -> None:
        """Leave a resource behind if that was asked for and it agrees; else release it."""
        if keep and await self._agrees(held.resource):
            self._store.set_state(held.row_id, "kept")
        else:
            await self.release(held)

    async def _agrees(self, resource: Resource) -> bool:
        try:
            return await resource.keep(self)
        except Exception:  # noqa: BLE001 - what cannot say that it may be kept is released
            return False

    def restore(self, row: LedgerRow) -> Held:
        """Make a resource again from its row.

        Raises:
            MoatError: Its plugin is not there, or does not understand its own row.
        """
        kind = self._kinds.get(row.kind)
        if kind is None:
            raise MoatError(
                f"The {row.kind} of {row.run_id} cannot be removed: the plugin that made it is not loaded.",
                hint="Install or enable that plugin and run `moat clean`.",
            )
        try:
            return Held(row.id, from_row(kind, row.data), None)
        except (TypeError, ValueError) as error:
            raise MoatError(f"The ledger's row {row.id} of kind {row.kind} cannot be read: {error}.") from error


def _late_s(error: BaseException) -> float:
    """How long the engine may still be at work after ERROR: we did not wait for its answer, or it did not come."""
    is_unsure = not isinstance(error, Exception) or isinstance(error, TimeoutError | ConnectionError)
    return LATE_S if is_unsure else 0.0
