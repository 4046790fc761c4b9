"""An authority that is kept in a folder of the user's: made once, by whichever process comes first.

Whatever another user could have had a hand in is not used, and a file is there whole or not at all.
"""

from __future__ import annotations

import datetime as dt
import errno
import fcntl
import os
import stat
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from moat_core.tls.authority import Authority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["CERTIFICATE", "KEY", "keep"]

CERTIFICATE, KEY, _LOCK = "ca.pem", "ca-key.pem", "ca.lock"
"""The files in the folder; the certificate is anybody's to read."""
_MOST_BYTES = 65536
_LOCK_S, _POLL_S = 10.0, 0.02


def keep(
    folder: str,
    *,
    make: Callable[[], Authority],
    accepts: Callable[[x509.Certificate], bool],
    now: dt.datetime,
    spare: dt.timedelta,
    on_replace: Callable[[], None] = lambda: None,
) -> Authority:
    """Return the authority that lies in FOLDER; make one if there is none, or none that is of any use.

    Blocks: for milliseconds, or for as long as another process takes to make it.

    Args:
        folder: Made if it is not there, and closed to others.
        make: Makes a new one.
        accepts: Tells whether a certificate is as `make` would make it.
        now: The time, in UTC.
        spare: One that ends before that much time has passed is of no use.
        on_replace: Told that one was there and is of no use any more: whoever trusts it has to be told.

    Raises:
        OSError: The folder or a file in it cannot be used, or is not the user's alone; its ``filename`` says which
            (``.`` is the folder).
    """

    def load(handle: int) -> Authority | None:
        return _load(handle, accepts, now, spare)

    with _open_folder(folder) as handle:
        return load(handle) or _make(handle, load, make, on_replace)


@contextmanager
def _open_folder(folder: str) -> Iterator[int]:
    """Make FOLDER if it is not there, see that it is the user's alone, and yield a descriptor of it.

    Raises:
        OSError: It is not, or cannot be made.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check_owner(os.fstat(handle), ".", 0o022)  # a CA that another user has put there is worse than none
        os.fchmod(handle, 0o700)
        yield handle
    finally:
        os.close(handle)


def _load(
    handle: int, accepts: Callable[[x509.Certificate], bool], now: dt.datetime, spare: dt.timedelta
) -> Authority | None:
    """Return what lies in the folder; ``None`` if it is not there or of no use."""
    pem, secret = _read(handle, CERTIFICATE, 0o022), _read(handle, KEY, 0o077)
    if pem is None or secret is None:
        return None
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.verify_directly_issued_by(certificate)
        key = serialization.load_pem_private_key(secret, password=None)
        belongs = certificate.public_key() == key.public_key()
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return None
    if not (belongs and isinstance(key, ec.EllipticCurvePrivateKey) and accepts(certificate)):
        return None
    if now < certificate.not_valid_before_utc:  # to make another one would be to lose it to a wrong clock
        raise OSError(errno.EINVAL, "it is not valid yet: is this machine's clock right?", CERTIFICATE)
    return Authority(certificate, key) if now < certificate.not_valid_after_utc - spare else None


def _make(
    handle: int, load: Callable[[int], Authority | None], make: Callable[[], Authority], on_replace: Callable[[], None]
) -> Authority:
    """Make one, unless somebody else has meanwhile."""
    with _hold_lock(handle):
        if found := load(handle):
            return found
        if CERTIFICATE in os.listdir(handle):
            on_replace()
        made = make()
        _write(handle, KEY, made.key_pem, 0o600)
        _write(handle, CERTIFICATE, made.pem, 0o644)
        return made


@contextmanager
def _hold_lock(handle: int) -> Iterator[None]:
    descriptor = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=handle)
    try:
        os.fchmod(descriptor, 0o600)  # whatever the umask
        deadline = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(errno.ETIMEDOUT, f"somebody holds it for {_LOCK_S:.0f} s", _LOCK) from None
                time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _read(handle: int, name: str, forbidden: int) -> bytes | None:
    """Return what is in the file NAME, ``None`` if there is none.

    Raises:
        OSError: It is a link, or its mode has a bit of FORBIDDEN.
    """
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=handle)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link", name) from error
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no file", name)
        _check_owner(found, name, forbidden)
        return os.read(descriptor, _MOST_BYTES)
    finally:
        os.close(descriptor)


def _write(handle: int, name: str, data: bytes, mode: int) -> None:
    """Write the file NAME whole or not at all. The lock is held."""
    fresh = f"{name}.new"
    try:
        os.unlink(fresh, dir_fd=handle)  # of somebody who died here
    except FileNotFoundError:
        pass
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=handle)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)  # an empty one after a power cut would have to be trusted anew
    os.replace(fresh, name, src_dir_fd=handle, dst_dir_fd=handle)


def _check_owner(found: os.stat_result, name: str, forbidden: int) -> None:
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it belongs to another user", name)
    if found.st_mode & forbidden:
        raise PermissionError(errno.EPERM, f"its mode {stat.S_IMODE(found.st_mode):04o} lets others in", name)
