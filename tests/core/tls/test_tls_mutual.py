"""Mutual TLS with certificates of one authority: who is let in, and who is not."""

from __future__ import annotations

import datetime as dt
import ssl
import subprocess
import sys

import attrs
import pytest
from cryptography import x509

from moat_core.tls import Authority, Identity, client_context, server_context

HOST, ADDRESS = "docker.moat.internal", "172.20.0.1"


@attrs.frozen
class Side:
    """A run's authority and what it issued."""

    authority: Authority
    server: Identity
    client: Identity

    @classmethod
    def make(cls, name):
        authority = Authority.make(f"moat {name}", organization="moat")
        return cls(authority, authority.issue_server([HOST], [ADDRESS]), authority.issue_client(name))

    def context(self):
        return server_context(self.server, clients=self.authority.pem)


@pytest.fixture(scope="module")
def ours():
    return Side.make("run-0000abcd")


@pytest.fixture(scope="module")
def theirs():
    return Side.make("run-ffffffff")


def shake(server, client, name):
    """Do a TLS handshake in memory; returns what the server learnt of the client."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = server.wrap_bio(to_server, to_client, server_side=True)
    here = client.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(4):
        for side in (here, there):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    try:
        here.read(1)
    except ssl.SSLWantReadError:
        pass
    return there.getpeercert()


@pytest.mark.parametrize("name", [HOST, ADDRESS])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_who_has_a_certificate_of_the_same_authority_is_let_in(ours, name, version):
    """By name and by address, also where the client is as strict as Python 3.13."""
    client = client_context(ours.authority.pem, ours.client)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    client.maximum_version = version
    assert shake(ours.context(), client, name)["subject"] == (
        (("organizationName", "moat"),),
        (("commonName", "run-0000abcd"),),
    )


def test_everybody_else_is_not(ours, theirs):
    """No certificate, another authority's, the server's own, another name, another authority of the same name."""
    server, trust = ours.context(), ours.authority.pem
    namesake = Side.make("run-0000abcd")
    strangers = {
        "none": client_context(trust),
        "another's": client_context(trust, theirs.client),
        "the server's own": client_context(trust, ours.server),
        "a namesake's": client_context(trust, namesake.client),
        "trusts another": client_context(theirs.authority.pem, ours.client),
    }
    for context in strangers.values():
        with pytest.raises(ssl.SSLError):
            shake(server, context, HOST)
    with pytest.raises(ssl.SSLError):
        shake(server, client_context(trust, ours.client), "other.name")


def test_a_leaf_signs_nobody(ours):
    """A CA of leaves only; and a client's certificate is no server's."""
    basic = ours.authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.path_length) == (True, 0)
    swapped = server_context(ours.client)
    with pytest.raises(ssl.SSLError):
        shake(swapped, client_context(ours.authority.pem), HOST)


def test_a_leaf_does_not_outlive_its_authority():
    """Whatever was asked for."""
    authority = Authority.make("short", life=dt.timedelta(days=2))
    leaf = x509.load_pem_x509_certificate(authority.issue_server(["a"], life=dt.timedelta(days=99)).certificate)
    assert leaf.not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_a_key_is_in_no_repr(ours):
    """What is logged or shown by a debugger is not the secret."""
    assert "PRIVATE" not in repr(ours.client)
    assert b"PRIVATE" in ours.client.key


def test_importing_the_package_is_cheap():
    """`cryptography` comes with the first name that needs it."""
    code = "import sys, moat_core.tls, moat_core.http; print(any(m.startswith('cryptography') for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
