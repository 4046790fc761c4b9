"""The router's own CA, and the certificates that it mints for the hosts that are asked for.

The CA is good for names under ``localhost`` and for TLS servers, and says so itself: whoever steals its key can play
this machine to its own user, and nobody else. Browsers, OpenSSL, GnuTLS and Node heed that; Java does not, of a CA that
it trusts. Every host has a certificate of its own: ``*.localhost`` would not cover ``web.agent.localhost`` (RFC 9525,
6.3), and browsers take no wildcard beside a top-level name.
"""

from __future__ import annotations

import datetime as dt
import errno
import fcntl
import ipaddress
import logging
import os
import shlex
import ssl
import stat
import tempfile
import time
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from moat_core.errors import StoreError
from moat_core.types import is_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    _Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]

__all__ = ["CERTIFICATE", "KEY", "MOST_LEAVES", "Authority", "is_constrained", "to_host"]

CERTIFICATE, KEY, _LOCK = "ca.pem", "ca-key.pem", "ca.lock"
MOST_LEAVES = 256
"""Each takes some 20 KB; minting one again costs a millisecond."""
_MOST_LABELS = 4
"""One more than is ever routed: who mistypes a name shall read our page, not the browser's about certificates."""
_CA_LIFE = dt.timedelta(days=3650)
_LEAF_LIFE = dt.timedelta(days=30)
_RENEW = dt.timedelta(days=10)
"""A leaf with less than this left is given to nobody any more: connections last."""
_EARLIER = dt.timedelta(days=1)
"""A virtual machine's clock may be behind its host's."""
_CONSTRAINTS = x509.NameConstraints(
    permitted_subtrees=[x509.DNSName("localhost")],
    # A kind of name that is not spoken of is free (RFC 5280, 4.2.1.10): the key could sign for any address.
    excluded_subtrees=[x509.IPAddress(ipaddress.ip_network(each)) for each in ("0.0.0.0/0", "::/0")],
)
_BASIC = x509.BasicConstraints(ca=True, path_length=0)
_MOST_BYTES = 65536
_LOCK_S, _POLL_S = 10.0, 0.02
_LOG = logging.getLogger("moat.routing")


def to_host(name: str | None) -> str | None:
    """Return the host whose certificate answers the server name NAME; ``None`` if it is not ours to have one.

    Args:
        name: As the client sent it; ``None`` from those that were given an address (RFC 6066, 3), and some send that.
    """
    if name is None or _is_address(name):
        return "localhost"
    host = name.lower().removesuffix(".") if name.isascii() else ""
    labels = host.split(".")
    if len(labels) > _MOST_LABELS or labels[-1] != "localhost":
        return None
    return host if all(map(is_name, labels)) else None


def is_constrained(certificate: x509.Certificate) -> bool:
    """Tell whether CERTIFICATE is a CA's that can vouch for names under ``localhost`` and for nothing else."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.NameConstraints)
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False
    return names.critical and names.value == _CONSTRAINTS and basic.critical and basic.value == _BASIC


@attrs.frozen
class _Leaf:
    """What connections for one host are given, and between when."""

    context: ssl.SSLContext
    since: dt.datetime
    until: dt.datetime


class Authority:
    """The CA, and the certificates it has minted: those are in memory only.

    Args:
        certificate: Its own.
        key: Its secret.
        clock: Tells the time, in UTC.
    """

    def __init__(
        self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, clock: Callable[[], dt.datetime]
    ) -> None:
        self.certificate = certificate
        self._key = key
        self._clock = clock
        self._leaves: OrderedDict[str, _Leaf] = OrderedDict()

    @classmethod
    def open(cls, folder: str, *, clock: Callable[[], dt.datetime] | None = None) -> Authority:
        """Return the CA that lies in FOLDER; make one if there is none, or none that is of any use.

        Blocks: for milliseconds, or for as long as another process takes to make it.

        Raises:
            StoreError: The folder or a file in it cannot be used, or is not the user's alone.
        """
        clock = clock or (lambda: dt.datetime.now(dt.UTC))
        try:
            with _open_folder(folder) as handle:
                certificate, key = _load(handle, clock()) or _make(handle, folder, clock())
        except OSError as error:
            raise _unusable(folder, error) from error
        return cls(certificate, key, clock)

    def context(self) -> ssl.SSLContext:
        """Return how a server speaks TLS: HTTP/1.1 only, and with a certificate for the host that is asked for.

        Minting one blocks for about a millisecond. To be used in one thread.
        """
        context = _new_context()
        context.sni_callback = self._choose
        return context

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext
    ) -> int | None:
        """Give CONNECTION the certificate for NAME; nobody could catch what is raised here."""
        host = to_host(name)
        if host is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        try:
            connection.context = self._find(host).context
        except (OSError, ValueError) as error:  # no descriptor is left; the CA has expired in the meantime
            _LOG.warning("No certificate can be made for %s: %s", host, error)
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        return None

    def _find(self, host: str) -> _Leaf:
        now = self._clock()
        leaf = self._leaves.get(host)
        if leaf is None or not leaf.since <= now <= leaf.until - _RENEW:
            leaf = self._leaves[host] = self._mint(host, now)
        self._leaves.move_to_end(host)
        if len(self._leaves) > MOST_LEAVES:
            self._leaves.popitem(last=False)
        return leaf

    def _mint(self, host: str, now: dt.datetime) -> _Leaf:
        key = ec.generate_private_key(ec.SECP256R1())
        since, until = now - _EARLIER, min(now + _LEAF_LIFE, self.certificate.not_valid_after_utc)
        # The name is in the SAN only: a common name has room for 64 characters, and nobody looks at it any more.
        unsigned = (
            _begin(_name(), self.certificate.subject, key, since, until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        context = _new_context()
        with _lend(_to_pem(unsigned.sign(self._key, hashes.SHA256())) + _key_to_pem(key)) as path:
            context.load_cert_chain(path)
        return _Leaf(context, since, until)


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context


@contextmanager
def _lend(secret: bytes) -> Iterator[str]:
    """Yield a path at which SECRET can be read for now: Python takes keys from files only."""
    if hasattr(os, "memfd_create"):  # it is in no folder
        memory = os.memfd_create("moat")
        try:
            os.write(memory, secret)
            yield f"/proc/self/fd/{memory}"
        finally:
            os.close(memory)
        return
    with tempfile.NamedTemporaryFile() as file:  # mode 0600
        file.write(secret)
        file.flush()
        yield file.name


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


def _load(handle: int, now: dt.datetime) -> _Pair | None:
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
    if not (belongs and isinstance(key, ec.EllipticCurvePrivateKey) and is_constrained(certificate)):
        return None
    if now < certificate.not_valid_before_utc:  # to make another one would be to lose it to a wrong clock
        raise OSError(errno.EINVAL, "it is not valid yet: is this machine's clock right?", CERTIFICATE)
    return (certificate, key) if now < certificate.not_valid_after_utc - _LEAF_LIFE else None


def _make(handle: int, folder: str, now: dt.datetime) -> _Pair:
    """Make one, unless somebody else has meanwhile."""
    with _hold_lock(handle):
        if found := _load(handle, now):
            return found
        if CERTIFICATE in os.listdir(handle):
            _LOG.warning("The CA in %s was of no use any more: run `moat proxy ca trust` for the new one.", folder)
        key = ec.generate_private_key(ec.SECP256R1())
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        # Told from others by its key: every service that a browser shows sees the name, and need not learn the user's.
        name = _name(f"moat local CA {identifier.digest.hex()[:8]}")
        certificate = (
            _begin(name, name, key, now - _EARLIER, now + _CA_LIFE)
            .add_extension(_BASIC, critical=True)
            .add_extension(_CONSTRAINTS, critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        _write(handle, KEY, _key_to_pem(key), 0o600)
        _write(handle, CERTIFICATE, _to_pem(certificate), 0o644)
        return certificate, key


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


def _unusable(folder: str, error: OSError) -> StoreError:
    place = folder if error.filename in {None, ".", folder} else os.path.join(folder, str(error.filename))
    own = f"chmod 700 {shlex.quote(folder)}; chmod 600 {shlex.quote(os.path.join(folder, KEY))}"
    return StoreError(
        f"The router's CA cannot be used: {place}: {error.strerror or error}.",
        hint=f"If nobody else had it, make it yours alone ({own}). Else `moat proxy ca untrust` and remove the folder: "
        "a new one is made.",
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name(*common: str) -> x509.Name:
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "moat")]
    return x509.Name([*names, *(x509.NameAttribute(NameOID.COMMON_NAME, each) for each in common)])


def _begin(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, since: dt.datetime, until: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _to_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
