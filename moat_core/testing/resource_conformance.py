"""What every `Resource` must do, so that nothing of it is ever left: a suite to inherit.

@pytest_asyncio.fixture
async def context():
    async with Connections() as connections:
        yield SimpleNamespace(run_id="run-00000000", connection=connections.get)

class TestMyVolume(ResourceConformance):
    @pytest.fixture
    def resource(self):
        return MyVolume(address="", name=f"test-{secrets.token_hex(4)}")

    async def exists(self, resource, context):
        return resource.name in await list_volumes()
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anyio
import pytest

from moat_core.ledger.resource import from_row, to_row

if TYPE_CHECKING:
    from moat_core.ledger import Resource, ResourceContext

__all__ = ["ResourceConformance"]

_LONG_S = 60.0


@pytest.mark.asyncio
class ResourceConformance:
    """Inherit; supply the fixtures ``resource`` (a new one for each check) and ``context``, and `exists`.

    Attributes:
        late_s: How long the engine may still be making what a client asked for who has gone, in seconds.
    """

    late_s = 3.0

    async def exists(self, resource: Resource, context: ResourceContext) -> bool:
        """Ask the outside world whether RESOURCE is there, in whatever state."""
        raise NotImplementedError

    async def test_releasing_what_was_never_made_finds_nothing(
        self, resource: Resource, context: ResourceContext
    ) -> None:
        """Not found is success, and said."""
        with anyio.fail_after(_LONG_S):
            assert await resource.release(context) is False
        assert not await self.exists(resource, context)

    async def test_it_is_made_and_undone(self, resource: Resource, context: ResourceContext) -> None:
        """And the world agrees with both."""
        await resource.create(context)
        try:
            assert await self.exists(resource, context)
        finally:
            with anyio.fail_after(_LONG_S):
                assert await resource.release(context) is True
        assert not await self.exists(resource, context)

    async def test_it_can_be_undone_again(self, resource: Resource, context: ResourceContext) -> None:
        """The owner and a reaper may both try."""
        await resource.create(context)
        assert await resource.release(context)
        assert await resource.release(context) is False

    async def test_it_can_be_undone_by_two_at_once(self, resource: Resource, context: ResourceContext) -> None:
        """Neither fails, whoever is quicker."""
        await resource.create(context)
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(resource.release, context)
        assert not await self.exists(resource, context)

    async def test_it_can_be_undone_from_its_row(self, resource: Resource, context: ResourceContext) -> None:
        """What the ledger stores is JSON, and enough to find it again after its owner has died."""
        await resource.create(context)
        again = from_row(type(resource), json.loads(json.dumps(to_row(resource))))
        assert await again.release(context)
        assert not await self.exists(resource, context)

    @pytest.mark.parametrize("turns", [0, 1, 2, 5, 10, 50])
    async def test_a_half_made_one_can_be_undone(
        self, resource: Resource, context: ResourceContext, turns: int
    ) -> None:
        """Its making is cancelled somewhere in the middle; what there is of it then, or soon, goes."""
        async with anyio.create_task_group() as group:
            group.start_soon(resource.create, context)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        with anyio.move_on_after(self.late_s):
            while not await resource.release(context):  # noqa: ASYNC110 - it is the engine's
                await anyio.sleep(0.02)
        assert not await self.exists(resource, context)

    async def test_its_kind_has_a_name(self, resource: Resource) -> None:
        """A stable one, with the plugin's name in it: it stays in ledgers."""
        plugin, dot, what = type(resource).kind.partition(".")
        assert plugin
        assert dot
        assert what
