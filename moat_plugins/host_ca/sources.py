"""Where a host keeps the CAs that somebody added to it, and which ones its distribution brought."""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from moat_plugins.host_ca.certificates import find_bodies, is_ca, is_for_localhost, to_der, to_pem

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["VARIABLES", "Found", "Host", "find_extras"]

VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
)
"""Each names a file of the CAs that some program on the host trusts; often it is the whole bundle."""

_MOST_BYTES = 8 * 1024 * 1024
"""No file of certificates is larger."""
_MOST_UNSORTED = 20
"""A file with more, where nothing tells which are the distribution's, is taken for the distribution's."""


@attrs.frozen
class Host:
    """The folders and files of a host; other ones in tests.

    Args:
        distributed: What the distribution brought: Debian and SUSE; Arch; Fedora.
        added: Where an administrator puts further ones: Debian and Alpine; Fedora; SUSE; Arch.
        bundles: All that the host trusts: Debian and Alpine; Fedora; SUSE.
    """

    distributed: tuple[str, ...] = ("/usr/share/ca-certificates", "/usr/share/pki/ca-trust-source")
    added: tuple[str, ...] = (
        "/usr/local/share/ca-certificates",
        "/etc/pki/ca-trust/source/anchors",
        "/etc/pki/trust/anchors",
        "/etc/ca-certificates/trust-source/anchors",
    )
    bundles: tuple[str, ...] = (
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "/etc/ssl/ca-bundle.pem",
    )


@attrs.frozen
class Found:
    """What was found.

    Args:
        certificates: PEM, one each, every one of a CA, in the order found.
        broken: Files and why something in them is left out.
        unreadable: Of the files that the config names: those that cannot be read, and why.
    """

    certificates: tuple[bytes, ...]
    broken: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()


def find_extras(environ: Mapping[str, str], files: Sequence[Path], host: Host | None = None) -> Found:
    """Return the CAs that this host trusts and its distribution did not bring.

    Args:
        environ: The host's environment; see `VARIABLES`.
        files: Named by the config: everything in them counts.
        host: Where to look.
    """
    host = host or Host()
    known = _distributed(_signature(host.distributed), host.distributed)
    extras: dict[bytes, None] = {}
    broken: list[str] = []
    unreadable: list[str] = []
    explicit = [str(path) for path in files]
    for path in dict.fromkeys([*explicit, *_added(host), *_bundles(environ, host)]):
        data = _read(path)
        if isinstance(data, OSError):
            if path in explicit:
                unreadable.append(f"{path}: {data.strerror}")
            continue
        bodies = [body for body in find_bodies(data) if path in explicit or body not in known]
        if path not in explicit and not known and len(bodies) > _MOST_UNSORTED:
            continue
        for body in bodies:
            if body not in extras and (problem := _look(body, asked_for=path in explicit)) is None:
                extras[body] = None
            elif body not in extras and problem:
                broken.append(f"{path}: {problem}")
    return Found(tuple(to_pem(body) for body in extras), tuple(dict.fromkeys(broken)), tuple(unreadable))


def _look(body: bytes, *, asked_for: bool) -> str | None:
    """Return why a certificate does not count: ``""`` if nobody needs to know, ``None`` if it does."""
    try:
        der = to_der(body)
        if not is_ca(der):
            return "a certificate in it is no CA's" if asked_for else ""
        # What signs for this machine's own names is of no use inside, where localhost is the container itself.
        return "" if not asked_for and is_for_localhost(der) else None
    except ValueError as error:
        return f"a certificate in it is broken ({error})"


def _added(host: Host) -> Iterator[str]:
    for folder in host.added:
        yield from _files(folder)


def _bundles(environ: Mapping[str, str], host: Host) -> Iterable[str]:
    return [*(environ[name] for name in VARIABLES if environ.get(name)), *host.bundles]


@functools.lru_cache(maxsize=4)
def _distributed(signature: tuple[object, ...], folders: tuple[str, ...]) -> frozenset[bytes]:
    """Return the bodies of the distribution's own; remembered, since they are some 150 files and never change."""
    del signature  # only what it is remembered by
    known: set[bytes] = set()
    for folder in folders:
        for path in _files(folder):
            data = _read(path)
            if not isinstance(data, OSError):
                known.update(find_bodies(data))
    return frozenset(known)


def _signature(folders: Iterable[str]) -> tuple[object, ...]:
    """Return what changes when a file is added to or removed from FOLDERS or the folders in them."""
    times: list[object] = []
    for top in folders:
        for folder, _, _ in os.walk(top):
            times.append((folder, os.stat(folder).st_mtime_ns))
    return tuple(times)


def _files(folder: str) -> list[str]:
    """Return the files below FOLDER, in order of their paths; none if it is not there."""
    return sorted(os.path.join(top, name) for top, _, names in os.walk(folder) for name in names)


def _read(path: str) -> bytes | OSError:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would block
    except OSError as error:
        return error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return OSError(errno.EINVAL, "it is no file")
        return os.read(descriptor, min(found.st_size, _MOST_BYTES))  # there are many: no buffers
    except OSError as error:
        return error
    finally:
        os.close(descriptor)
