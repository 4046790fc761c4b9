"""Images on the real engine: built once, pulled or explained."""

from __future__ import annotations

import os

import anyio
import pytest
from docker_support import FakeRun, get_engine, make_plan, open_run

from moat_core.errors import ImageError
from moat_core.ledger import Connections
from moat_core.types import ImageSpec
from moat_plugins.docker.built import read_all
from moat_plugins.docker.images import resolve_image
from moat_plugins.docker.resources import DockerImage
from moat_plugins.docker.runtime import DockerRuntime


@pytest.fixture
async def tag(engine, tmp_path):
    """A tag that nobody has; its image is removed at the end."""
    name = f"moat/test:{os.urandom(8).hex()}"
    yield name
    async with Connections(tmp_path) as connections:
        run = FakeRun(make_plan(), engine, "/nowhere", connections)
        await DockerImage(engine, name).release(run)


def spec(tag, dockerfile="FROM debian:bookworm-slim\nCOPY file /file\nRUN cat /file && id -u\n", **fields):
    return ImageSpec("debian:bookworm-slim", dockerfile, tag, {"file": b"content"}, **fields)


async def test_present_image_is_taken_as_it_is(engine, tmp_path):
    """An image that the engine has costs one look."""
    async with open_run(engine, tmp_path) as run:
        assert await resolve_image(run) == "debian:bookworm-slim"
        assert run.told == []


async def test_absent_image_is_built_once_by_several(engine, tmp_path, tag):
    """Two who need an image at the same time build it once; progress is told, and it carries no label."""
    async with Connections(tmp_path) as ours, Connections(tmp_path) as others:
        runs = [
            FakeRun(make_plan(image=spec(tag)), engine, tmp_path, connections) for connections in (ours, others, ours)
        ]
        async with anyio.create_task_group() as group:
            for run in runs:
                group.start_soon(resolve_image, run)
        told = [run.told for run in runs if run.told]
        assert len(told) == 1
        steps = [(text, numbers["done"], numbers["total"]) for _, text, numbers in told[0] if numbers.get("done")]
        assert steps[:2] == [("FROM debian:bookworm-slim", 1, 3), ("COPY file /file", 2, 3)]
        assert steps[2] == ("RUN cat /file && id -u", 3, 3)
        assert told[0][-1] == (f"build {tag}", "done", {"finished": True})
        engine_ = await get_engine(runs[0])
        found = await engine_.images.find(tag)
        assert "moat.image" not in (found["Config"]["Labels"] or {})
        assert read_all(str(tmp_path), engine)[found["Id"]] == tag


async def test_name_that_became_another_images_is_built_anew(engine, tmp_path, tag):
    """What answers to the name today is not what was built: the run has an image of its own making, by its id."""
    async with open_run(engine, tmp_path, image=spec(tag)) as run:
        first = await resolve_image(run)
        api = await get_engine(run)
        repo, _, word = tag.partition(":")
        params = {"repo": repo, "tag": word}
        await api.call("tag", "POST", "/images/debian:bookworm-slim/tag", params=params)
        assert (await api.images.inspect(tag))["Id"] != first
        again = await resolve_image(run)
        assert again == first  # from the cache
        assert (await api.images.inspect(tag))["Id"] == first


async def test_rebuild_builds_anew(engine, tmp_path, tag):
    """Asked to rebuild, an image that is there is made again, from its first step."""
    text = "FROM debian:bookworm-slim\nRUN head -c 16 /dev/urandom >/random\n"
    async with open_run(engine, tmp_path, image=spec(tag, text)) as run:
        await resolve_image(run)
        first = await (await get_engine(run)).images.find(tag)
        await resolve_image(run)
        assert (await (await get_engine(run)).images.find(tag))["Id"] == first["Id"]
        import attrs

        run.plan = attrs.evolve(run.plan, rebuild=True)
        await resolve_image(run)
        assert (await (await get_engine(run)).images.find(tag))["Id"] != first["Id"]
        await DockerImage(engine, first["Id"]).release(run)


async def test_failing_step_is_named_with_its_last_words(engine, tmp_path, tag):
    """A build that fails says at which step, and what was printed last; nothing is left under its name."""
    text = "FROM debian:bookworm-slim\nRUN echo fine\nRUN echo the reason >&2; exit 7\n"
    async with open_run(engine, tmp_path, image=spec(tag, text)) as run:
        with pytest.raises(ImageError, match="RUN echo the reason") as caught:
            await resolve_image(run)
        assert "the reason" in caught.value.hint
        assert "7" in caught.value.hint
        assert "fine" not in caught.value.hint
        assert await (await get_engine(run)).images.find(tag) is None


async def test_wrong_dockerfile_is_an_image_error(engine, tmp_path, tag):
    """What the engine refuses to begin with is an `ImageError` with its words, too."""
    async with open_run(engine, tmp_path, image=spec(tag, "FROM debian:bookworm-slim\nNONSENSE x\n")) as run:
        with pytest.raises(ImageError, match=tag) as caught:
            await resolve_image(run)
        assert "NONSENSE" in str(caught.value)


async def test_build_arguments_reach_the_build(engine, tmp_path, tag):
    """``build_args`` are there for RUN."""
    text = 'FROM debian:bookworm-slim\nARG WORD\nRUN test "$WORD" = "a b"\n'
    async with open_run(engine, tmp_path, image=spec(tag, text, build_args={"WORD": "a b"})) as run:
        assert await resolve_image(run) == (await (await get_engine(run)).images.find(tag))["Id"]


@pytest.mark.parametrize(
    "name", ["registry.invalid/no/such:tag", "no-such-image-of-ours", "registry.invalid/x@sha256:" + "0" * 64]
)
async def test_failing_pull_is_explained(engine, tmp_path, name):
    """A registry that cannot be reached is an `ImageError` that says what to do."""
    async with open_run(engine, tmp_path, image=ImageSpec(name)) as run:
        with pytest.raises(ImageError, match=f"{name} cannot be pulled") as caught:
            await resolve_image(run)
        assert caught.value.hint


async def test_absent_image_is_not_pulled_when_that_is_forbidden(engine, tmp_path):
    """``docker.pull: never`` asks no registry."""
    fields = {"image": ImageSpec("registry.invalid/x"), "details": {"docker": {"pull": "never"}}}
    async with open_run(engine, tmp_path, **fields) as run:
        with pytest.raises(ImageError, match="never"):
            await resolve_image(run)


async def test_image_in_use_is_not_removed(engine, tmp_path, tag):
    """Removing an image that a container uses is refused; a missing one is success."""
    from moat_core.errors import EngineError
    from moat_plugins.docker.resources import DockerContainer

    async with open_run(engine, tmp_path, image=spec(tag)) as run:
        await resolve_image(run)
        container = DockerContainer(engine, f"moat-{run.id}", {"Image": tag, "Cmd": ["true"], "Labels": run.labels})
        await run.acquire(container)
        engine_ = (await run.connection(DockerRuntime, engine)).engine
        await engine_.containers.start(container.name)
        with pytest.raises(EngineError):
            await DockerImage(engine, tag).release(run)
        await container.release(run)
        assert await DockerImage(engine, tag).release(run) is True
        assert await DockerImage(engine, tag).release(run) is False
