"""Which workspaces' config files the user trusts to widen: one small file under ``MOAT_HOME`` a content.

A file's name says which folder (by path and inode) and which content (by SHA-256) it is about; it is written whole or
not at all, and never changed, so that nobody waits for anybody.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from moat_core.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moat_core.config import ConfigFile, Widening
    from moat_core.store.paths import Home

__all__ = ["TrustedFiles"]

_MOST = 2_000
"""Then the oldest are forgotten, and asked about again."""
_LIMIT_BYTES = 4 * 1024 * 1024


class TrustedFiles:
    """What the user has said yes to, under HOME."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.folder = os.path.join(home.path, "trust")

    def covers(self, file: ConfigFile, widenings: Iterable[Widening]) -> bool:
        """Tell whether the user has seen all WIDENINGS of this very content in this very folder, and said yes.

        Raises:
            StoreError: Others may write to the state folder.
        """
        self._home.check()
        record = _read(self._path(file))
        return record is not None and {each.fingerprint for each in widenings} <= set(record["accepted"])

    def add(self, file: ConfigFile, widenings: Iterable[Widening]) -> None:
        """Remember a yes.

        Raises:
            StoreError: It cannot be written down.
        """
        listed = list(widenings)
        record = {
            "workspace": file.workspace.partition(":")[2],
            "name": file.name,
            "digest": file.digest,
            "accepted": sorted({each.fingerprint for each in listed}),
            "widens": [each.to_json() for each in listed],
            "created": time.time(),
        }
        self._home.make()
        try:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=".new-")  # mode 0600
            with open(descriptor, "w", encoding="utf-8") as new:
                json.dump(record, new)
            os.replace(name, self._path(file))
        except OSError as error:
            raise StoreError(
                f"That {file.name} is trusted cannot be written down: {error.strerror}.",
                hint="Make the state folder writable, or free some disk space.",
            ) from error
        self._forget_old()

    def remove(self, workspace: str | os.PathLike[str]) -> int:
        """Forget all content of the folder WORKSPACE; return how much there was."""
        self._home.check()
        real = os.path.realpath(workspace)
        gone = [path for path, record in self._records() if record["workspace"] == real]
        for path in gone:
            _unlink(path)
        return len(gone)

    def entries(self) -> list[dict[str, Any]]:
        """Return what is trusted, newest first: workspace, name, digest, widens, created."""
        self._home.check()
        found = [{key: value for key, value in record.items() if key != "accepted"} for _, record in self._records()]
        return sorted(found, key=lambda each: each["created"], reverse=True)

    def _records(self) -> list[tuple[str, dict[str, Any]]]:
        paths = [os.path.join(self.folder, name) for name in _names(self.folder)]
        return [(path, record) for path in paths if (record := _read(path)) is not None]

    def _path(self, file: ConfigFile) -> str:
        where = hashlib.sha256(file.workspace.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return os.path.join(self.folder, f"{where}-{file.digest}.json")

    def _forget_old(self) -> None:
        paths = [os.path.join(self.folder, name) for name in _names(self.folder)]
        if len(paths) > _MOST:
            for path in sorted(paths, key=_age)[: len(paths) - _MOST]:
                _unlink(path)


def _names(folder: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.endswith(".json")]
    except OSError:
        return []


def _age(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _unlink(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def _read(path: str) -> dict[str, Any] | None:
    """Return a record; what cannot be read has not been said."""
    try:
        with open(path, encoding="utf-8") as file:
            record = json.loads(file.read(_LIMIT_BYTES))
    except (OSError, ValueError):
        return None
    wanted: dict[str, type] = {"workspace": str, "name": str, "digest": str, "accepted": list, "widens": list}
    is_sound = isinstance(record, dict) and all(isinstance(record.get(key), kind) for key, kind in wanted.items())
    return record if is_sound and isinstance(record.get("created"), (int, float)) else None
