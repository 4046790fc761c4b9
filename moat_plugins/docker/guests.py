"""What a run itself made on the engine, through somebody who let it: found by label, and released with the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moat_core.errors import EngineError
from moat_plugins.docker import labels, objects

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moat_plugins.docker.client import Engine

__all__ = ["make_marks", "remove_guests"]

_CONFLICT = 409
_ROUNDS = 5


def make_marks(run_labels: Mapping[str, str], run_id: str) -> dict[str, str]:
    """Return the labels that a guest object of the run carries."""
    return {**run_labels, labels.RUN_ID: run_id, labels.ROLE: labels.GUEST}


async def remove_guests(engine: Engine, marks: Mapping[str, str]) -> bool:
    """Remove everything that carries MARKS; return whether there was anything.

    Looked for again until nothing is found: the engine may still be making what was asked for before.

    Raises:
        EngineError: Something of it cannot be removed.
    """
    wanted = [f"{key}={value}" for key, value in marks.items()]
    removed = False
    for _ in range(_ROUNDS):
        found = await _remove_round(engine, marks, wanted)
        if not found:
            return removed
        removed = True
    raise EngineError("Something goes on making objects on the engine for a run that is over.")


async def _remove_round(engine: Engine, marks: Mapping[str, str], wanted: list[str]) -> bool:
    """Containers come before networks, volumes and images, which they hold."""
    containers = await engine.containers.list_labelled(*wanted)
    for item in containers:
        await objects.remove_container(engine, item["Id"], marks)
    networks = await engine.networks.list_labelled(*wanted)
    for item in networks:
        await objects.remove_network(engine, item["Id"], marks)
    volumes = await engine.volumes.list_labelled(*wanted)
    for item in volumes:
        await objects.remove_volume(engine, item["Name"], marks)
    images = [item for item in await engine.images.list_labelled(*wanted) if await _remove_image(engine, item["Id"])]
    return bool(containers or networks or volumes or images)


async def _remove_image(engine: Engine, image: str) -> bool:
    """Remove an image with all its names; one that somebody else's container or image uses stays, and is theirs."""
    try:
        await engine.images.remove(image, force=True)
    except EngineError as error:
        if error.status not in {404, _CONFLICT}:
            raise
        return False
    return True
