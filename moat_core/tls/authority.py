"""A CA, and what it issues: certificates for servers and for clients, each with a key of its own.

Keys are P-256: making one takes 0.1 ms. Every CA signs leaves only (``path_length`` 0), and every leaf names its
issuer's key, as strict clients want (Python 3.13's ``VERIFY_X509_STRICT``).
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from typing import TYPE_CHECKING

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BEFORE", "ONLY_LEAVES", "Authority", "Identity", "to_pem"]

BEFORE = dt.timedelta(days=1)
"""How long before now a certificate begins to hold: a virtual machine's clock may be behind its host's."""
_LIFE = dt.timedelta(days=365)
ONLY_LEAVES = x509.BasicConstraints(ca=True, path_length=0)


@attrs.frozen
class Identity:
    """A certificate and its key, as PEM texts; the key is a secret."""

    certificate: bytes
    key: bytes = attrs.field(repr=False)


class Authority:
    """See the module.

    Args:
        certificate: Its own.
        key: Its secret.
    """

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate, self._key = certificate, key

    @classmethod
    def make(
        cls,
        common_name: str,
        *,
        organization: str = "",
        life: dt.timedelta = _LIFE,
        now: dt.datetime | None = None,
        servers_only: bool = False,
        constraints: x509.NameConstraints | None = None,
    ) -> Authority:
        """Return a new one, which is nowhere but in memory.

        Args:
            common_name: What it is called; ``{key}`` becomes the first eight hex digits of its key's identifier.
            organization: Likewise, in the field of that name; of the leaves, too.
            life: How long it holds.
            now: When that begins; the present time by default.
            servers_only: It vouches for servers, and for no client.
            constraints: The names that it vouches for (RFC 5280, 4.2.1.10); all without.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        name = _name(common_name.replace("{key}", identifier.digest.hex()[:8]), organization)
        now = now or dt.datetime.now(dt.UTC)
        builder = _begin(name, name, key, now - BEFORE, now + life)
        if servers_only:
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        builder = builder.add_extension(ONLY_LEAVES, critical=True)
        if constraints is not None:
            builder = builder.add_extension(constraints, critical=True)
        builder = builder.add_extension(_usage(signs=True), critical=True).add_extension(identifier, critical=False)
        return cls(builder.sign(key, hashes.SHA256()), key)

    @property
    def pem(self) -> bytes:
        """Its certificate, for those who shall trust it."""
        return to_pem(self.certificate)

    @property
    def key_pem(self) -> bytes:
        """Its secret."""
        return _key_to_pem(self._key)

    def issue_server(
        self,
        hosts: Iterable[str] = (),
        addresses: Iterable[str] = (),
        *,
        now: dt.datetime | None = None,
        life: dt.timedelta = _LIFE,
    ) -> Identity:
        """Return a server's identity.

        The names are in the SAN only: a common name has room for 64 characters, and nobody looks at it any more.

        Args:
            hosts: Names of it.
            addresses: IP addresses of it.
            now: When it begins to hold; the present time by default.
            life: How long it holds, but never longer than the authority.
        """
        names = [*map(x509.DNSName, hosts), *(x509.IPAddress(ipaddress.ip_address(each)) for each in addresses)]
        return self._issue("", ExtendedKeyUsageOID.SERVER_AUTH, x509.SubjectAlternativeName(names), now, life)

    def issue_client(self, name: str, *, now: dt.datetime | None = None, life: dt.timedelta = _LIFE) -> Identity:
        """Return the identity of the client NAME; see `issue_server`."""
        return self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, None, now, life)

    def _issue(
        self,
        common_name: str,
        purpose: x509.ObjectIdentifier,
        names: x509.SubjectAlternativeName | None,
        now: dt.datetime | None,
        life: dt.timedelta,
    ) -> Identity:
        now = now or dt.datetime.now(dt.UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        organization = self.certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        subject = _name(common_name, str(organization[0].value) if organization else "")
        until = min(now + life, self.certificate.not_valid_after_utc)
        builder = (
            _begin(subject, self.certificate.subject, key, now - BEFORE, until)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names is not None:
            # Critical where there is no subject (RFC 5280, 4.2.1.6).
            builder = builder.add_extension(names, critical=not list(subject))
        return Identity(to_pem(builder.sign(self._key, hashes.SHA256())), _key_to_pem(key))


def _name(common: str, organization: str) -> x509.Name:
    fields = ((NameOID.ORGANIZATION_NAME, organization), (NameOID.COMMON_NAME, common))
    return x509.Name([x509.NameAttribute(kind, text) for kind, text in fields if text])


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


def to_pem(certificate: x509.Certificate) -> bytes:
    """Return CERTIFICATE as a PEM text."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
