"""Many runs at once in one process: none fails, none leaks."""

from __future__ import annotations

import asyncio

from moat_core import Moat


async def test_32_runs_at_once(world, home, workspace):
    """32 runs opened together all do their work; nothing of them is left, and their ids and names are their own."""

    async def one(moat, number):
        async with moat.run(workspace, sandbox=number % 4 == 0, command=["sh", "-c", f"echo {number}"]) as run:
            return run.id, (await run.wait()).stdout

    async with Moat(home=home) as moat:
        results = await asyncio.gather(*(one(moat, number) for number in range(32)))
        assert [output for _, output in results] == [b"%d\n" % number for number in range(32)]
        assert len({run_id for run_id, _ in results}) == 32
        assert moat.store.resources() == []
    assert not world.wait_until_empty(5)


async def test_a_failure_among_many_ends_only_its_own(world, home, workspace):
    """A run that cannot start takes none of its neighbours with it."""

    async def good(moat):
        async with moat.run(workspace, sandbox=False) as run:
            return (await run.exec(["echo", "fine"])).stdout

    async def bad(moat):
        async with moat.run(workspace, sandbox=False, mounts=["/no/such/folder:/data"]) as run:
            return await run.exec(["true"])

    async with Moat(home=home) as moat:
        results = await asyncio.gather(*(bad(moat) if n == 2 else good(moat) for n in range(5)), return_exceptions=True)
    assert [result for n, result in enumerate(results) if n != 2] == [b"fine\n"] * 4
    assert isinstance(results[2], Exception)


async def test_an_image_removed_in_between_is_made_again(world, home, workspace):
    """`moat clean` in another terminal may take an image between our look and our create: it is built again."""
    import subprocess

    from moat_core import hookimpl

    class Cleaner:
        """Removes the image once, at the last moment: just before the container is written down."""

        struck = 0

        @hookimpl
        async def moat_on_ledger_step(self, step):
            if step.step == "intent" and step.resource.kind == "docker.container" and not self.struck:
                self.struck += 1
                subprocess.run(["docker", "rmi", "-f", tag], capture_output=True, check=True)

    cleaner = Cleaner()
    (workspace / "agent.yaml").write_text("hooks: {post_build: 'echo built > /tmp/built-for-test-many'}\n")
    async with Moat(home=home, plugins={"cleaner": cleaner}) as moat:
        request = moat.request(
            workspace, command=["cat", "/tmp/built-for-test-many"], sandbox=False, config="workspace"
        )
        tag = moat.plan(request).image.reference
        cleaner.struck = 1  # the first run only builds it
        async with moat.open(request) as run:
            assert (await run.wait()).stdout == b"built\n"
        cleaner.struck = 0
        async with moat.open(
            moat.request(workspace, command=["cat", "/tmp/built-for-test-many"], sandbox=False, config="workspace")
        ) as run:
            assert (await run.wait()).stdout == b"built\n"
        assert cleaner.struck == 1
    subprocess.run(["docker", "rmi", "-f", tag], capture_output=True, check=True)
