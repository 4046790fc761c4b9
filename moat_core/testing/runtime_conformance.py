"""What every `Runtime` must do, as a suite to inherit: supply its class and a live run.

@pytest_asyncio.fixture
async def live(tmp_path):
    async with Moat(home=tmp_path / "home") as moat, moat.run(tmp_path) as run:
        yield run

class TestMine(RuntimeConformance):
    runtime = MyRuntime
    nowhere = "unix:///no/such/socket"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import anyio
import pytest

from moat_core.errors import RuntimeUnavailable, SandboxGone
from moat_core.lifecycle.insist import insist_on_plan, insist_on_started
from moat_core.plan import find_demands, list_demands, runtimes
from moat_core.runtime.load import load_attribute
from moat_core.types import RunState

if TYPE_CHECKING:
    from moat_core.api import Moat, RunHandle
    from moat_core.runtime.base import Runtime

__all__ = ["RuntimeConformance"]

_LONG_S = 60.0


@pytest.mark.asyncio
class RuntimeConformance:
    """Inherit; supply the fixtures ``moat`` (entered) and ``live`` (a run of it without a command).

    Attributes:
        runtime: The class.
        nowhere: An address at which nothing answers.
    """

    runtime: ClassVar[type[Runtime]]
    nowhere: ClassVar[str]

    async def test_nothing_answers_nowhere(self) -> None:
        """It is said with a hint, and is a ConnectionError."""
        with anyio.fail_after(_LONG_S), pytest.raises(RuntimeUnavailable) as caught:
            runtime = await self.runtime.connect(self.nowhere)
            try:
                await runtime.find_sandboxes()
            finally:
                await runtime.aclose()
        assert isinstance(caught.value, ConnectionError)
        assert caught.value.hint

    async def test_it_can_be_closed_twice(self) -> None:
        """Closing what is closed already is nothing."""
        runtime = await self.runtime.connect("")
        await runtime.aclose()
        await runtime.aclose()

    async def test_a_live_container_is_found_by_its_run(self, live: RunHandle, moat: Moat) -> None:
        """By another client, with its state, name and OCI runtime; and only it."""
        runtime = await self.runtime.connect(live.run.address)
        runtime.home = moat.home.path
        try:
            found = [info for info in await runtime.find_sandboxes(live.id) if info.role == "main"]
            assert [(info.run_id, info.name, info.state) for info in found] == [(live.id, live.name, RunState.RUNNING)]
            assert found[0].oci_runtime == live.oci_runtime
            assert await runtime.find_sandboxes("run-ffffffff") == []
            sandbox = await runtime.get_sandbox(found[0])
            assert (await sandbox.refresh()).state is RunState.RUNNING
        finally:
            await runtime.aclose()

    async def test_its_probe_says_the_same(self, live: RunHandle, moat: Moat) -> None:
        """The quick listing's way, without an event loop of its own."""
        info = runtimes(moat.dispatcher)[self.runtime.name]
        if not info.probe:
            pytest.skip("This runtime has no probe.")
        probe = load_attribute(info.probe)
        found = [each for each in probe(live.run.address, 5.0, moat.home.path) if each["run_id"] == live.id]
        (entry,) = [each for each in found if each["role"] == "main"]
        assert (entry["state"], entry["name"]) == ("running", live.name)
        assert entry["oci_runtime"] in {"", live.oci_runtime}  # what would take another question is left out
        with pytest.raises(OSError):  # noqa: PT011 - any will do
            probe(self.nowhere, 1.0, moat.home.path)

    async def test_it_honours_what_it_claims(self, live: RunHandle, moat: Moat) -> None:
        """Its claims are names of demands, the live run's are among them, and the engine says that they were met."""
        honours = runtimes(moat.dispatcher)[self.runtime.name].honours
        assert honours <= list_demands(), "a misspelt claim claims nothing"
        assert set(find_demands(live.run.plan)) <= honours
        started = (await live.sandbox.refresh()).started_with
        assert set(started) <= honours
        await insist_on_plan(live.run)
        insist_on_started(live.run)

    async def test_a_stopped_container_has_ended_for_everybody(self, live: RunHandle) -> None:
        """`stop` returns when it has; again it is nothing; `wait` and `refresh` agree, and no command runs."""
        sandbox = live.sandbox
        with anyio.fail_after(_LONG_S):
            await sandbox.stop(0)
            await sandbox.stop(0)
            ended = await sandbox.wait()
            assert ended.state is RunState.EXITED
            assert ended.exit_code is not None
            with pytest.raises(SandboxGone):
                await live.exec(["true"])

    async def test_what_is_removed_is_gone(self, live: RunHandle, moat: Moat) -> None:
        """After the run's end nobody finds it, and whoever holds it is told."""
        sandbox = live.sandbox
        runtime = await moat.upkeep().connection(self.runtime, live.run.address)
        with anyio.fail_after(_LONG_S):
            await live.aclose()
            assert await runtime.find_sandboxes(live.id) == []
            with pytest.raises(SandboxGone):
                await sandbox.refresh()
