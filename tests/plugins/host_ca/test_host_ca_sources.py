"""Which certificates of a host are its own: found in folders and bundles, told from the distribution's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moat_plugins.host_ca.certificates import find_bodies, is_ca, to_der, to_pem
from moat_plugins.host_ca.sources import Host, find_extras

DATA = Path(__file__).parent / "data"
CA, CA2, LEAF, V1, LOCALHOST = (DATA / f"{name}.pem" for name in ("ca", "ca2", "leaf", "v1", "localhost"))


@pytest.fixture
def host(tmp_path):
    """A host with the folders of Debian, empty."""
    for name in ("distributed", "added"):
        (tmp_path / name).mkdir()
    return Host((str(tmp_path / "distributed"),), (str(tmp_path / "added"),), (str(tmp_path / "bundle.crt"),))


def put(folder, name, *sources):
    path = Path(folder) / name
    path.write_bytes(b"".join(source.read_bytes() for source in sources))
    return path


def found(host, environ=None, files=()):
    return find_extras(environ or {}, tuple(files), host)


def test_ordinary_host_has_nothing(host):
    """A bundle of the distribution's own CAs, also named by the environment, adds nothing."""
    put(host.distributed[0], "a.crt", CA)
    bundle = put(Path(host.bundles[0]).parent, "bundle.crt", CA)
    assert found(host, {"SSL_CERT_FILE": str(bundle)}) == found(host)
    assert found(host).certificates == ()


@pytest.mark.parametrize("where", ["added", "bundle", "environment", "config"])
def test_extras_are_found_everywhere(host, tmp_path, where):
    """What an administrator added, what is only in the bundle, what a variable or the config names."""
    put(host.distributed[0], "a.crt", CA)
    environ, files = {}, []
    if where == "added":
        put(host.added[0], "b.crt", CA2)
    elif where == "bundle":
        put(tmp_path, "bundle.crt", CA, CA2)
    elif where == "environment":
        environ = {"NODE_EXTRA_CA_CERTS": str(put(tmp_path, "extra.pem", CA2))}
    else:
        files = [put(tmp_path, "extra.pem", CA2)]
    assert found(host, environ, files).certificates == (CA2.read_bytes(),)


def test_each_once_in_a_stable_order(host, tmp_path):
    """The same certificate in many places is one; the order does not depend on the file system."""
    put(host.added[0], "b.crt", CA2)
    put(host.added[0], "a.crt", CA)
    bundle = put(tmp_path, "bundle.crt", CA2, CA)
    result = found(host, {"SSL_CERT_FILE": str(bundle), "PIP_CERT": str(bundle)})
    assert result.certificates == (CA.read_bytes(), CA2.read_bytes())


def test_new_files_of_the_distribution_are_noticed(host, tmp_path):
    """What is remembered of the distribution is forgotten when its folder changes."""
    put(tmp_path, "bundle.crt", CA)
    assert len(found(host).certificates) == 1
    put(host.distributed[0], "a.crt", CA)
    os.utime(host.distributed[0], ns=(1, 1))
    assert found(host).certificates == ()


def test_a_ca_for_names_of_this_machine_alone_stays_here(host, tmp_path):
    """The router's own, when it is trusted by the system, say: inside its names are the container's. Asked for, it goes."""
    put(host.added[0], "moat.crt", LOCALHOST)
    put(host.added[0], "company.crt", CA2)
    assert found(host).certificates == (CA2.read_bytes(),)
    assert found(host).broken == ()
    assert set(found(host, files=[put(tmp_path, "extra.pem", LOCALHOST)]).certificates) == {
        CA2.read_bytes(), LOCALHOST.read_bytes()
    }  # fmt: skip


def test_only_cas_and_never_a_key(host, tmp_path):
    """A server's certificate and a private key in the same file go nowhere."""
    key = b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
    path = tmp_path / "mixed.pem"
    path.write_bytes(key + LEAF.read_bytes() + key + CA.read_bytes() + V1.read_bytes() + key)
    result = found(host, {"SSL_CERT_FILE": str(path)})
    assert result.certificates == (CA.read_bytes(),)
    assert result.broken == ()
    assert len(found(host, files=[path]).broken) == 1, "whoever names a file is told what of it is left out"


def test_broken_ones_are_named(host, tmp_path):
    """A certificate that is none is left out and said; the others of its file are taken."""
    path = tmp_path / "extra.pem"
    garbage = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    path.write_bytes(garbage + CA.read_bytes() + garbage.replace(b"AAAA", b"!!!!"))
    result = found(host, {"SSL_CERT_FILE": str(path)})
    assert result.certificates == (CA.read_bytes(),)
    assert len(result.broken) == 2
    assert all(str(path) in text for text in result.broken)


@pytest.mark.parametrize("make", [lambda path: None, os.mkfifo, os.mkdir, lambda path: path.symlink_to(path)])
def test_what_is_no_file_is_passed_over(host, tmp_path, make):
    """A variable may name nothing, a FIFO, a folder or a loop; only a file of the config must be there."""
    path = tmp_path / "odd"
    make(path)
    assert found(host, {"SSL_CERT_FILE": str(path)}) == found(host)
    assert len(found(host, files=[path]).unreadable) == 1


def test_unknown_distribution_is_not_taken_for_extras(host, tmp_path):
    """Where nothing tells what the distribution brought, a long list is not copied into every run."""
    bodies = [find_bodies(CA.read_bytes())[0][:-4] + f"{number:04}".encode() for number in range(30)]
    (tmp_path / "bundle.crt").write_bytes(b"".join(to_pem(body) for body in bodies))
    assert found(host).certificates == ()
    put(host.added[0], "a.crt", CA)
    assert found(host).certificates == (CA.read_bytes(),)


@pytest.mark.parametrize(("path", "expected"), [(CA, True), (CA2, True), (LEAF, False), (V1, False)])
def test_basic_constraints(path, expected):
    """CA:TRUE with and without a path length, CA:FALSE, and a version 1 certificate without extensions."""
    assert is_ca(to_der(find_bodies(path.read_bytes())[0])) is expected


@given(st.binary(max_size=400))
def test_no_bytes_upset_the_reader(data):
    """Whatever the bytes are, the answer is yes, no or ValueError."""
    try:
        assert is_ca(data) in {True, False}
    except ValueError:
        pass


@given(st.integers(0, 400), st.integers(0, 255))
def test_no_damage_upsets_the_reader(place, value):
    """A real certificate with one byte changed is read or refused."""
    der = bytearray(to_der(find_bodies(CA.read_bytes())[0]))
    der[place % len(der)] = value
    try:
        assert is_ca(bytes(der)) in {True, False}
    except ValueError:
        pass


@given(
    st.lists(st.sampled_from([CA, CA2, LEAF]), max_size=4),
    st.text(max_size=40).filter(lambda text: "-----" not in text),
)
def test_text_between_certificates_is_nothing(paths, comment):
    """Comments, as bundles have them, are passed over, and each certificate survives the way to PEM and back."""
    data = b"".join(comment.encode() + b"\n" + path.read_bytes().replace(b"\n", b"\r\n") for path in paths)
    assert [to_pem(body) for body in find_bodies(data)] == [path.read_bytes() for path in paths]
