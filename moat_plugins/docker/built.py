"""Which images this home has built, by id: the name ``moat/run:…`` alone may have become anybody's.

One small file an image name and engine, ``MOAT_HOME/docker/images/<digits>``: address and name, then the ids, newest
last. Written whole, by who holds the lock of that image's name, so that whoever reads finds one or the other.
"""

from __future__ import annotations

import hashlib
import os
import re

from moat_core.errors import StoreError

__all__ = ["is_current", "read_all", "remember"]

_FOLDER = "docker/images"
_ID = re.compile(r"sha256:[0-9a-f]{64}")
_MOST_IDS = 8


def is_current(home: str, address: str, reference: str, identity: str) -> bool:
    """Tell whether IDENTITY is what was built last under the name REFERENCE on the engine at ADDRESS."""
    known = _read(_path(home, address, reference))
    return bool(known[2:]) and known[-1] == identity


def remember(home: str, address: str, reference: str, identity: str) -> None:
    """Write down that REFERENCE was built and has the id IDENTITY.

    Raises:
        StoreError: It cannot be written.
    """
    path = _path(home, address, reference)
    before = [each for each in _read(path)[2:] if each != identity]
    text = "\n".join([address, reference, *before[1 - _MOST_IDS :], identity])
    draft = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(draft, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        os.replace(draft, path)
    except OSError as error:
        raise StoreError(
            f"What was built cannot be written down under {home}: {error.strerror or error}.",
            hint="Make the state folder writable, or free some disk space.",
        ) from error


def read_all(home: str, address: str) -> dict[str, str]:
    """Return id -> name of all that was ever built on the engine at ADDRESS, as far as it is remembered."""
    folder = os.path.join(home, _FOLDER)
    try:
        files = sorted(os.listdir(folder))
    except OSError:
        return {}
    known = (_read(os.path.join(folder, file)) for file in files)
    return {identity: lines[1] for lines in known if lines[:1] == [address] for identity in lines[2:]}


def _path(home: str, address: str, reference: str) -> str:
    digits = hashlib.sha256(f"{address}\0{reference}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return os.path.join(home, _FOLDER, digits)


def _read(path: str) -> list[str]:
    """Return the lines of a file that is whole; else, or without one, nothing."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read(64 * 1024).split("\n")
    except OSError:
        return []
    return lines if len(lines) > 2 and all(map(_ID.fullmatch, lines[2:])) else []  # noqa: PLR2004 - see the module
