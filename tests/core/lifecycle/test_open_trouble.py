"""Trouble while a run opens: whatever happens in whichever phase, what was open is left in exact reverse."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import anyio
import pytest

from moat_core import hookimpl
from moat_core.errors import HookContractError, HookFailed, HostError, MoatError, RunError, ServiceCrashed

# Where the trouble is, and which layers are open by then.
PHASES = {
    "moat_open_run": ("run",),
    "moat_resolve_image": ("run",),
    "moat_open_network": ("run", "net"),
    "moat_open_services": ("run", "net", "rt"),
    "moat_open_sandbox": ("run", "net", "rt"),
    "moat_open_endpoints": ("run", "net", "rt", "end"),
}


class Trouble:
    """Does WHAT in HOOK, after everybody else there (a `first` hook asks it before everybody else)."""

    def __init__(self, what):
        self.what = what
        self.here = asyncio.Event()

    def hooked(self, hook):
        """Return this as a plugin that implements HOOK."""

        async def first(run):
            await self.what(self, run)

        @asynccontextmanager
        async def context(run):
            await self.what(self, run)
            yield

        plugin = type("Plugin", (), {})()
        function = first if hook == "moat_resolve_image" else context
        setattr(plugin, hook, hookimpl(function))
        return plugin


async def raises(trouble, run):
    await anyio.lowlevel.checkpoint()
    raise ValueError("no")


async def raises_ours(trouble, run):
    raise HostError("The host says no.")


async def provides_twice(trouble, run):
    run.provide(trouble)
    assert run.get(Trouble) is trouble
    newer = Trouble(None)
    run.provide(newer, replace=True)
    assert run.get(Trouble) is newer
    run.provide(Trouble(None))


async def hangs(trouble, run):
    trouble.here.set()
    await anyio.sleep_forever()


async def cancels(trouble, run):
    run.cancel()


async def cancels_and_goes_on(trouble, run):
    run.cancel()
    with anyio.CancelScope(shield=True):
        await anyio.sleep(0)


async def cancels_with_reason(trouble, run):
    run.cancel(RunError("Enough."))
    await anyio.sleep_forever()


async def service_dies(trouble, run):
    async def serve(*, task_status):
        task_status.started()
        await anyio.lowlevel.checkpoint()
        raise OSError("broken")

    await run.start_service("frail", serve)
    await anyio.sleep_forever()


async def task_group_dies(trouble, run):
    async def die():
        raise OSError("broken")

    async with anyio.create_task_group() as group:
        group.start_soon(die)
        await anyio.sleep_forever()


async def leaves_its_scope(trouble, run):
    raise asyncio.CancelledError


TROUBLES = {
    raises: ("failed", HookFailed, "ValueError: no"),
    raises_ours: ("failed", HostError, "The host says no."),
    provides_twice: ("failed", HookContractError, "There is a Trouble in the run"),
    cancels: ("cancelled", None, ""),
    cancels_and_goes_on: ("cancelled", None, ""),
    cancels_with_reason: ("failed", RunError, "Enough."),
    service_dies: ("failed", ServiceCrashed, "OSError: broken"),
    task_group_dies: ("failed", HookFailed, "OSError: broken"),
    leaves_its_scope: ("failed", HookContractError, "not asked"),
}


@pytest.mark.parametrize("what", TROUBLES, ids=lambda what: what.__name__)
@pytest.mark.parametrize("hook", PHASES)
async def test_trouble_while_opening_undoes_what_was_open_in_reverse(moat, layers, hook, what):
    """Whatever goes wrong in any phase, the layers below are left in order and the caller hears why."""
    status, kind, words = TROUBLES[what]
    moat.register(Trouble(what).hooked(hook), "trouble")
    if hook == "moat_open_sandbox":
        moat.register(OnlySandbox(), "only")
    record = await moat.run()
    assert layers.log == layers.expected(*PHASES[hook])
    assert record.outcome.status == status
    if kind is not None:
        assert type(record.outcome.error) is kind
        assert words in str(record.outcome.error)
    assert set(layers.outcomes) == {status}
    assert record.left == []
    assert not record.problems
    assert layers.result.outcome.status == status


class OnlySandbox:
    """Takes the fake runtime out of the choice, so that the trouble's context is the only one."""

    @hookimpl(tryfirst=True)
    @asynccontextmanager
    async def moat_open_run(self, run):
        run.plan.details["fake.sandbox"] = False
        yield


@pytest.mark.parametrize("way", ["task", "anyio scope", "asyncio.timeout", "request"])
@pytest.mark.parametrize("hook", PHASES)
async def test_hanging_while_opening_is_ended_by_a_cancellation(moat, layers, hook, way):
    """A plugin that hangs in any phase is interrupted by whatever cancels the caller, and the layers are left in order."""
    trouble = Trouble(hangs)
    moat.register(trouble.hooked(hook), "trouble")
    if hook == "moat_open_sandbox":
        moat.register(OnlySandbox(), "only")
    await cancelled(moat, trouble.here, way)
    assert layers.log == layers.expected(*PHASES[hook])
    assert layers.result.outcome.status == "cancelled"
    assert not layers.result.problems
    assert moat.left() == []


async def cancelled(moat, here, way, times=1):
    """Run, wait until HERE is set, and cancel in one of the ways."""
    if way == "task":
        task = asyncio.create_task(moat.run())
        await here.wait()
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
    elif way == "anyio scope":
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def cancel():
                    await here.wait()
                    scope.cancel()

                group.start_soon(cancel)
                await moat.run()
        assert scope.cancelled_caught
    elif way == "asyncio.timeout":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as timeout:

                async def expire():
                    await here.wait()
                    timeout.reschedule(0)

                expiring = asyncio.create_task(expire())
                await moat.run()
        await expiring
    else:
        async with moat.moat() as library:
            handle = library.run(moat.workspace)

            async def ask():
                await here.wait()
                handle.run.cancel()

            asking = asyncio.create_task(ask())
            with pytest.raises(MoatError, match="cancelled"):
                async with handle:
                    pass
            await asking


@pytest.mark.parametrize(("offers", "who"), [(0, "nobody"), (2, "fake, second")])
async def test_none_or_two_containers_is_an_error_that_names_them(moat, layers, offers, who):
    """Exactly one plugin opens the container; the error names those who did."""

    class Second:
        @hookimpl
        @asynccontextmanager
        async def moat_open_sandbox(self, run):
            yield None

    moat.register(Second() if offers else OnlySandbox(), "second")
    record = await moat.run()
    assert isinstance(record.outcome.error, HookContractError)
    assert f"{who} did" in str(record.outcome.error)
    assert layers.log == layers.expected("run", "net", "rt")
    assert record.left == []
