"""What a run itself made on the engine, through somebody who let it: found by label, proven, and released with the run.

Images have no labels of ours: what is built from an image would have them, too. Each image that a run made has names in
a repository of the run's instead, which say that it is the run's, and which of its other names the run gave. No copy
has those names, and each holds only for the image it was made for.
"""

from __future__ import annotations

import os
import re
import secrets
from typing import TYPE_CHECKING, Any

from moat_core.errors import EngineError, StoreError
from moat_core.runtime.facets import Guests
from moat_plugins.docker import labels, objects

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from moat_core.runtime.proof import Proof
    from moat_plugins.docker.runtime import DockerRuntime

__all__ = ["REPOSITORY", "DockerGuestBook", "make_marks", "read_renamed", "remove_guests"]

REPOSITORY = "moat/guest-"
"""How the repositories begin that tell whose an image is; the home and the run follow."""
_RUN_ID = re.compile(r"run-[0-9a-f]{8}")
_MISSING = 404
_ROUNDS = 5


def make_marks(run_labels: Mapping[str, str], run_id: str) -> dict[str, str]:
    """Return the labels that a guest object of the run carries."""
    return {**run_labels, labels.RUN_ID: run_id, labels.ROLE: labels.GUEST}


class DockerGuestBook(Guests):
    """See `Guests`.

    Args:
        proof: The home's.
        marks: Of `make_marks`.
    """

    claims = labels.CLAIMS

    def __init__(self, proof: Proof, marks: Mapping[str, str]) -> None:
        self.marks = marks
        self.repository = f"{REPOSITORY}{marks[labels.OWNER]}-{marks[labels.RUN_ID]}"
        self._proof = proof
        self._path = _renamed_path(proof.home, marks[labels.RUN_ID])
        self._renamed = read_renamed(proof.home, marks[labels.RUN_ID])

    def sign(self, kind: str, name: str, more: Mapping[str, str]) -> dict[str, str]:
        """See `Guests`."""
        return labels.sign(self._proof, kind, name, {**more, **self.marks})

    def is_own(self, kind: str, name: str, found: Mapping[str, str] | None) -> bool:
        """See `Guests`."""
        return self.marks.items() <= (found or {}).items() and labels.is_ours(self._proof, kind, name, found)

    def name_new_image(self) -> str:
        """See `Guests`."""
        nonce = secrets.token_hex(8)
        return f"{self.repository}:new-{nonce}-{self._tag(nonce, '')}"

    def name_image(self, identity: str, name: str = "") -> str:
        """See `Guests`."""
        return f"{self.repository}:{'its' if name else 'own'}-{self._tag(identity, name)}"

    def own_names(self, identity: str, names: Iterable[str]) -> list[str] | None:
        """See `Guests`."""
        there = set(names)
        if not any(self._is_proven(identity, name) for name in there):
            return None
        return sorted(name for name in there if self.name_image(identity, name) in there)

    def is_reserved(self, name: str) -> bool:
        """See `Guests`."""
        return name.startswith(REPOSITORY)

    def _is_proven(self, identity: str, name: str) -> bool:
        repository, _, tag = name.rpartition(":")
        if repository != self.repository:
            return False
        kind, _, rest = tag.partition("-")
        nonce, _, seal = rest.partition("-")
        return name == self.name_image(identity) or (kind == "new" and seal == self._tag(nonce, ""))

    def _tag(self, identity: str, name: str) -> str:
        return self._proof.make("image", self.repository, identity, name)

    def knows(self, identity: str) -> bool:
        """See `Guests`."""
        return identity in self._renamed

    def add_renamed(self, identity: str) -> None:
        """See `Guests`."""
        if identity not in self._renamed:
            self._renamed.add(identity)
            self._write()

    def expose(self, identity: str, found: Mapping[str, str]) -> None:
        """See `Guests`."""
        self.add_renamed(identity)
        if tag := found.get(labels.PROOF):
            self._proof.burn(tag)

    def drop_renamed(self, identity: str) -> None:
        """See `Guests`."""
        if identity in self._renamed:
            self._renamed.discard(identity)
            self._write()

    def _write(self) -> None:
        draft = f"{self._path}.{os.getpid()}"
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            with open(draft, "w", encoding="ascii") as file:
                file.write("\n".join(sorted(self._renamed)))
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, self._path)
        except OSError as error:
            raise StoreError(
                f"What the run renamed cannot be written down: {error.strerror or error}.",
                hint="Make the state folder writable, or free some disk space.",
            ) from error


def read_renamed(home: str, run_id: str) -> set[str]:
    """Return the ids of the containers of a run that are not called any more what they were made as."""
    if _RUN_ID.fullmatch(run_id) is None:
        return set()
    try:
        with open(_renamed_path(home, run_id), encoding="ascii", errors="replace") as file:
            return set(file.read().split())
    except OSError:
        return set()


def _renamed_path(home: str, run_id: str) -> str:
    return os.path.join(home, "docker", "renamed", run_id)


async def remove_guests(runtime: DockerRuntime, marks: Mapping[str, str]) -> bool:
    """Remove all that carries MARKS and is proven, and the images of that run; return whether there was anything.

    Looked for again until nothing is found: the engine may still be making what was asked for before.

    Raises:
        EngineError: Something of it cannot be removed.
    """
    book = DockerGuestBook(runtime.proof, marks)
    removed = False
    for _ in range(_ROUNDS):
        if not await _remove_round(runtime, book):
            _forget_renamed(runtime.home, marks[labels.RUN_ID])
            return removed
        removed = True
    raise EngineError("Something goes on making objects on the engine for a run that is over.")


def _forget_renamed(home: str, run_id: str) -> None:
    try:
        os.unlink(_renamed_path(home, run_id))
    except OSError:
        pass


async def _remove_round(runtime: DockerRuntime, book: DockerGuestBook) -> bool:
    """Containers come before networks, volumes and images, which they hold."""
    engine = runtime.engine
    wanted = [f"{key}={value}" for key, value in book.marks.items()]
    renamed = read_renamed(runtime.home, book.marks[labels.RUN_ID])
    found = False

    for item in await engine.containers.list_labelled(*wanted):

        def is_ours(name: str, marks: Mapping[str, str] | None, identity: str = item["Id"]) -> bool:
            return identity in renamed or book.is_own("container", name, marks)

        found |= await objects.remove_container(engine, item["Id"], is_ours)
    for item in await engine.networks.list_labelled(*wanted):
        found |= await objects.remove_network(engine, item["Id"], lambda *each: book.is_own("network", *each))
    for item in await engine.volumes.list_labelled(*wanted):
        found |= await objects.remove_volume(engine, item["Name"], lambda *each: book.is_own("volume", *each))
    return await _remove_images(runtime, book) or found


async def _remove_images(runtime: DockerRuntime, book: DockerGuestBook) -> bool:
    """Take away the names that the run gave and those of its repository; an image without any name goes with the last.

    One that a container still uses is somebody else's by now: it keeps the name by which he knows it.
    """
    engine, removed = runtime.engine, False
    listed = await engine.images.list_named(book.repository)
    used = {item["ImageID"] for item in await engine.containers.list_labelled()} if listed else set()
    for item in listed:
        found = await engine.images.find(item["Id"])
        names = (found or {}).get("RepoTags") or []
        own = book.own_names(item["Id"], names)
        if own is None:
            continue
        removed = True
        for name in own if item["Id"] not in used else ():
            await _untag(runtime, name, item["Id"])
        # The one that proves the others goes last.
        for name in sorted((each for each in names if each.startswith(f"{book.repository}:")), reverse=True, key=_rank):
            await _untag(runtime, name, item["Id"])
    return removed


def _rank(name: str) -> bool:
    return ":its-" in name


async def _untag(runtime: DockerRuntime, name: str, identity: str) -> None:
    """Take NAME from the image IDENTITY, if it still has it."""
    images: Any = runtime.engine.images
    found = await images.find(name)
    if found is None or found.get("Id") != identity:
        return
    try:
        await images.remove(name, force=True)
    except EngineError as error:
        if error.status != _MISSING:
            raise
