"""What proves that a thing on an engine is ours: something that nobody can write who has not got this home's key.

Labels find things and prove nothing: an engine copies them from images, and everybody may set them. So each thing also
carries a tag that a secret key of this ``MOAT_HOME`` makes over what the thing is and what it is called. A copy is
called otherwise, and proves nothing. Stdlib only, and without OpenSSL, whose import alone costs `moat list` 8 ms.
"""

from __future__ import annotations

import os
from _blake2 import blake2b  # of hashlib, which brings OpenSSL with it

from moat_core.errors import StoreError

__all__ = ["Proof"]

_FILE = "key"
_BURNED = "burned"
_KEY_BYTES = 32
_TAG_BYTES = 16


class Proof:
    """The key of a state folder; read once, and made when something is first signed.

    Args:
        home: The state folder, ``MOAT_HOME``; ``""``, of a connection that is nobody's, proves nothing.
    """

    def __init__(self, home: str | os.PathLike[str]) -> None:
        self.home = os.fspath(home)
        self._key = b""
        self._burned: tuple[object, frozenset[str]] = (None, frozenset())

    def make(self, *words: str) -> str:
        """Return the tag of WORDS: 32 hex digits. Keyed BLAKE2b is a MAC by itself (RFC 7693, section 2.9).

        Raises:
            StoreError: The key cannot be read or made.
        """
        return _tag(self._key or self._load() or self._create(), words)

    def holds(self, tag: str, *words: str) -> bool:
        """Tell whether TAG is that of WORDS; nothing is made. Without a key nothing was ever signed.

        Raises:
            StoreError: The key cannot be read.
        """
        key = self._key or self._load()
        # Nobody measures our time here: whoever could forge by it has the engine.
        return bool(key) and tag == _tag(key, words) and tag not in self._read_burned()

    def burn(self, tag: str) -> None:
        """Have TAG hold nothing any more, for every process and for good: others will be able to copy it.

        Raises:
            StoreError: That cannot be written down.
        """
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(os.path.join(self.home, _BURNED), flags, 0o600)
            try:
                os.write(descriptor, tag.encode("ascii") + b"\n")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StoreError(
                f"What does not prove anything any more cannot be written down: {error.strerror or error}.",
                hint="Make the state folder writable, or free some disk space.",
            ) from error

    def _read_burned(self) -> frozenset[str]:
        path = os.path.join(self.home, _BURNED)
        try:
            found = os.stat(path)
            state = (found.st_ino, found.st_size)
            if state != self._burned[0]:
                with open(path, encoding="ascii", errors="replace") as file:
                    self._burned = state, frozenset(file.read().split())
        except FileNotFoundError:
            self._burned = None, frozenset()
        except OSError as error:
            raise _unusable(self.home, error.strerror or str(error)) from error
        return self._burned[1]

    def _load(self) -> bytes:
        if not self.home:
            return b""
        try:
            with open(os.path.join(self.home, _FILE), "rb") as file:
                key = file.read(_KEY_BYTES + 1)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise _unusable(self.home, error.strerror or str(error)) from error
        if len(key) != _KEY_BYTES:
            raise _unusable(self.home, "it is not 32 bytes long")
        self._key = key
        return key

    def _create(self) -> bytes:
        """Make the key, whole or not at all; of several who do so at once the first has made it for all."""
        path = os.path.join(self.home, _FILE)
        draft = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
        try:
            os.makedirs(self.home, mode=0o700, exist_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, os.urandom(_KEY_BYTES))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            try:
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                os.unlink(draft)
        except OSError as error:
            raise _unusable(self.home, error.strerror or str(error)) from error
        return self._load()


def _tag(key: bytes, words: tuple[str, ...]) -> str:
    """Each word with its length before it: no two lists of words are the same text."""
    digest = blake2b(key=key, digest_size=_TAG_BYTES)
    for word in words:
        data = word.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def _unusable(home: str, why: str) -> StoreError:
    return StoreError(
        f"The key in {home} that tells our things on an engine cannot be used: {why}.",
        hint="It must be the file that moat made. Without it, what runs left on an engine is removed by hand.",
    )
