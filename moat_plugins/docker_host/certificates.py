"""Certificates for one run: a CA of its own that signs one server and one client, and is forgotten at once.

Nobody else's certificate is any good here, and these are good for nothing else.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import ssl

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Minted", "make_context", "mint"]

_BEFORE = dt.timedelta(days=1)
_LIFE = dt.timedelta(days=365)


@attrs.frozen
class Minted:
    """PEM texts; the keys are secrets.

    Args:
        ca: The CA's certificate.
        server: The server's certificate.
        server_key: Its key.
        client: The client's certificate.
        client_key: Its key.
    """

    ca: bytes
    server: bytes
    server_key: bytes = attrs.field(repr=False)
    client: bytes
    client_key: bytes = attrs.field(repr=False)


def mint(run_id: str, name: str, address: str) -> Minted:
    """Make new certificates for the run, and a server that is known as NAME and by its IP ADDRESS."""
    ca_key, server_key, client_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    ca_name = _name(f"moat {run_id}")
    ca = (
        _begin(ca_name, ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address(address))])
    server = _leaf(ca_name, name, server_key, ExtendedKeyUsageOID.SERVER_AUTH).add_extension(names, critical=False)
    client = _leaf(ca_name, run_id, client_key, ExtendedKeyUsageOID.CLIENT_AUTH)
    return Minted(
        ca=_pem(ca),
        server=_pem(server.sign(ca_key, hashes.SHA256())),
        server_key=_key_pem(server_key),
        client=_pem(client.sign(ca_key, hashes.SHA256())),
        client_key=_key_pem(client_key),
    )


def make_context(minted: Minted) -> ssl.SSLContext:
    """Return how the server speaks TLS: with nobody who has no certificate of this CA's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=minted.ca.decode())
    memory = os.memfd_create("moat")  # Python reads keys from files only, and this one is in no folder
    try:
        os.write(memory, minted.server + minted.server_key)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
    return context


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _begin(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + _LIFE)
    )


def _leaf(
    issuer: x509.Name, name: str, key: ec.EllipticCurvePrivateKey, purpose: x509.ObjectIdentifier
) -> x509.CertificateBuilder:
    return (
        _begin(_name(name), issuer, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
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


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
