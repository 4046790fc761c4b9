"""The router's CA: what it vouches for and what it cannot, whose its files are, and what it mints under attack."""

from __future__ import annotations

import asyncio
import datetime as dt
import fcntl
import ipaddress
import logging
import os
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st
from routing_tls import blind, hello

from moat_core.errors import StoreError
from moat_core.tls import contexts, kept
from moat_core.tls.leaves import MOST_LEAVES
from moat_core.types import is_name
from moat_plugins.routing.certificates import is_constrained, open_ca, to_host

HOST = "web.agent.localhost"
NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


class Clock:
    """A clock that a test sets."""

    def __init__(self, now=None):
        self.now = now or dt.datetime.now(dt.UTC)

    def __call__(self):
        return self.now

    def pass_days(self, days):
        self.now += dt.timedelta(days=days)


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "ca")


@pytest.fixture
def authority(folder):
    return open_ca(folder)


@pytest.fixture
def client(authority, folder):
    """What a strict client has: it trusts the CA and nothing else."""
    context = ssl.create_default_context(cafile=os.path.join(folder, "ca.pem"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 has by default
    return context


def shake(server, client, name, times=6):
    """A handshake in memory; the client's side of it."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    left = client.wrap_bio(back, there, server_hostname=name)
    right = server.wrap_bio(there, back, server_side=True)
    for _ in range(times):
        done = 0
        for side in (right, left):
            try:
                side.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                pass
        if done == 2:
            return left
    raise AssertionError("no end")


def read_leaf(connection):
    return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True))


def certify(key, names, public_key, *extensions):
    """A certificate with NAMES as its issuer and its subject, as whoever has KEY can make them."""
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    builder = x509.CertificateBuilder(*names, public_key, x509.random_serial_number(), now - day, now + 90 * day)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=not isinstance(extension, x509.AuthorityKeyIdentifier))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def forge(folder, *names):
    """A server whose certificate the stolen key of FOLDER has signed for NAMES."""
    key, stolen = ec.generate_private_key(ec.SECP256R1()), load_key(folder)
    issuer = open_ca(folder).certificate.subject
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(stolen.public_key())
    alternatives = x509.SubjectAlternativeName(names)
    leaf = certify(stolen, (issuer, x509.Name([])), key.public_key(), alternatives, signer)
    path = Path(folder, "forged.pem")
    path.write_bytes(leaf + to_pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def load_key(folder):
    return serialization.load_pem_private_key(Path(folder, "ca-key.pem").read_bytes(), None)


def to_pem(key, secret=None):
    hidden = serialization.BestAvailableEncryption(secret) if secret else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)


def test_the_ca_is_for_localhost_only(authority):
    """Critically so: no other name, no address; it signs servers, and no other CA."""
    extensions = {each.value.__class__: each for each in authority.certificate.extensions}
    names = extensions[x509.NameConstraints]
    assert names.critical
    assert names.value.permitted_subtrees == [x509.DNSName("localhost")]
    assert [str(each.value) for each in names.value.excluded_subtrees] == ["0.0.0.0/0", "::/0"]
    basic = extensions[x509.BasicConstraints]
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    usage = extensions[x509.KeyUsage].value
    assert usage.key_cert_sign
    assert not usage.digital_signature
    assert list(extensions[x509.ExtendedKeyUsage].value) == [x509.ExtendedKeyUsageOID.SERVER_AUTH]
    assert is_constrained(authority.certificate)


def test_its_name_tells_it_from_others_and_not_whose_it_is(authority, tmp_path):
    """Each is called by its key; the user's and the machine's names are in nothing that it signs."""
    other = open_ca(str(tmp_path / "other"))
    assert other.certificate.subject != authority.certificate.subject
    name = authority.certificate.subject.rfc4514_string()
    digest = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert name == f"CN=moat local CA {digest.hex()[:8]},O=moat"


def test_a_ca_is_made_once(folder):
    """The next one who opens it gets the same; nobody else can read its key."""
    first, second = open_ca(folder), open_ca(folder)
    assert first.certificate == second.certificate
    modes = {name: stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) for name in os.listdir(folder)}
    assert modes == {"ca.pem": 0o644, "ca-key.pem": 0o600, "ca.lock": 0o600}
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_the_modes_are_ours_whatever_the_umask(folder, umask):
    """A careless umask opens nothing, and a strict one locks nobody out."""
    os.mkdir(folder)
    before = os.umask(umask)
    try:
        open_ca(folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(os.path.join(folder, "ca-key.pem")).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.join(folder, "ca.pem")).st_mode) == 0o644


OPEN = """
import sys
from moat_plugins.routing.certificates import open_ca
sys.stdin.readline()
authority = open_ca(sys.argv[1])
certificate, key = authority.certificate, authority._authority._key
assert certificate.public_key() == key.public_key()
print(certificate.serial_number)
"""


@pytest.mark.parametrize("before", ["nothing", "damage"])
def test_processes_that_start_at_once_end_with_one_ca(folder, before):
    """Ten of them, let go together: also where they all find one that is of no use."""
    if before == "damage":
        open_ca(folder)
        damage("ca.pem", b"lost")(folder)
    argv, pipe = [sys.executable, "-c", OPEN, folder], subprocess.PIPE
    processes = [subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe) for _ in range(10)]
    for process in processes:
        process.stdin.write(b"go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 10, said
    assert {out for out, _ in said} == {b"%d\n" % open_ca(folder).certificate.serial_number}


def test_who_dies_while_making_one_leaves_nothing_in_the_way(folder):
    """The half-written file of a dead process is replaced."""
    os.mkdir(folder, 0o700)
    for name in ("ca.pem.new", "ca-key.pem.new"):
        damage(name, b"half")(folder)
    open_ca(folder)
    assert sorted(os.listdir(folder)) == ["ca-key.pem", "ca.lock", "ca.pem"]


def test_whoever_holds_the_lock_for_ever_is_named(folder, monkeypatch):
    """A wait has an end."""
    monkeypatch.setattr(kept, "_LOCK_S", 0.1)
    os.mkdir(folder, 0o700)
    with open(os.path.join(folder, "ca.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match=r"ca\.lock: somebody holds it"):
            open_ca(folder)


def damage(name, data):
    return lambda folder: Path(folder, name).write_bytes(data)


def lock_key(folder):
    damage("ca-key.pem", to_pem(load_key(folder), b"secret"))(folder)


def unbind(folder):
    """A CA for the whole world, with the right key: what a thief of the folder would like to have trusted."""
    key, name = load_key(folder), open_ca(folder).certificate.subject
    damage("ca.pem", certify(key, (name, name), key.public_key(), x509.BasicConstraints(ca=True, path_length=0)))(
        folder
    )


def flip(folder):
    """Change one bit of the signature."""
    der = bytearray(ssl.PEM_cert_to_DER_cert(Path(folder, "ca.pem").read_text()))
    der[-1] ^= 1
    damage("ca.pem", ssl.DER_cert_to_PEM_cert(bytes(der)).encode())(folder)


DAMAGES = {
    "certificate empty": damage("ca.pem", b""),
    "certificate garbage": damage("ca.pem", b"\0\xff" * 100_000),
    "certificate cut": lambda folder: os.truncate(folder + "/ca.pem", 300),
    "signature": flip,
    "key empty": damage("ca-key.pem", b""),
    "key garbage": damage("ca-key.pem", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
    "key of another": damage("ca-key.pem", to_pem(ec.generate_private_key(ec.SECP256R1()))),
    "key of another kind": damage("ca-key.pem", to_pem(ed25519.Ed25519PrivateKey.generate())),
    "key with a password": lock_key,
    "no constraints": unbind,
    "certificate gone": lambda folder: os.unlink(os.path.join(folder, "ca.pem")),
    "key gone": lambda folder: os.unlink(os.path.join(folder, "ca-key.pem")),
}


@pytest.mark.parametrize("act", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_ca_is_made_anew(folder, act, caplog):
    """And stays; whoever trusted the old one is told where there was one."""
    old = open_ca(folder).certificate
    act(folder)
    had = os.path.exists(os.path.join(folder, "ca.pem"))
    with caplog.at_level(logging.WARNING, "moat.routing"):
        new = open_ca(folder).certificate
    assert new != old
    assert is_constrained(new)
    assert ("moat proxy ca trust" in caplog.text) == had
    assert open_ca(folder).certificate == new


@pytest.mark.parametrize(("days", "kept"), [(0, True), (3650 - 31, True), (3650 - 29, False), (4000, False)])
def test_a_ca_that_ends_soon_is_made_anew(folder, days, kept):
    """Before any leaf would have to end with it."""
    clock = Clock(NOW)
    old = open_ca(folder, clock=clock).certificate
    clock.pass_days(days)
    assert (open_ca(folder, clock=clock).certificate == old) == kept


def test_a_clock_that_is_behind_costs_nobody_their_ca(folder):
    """It is an error that says so: the CA that browsers trust stays."""
    clock = Clock(NOW)
    old = open_ca(folder, clock=clock).certificate
    clock.pass_days(-30)
    with pytest.raises(StoreError, match="clock"):
        open_ca(folder, clock=clock)
    clock.pass_days(30)
    assert open_ca(folder, clock=clock).certificate == old


def replace(name, act):
    """Have ACT make something else where the file NAME was."""

    def do(folder):
        path = os.path.join(folder, name).rstrip("/")
        os.rename(path, path + ".before")
        act(path)

    return do


STRANGE = {
    "key read by others": (lambda folder: os.chmod(folder + "/ca-key.pem", 0o604), "ca-key.pem: its mode 0604"),
    "key read by a group": (lambda folder: os.chmod(folder + "/ca-key.pem", 0o640), "ca-key.pem: its mode 0640"),
    "certificate written by others": (lambda folder: os.chmod(folder + "/ca.pem", 0o646), "ca.pem: its mode 0646"),
    "folder written by others": (lambda folder: os.chmod(folder, 0o707), "ca: its mode 0707"),
    "folder written by a group": (lambda folder: os.chmod(folder, 0o770), "ca: its mode 0770"),
    "key a link": (
        replace("ca-key.pem", lambda path: os.symlink(path + ".before", path)),
        "ca-key.pem: it is a symbolic link",
    ),
    "certificate a link": (
        replace("ca.pem", lambda path: os.symlink(path + ".before", path)),
        "ca.pem: it is a symbolic link",
    ),
    "key a folder": (replace("ca-key.pem", os.mkdir), "ca-key.pem: it is no file"),
    "certificate a folder": (replace("ca.pem", os.mkdir), "ca.pem: it is no file"),
    "key a pipe": (replace("ca-key.pem", os.mkfifo), "ca-key.pem: it is no file"),
    "folder a file": (replace("", lambda path: Path(path).touch()), "ca: "),
}


@pytest.mark.parametrize(("act", "words"), STRANGE.values(), ids=STRANGE)
def test_what_others_could_have_had_a_hand_in_is_not_used(folder, act, words):
    """It is an error that names it and says what to do; nothing is changed."""
    open_ca(folder)
    act(folder)
    with pytest.raises(StoreError) as caught:
        open_ca(folder)
    assert words in caught.value.message
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize("name", ["", "ca.pem", "ca-key.pem"])
def test_what_belongs_to_another_user_is_not_used(folder, name, monkeypatch):
    """Neither the folder nor a file in it."""
    open_ca(folder)
    strange = os.stat(os.path.join(folder, name)).st_ino
    real = os.fstat

    def fstat(descriptor):
        found = real(descriptor)
        return os.stat_result([*found[:4], found.st_uid + 1, *found[5:10]]) if found.st_ino == strange else found

    monkeypatch.setattr(kept.os, "fstat", fstat)
    with pytest.raises(StoreError, match="another user"):
        open_ca(folder)


def test_a_folder_that_others_may_read_is_closed(folder):
    """That is harmless: the key in it was not theirs to read."""
    first = open_ca(folder)
    os.chmod(folder, 0o755)
    assert open_ca(folder).certificate == first.certificate
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied")])
def test_a_disk_that_takes_nothing_is_an_error_of_ours(folder, monkeypatch, error):
    """With a sentence, and nothing half made."""

    def fail(_descriptor):
        raise error

    monkeypatch.setattr(kept.os, "fsync", fail)
    with pytest.raises(StoreError, match=error.strerror):
        open_ca(folder)
    monkeypatch.undo()
    open_ca(folder)


TAKEN = {
    None: "localhost",
    "LOCALHOST": "localhost",
    "localhost.": "localhost",
    "Web.AGENT.LocalHost.": HOST,
    "a.b.c.localhost": "a.b.c.localhost",
    f"{'a' * 63}.localhost": f"{'a' * 63}.localhost",
    f"{'a' * 63}.{'b' * 63}.{'c' * 63}.localhost": f"{'a' * 63}.{'b' * 63}.{'c' * 63}.localhost",
    "xn--bcher-kva.localhost": "xn--bcher-kva.localhost",
    "127.0.0.1": "localhost",
    "::1": "localhost",
    "fe80::1%eth0": "localhost",
}
REFUSED = {
    "empty": ["", ".", "localhost..", ".localhost", "web..localhost"],
    "long": [f"{'a' * 64}.localhost", "a.b.c.d.localhost", "a." * 2000 + "localhost"],
    "no label": ["-a.localhost", "a-.localhost", "a_b.localhost", "*.localhost", "a b.localhost", "a.localhost/"],
    "not ASCII": ["bücher.localhost", "\u212a.localhost", "\uff4cocalhost", "a\u3002localhost"],
    "NUL and other controls": ["a\0.localhost", "a.localhost\0.example.com", "a.localhost\0", "a.localhost\n"],
    "no address": ["127.1", "[::1]", "127.0.0.1.", "0x7f000001", "a.localhost:8080"],
    "elsewhere": ["example.com", "localhost.example.com", "notlocalhost", "a.notlocalhost"],
}


@pytest.mark.parametrize(("name", "host"), TAKEN.items())
def test_names_that_have_a_certificate(name, host):
    """Those under localhost that could be an endpoint's, however they are spelt."""
    assert to_host(name) == host


@pytest.mark.parametrize("kind", REFUSED)
def test_names_that_have_none(kind):
    """The odd ones, and everybody else's."""
    assert [to_host(name) for name in REFUSED[kind]] == [None] * len(REFUSED[kind])


@given(st.text() | st.from_regex(r"[a-zA-Z0-9.-]{0,80}\.localhost\.?", fullmatch=True))
def test_a_host_is_always_a_name_under_localhost(name):
    """Lower case, of at most four labels: whatever is asked for."""
    host = to_host(name)
    if host is not None:
        assert host.isascii()
        assert host.split(".")[-1] == "localhost"
        assert all(map(is_name, host.split(".")))
        assert len(host.split(".")) <= 4
        assert to_host(host) == host


@pytest.mark.parametrize("name", ["localhost", "moat.localhost", HOST, "a.b.c.localhost", f"{'a' * 63}.localhost"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_strict_client_is_content(authority, client, name, version):
    """With the chain, the name and HTTP/1.1, by both versions of TLS."""
    client.minimum_version = client.maximum_version = version
    client.set_alpn_protocols(["h2", "http/1.1"])
    connection = shake(authority.context(), client, name)
    assert connection.getpeercert()["subjectAltName"] == (("DNS", name),)
    assert connection.selected_alpn_protocol() == "http/1.1"


def test_a_leaf_is_what_browsers_take(authority, client):
    """At most 397 days, for servers, and no CA."""
    leaf = read_leaf(shake(authority.context(), client, HOST))
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= dt.timedelta(days=397)
    assert leaf.not_valid_before_utc < dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    extensions = {each.value.__class__: each.value for each in leaf.extensions}
    assert list(extensions[x509.ExtendedKeyUsage]) == [x509.ExtendedKeyUsageOID.SERVER_AUTH]
    assert not extensions[x509.BasicConstraints].ca
    assert not extensions[x509.KeyUsage].key_cert_sign


def test_who_names_no_host_gets_localhosts(authority):
    """As a browser does that is given an address."""
    leaf = read_leaf(shake(authority.context(), blind(), None))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("localhost")]


@pytest.mark.parametrize("name", ["example.com", "a.b.c.d.localhost", "a_b.localhost", "localhost.example.com"])
def test_a_name_that_is_not_ours_is_refused_by_name(authority, name):
    """The client is told that it is the name, and nothing is minted."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = blind().wrap_bio(back, there, server_hostname=name)
    server = authority.context().wrap_bio(there, back, server_side=True)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with pytest.raises(ssl.SSLError):
        server.do_handshake()
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        client.do_handshake()
    assert len(authority._leaves) == 0


@pytest.mark.parametrize("name", [b"a\0.localhost", b"\0" * 9, b"a.localhost\0.example.com", b"[::1].localhost"])
def test_raw_names_that_no_client_sends(authority, name):
    """Are refused, in the middle of the handshake and without a word elsewhere."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    there.write(hello(name))
    with pytest.raises(ssl.SSLError):
        authority.context().wrap_bio(there, back, server_side=True).do_handshake()
    assert len(authority._leaves) == 0


def test_a_name_of_other_bytes_ends_the_handshake(authority, monkeypatch):
    """Python cannot decode it, says so to its hook, and sends an alert."""
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    there.write(hello("bücher.localhost".encode()))
    with pytest.raises(ssl.SSLError):
        authority.context().wrap_bio(there, back, server_side=True).do_handshake()
    assert [each.exc_type for each in said] == [UnicodeDecodeError]
    said.clear()
    assert len(authority._leaves) == 0


def test_a_host_has_one_certificate_however_it_is_spelt(authority, client):
    """And keeps it."""
    server = authority.context()
    leaves = {read_leaf(shake(server, blind(), name)).serial_number for name in (HOST, HOST.upper(), HOST + ".", HOST)}
    assert len(leaves) == 1
    assert read_leaf(shake(authority.context(), client, HOST)).serial_number in leaves


def test_a_leaf_is_renewed_while_the_router_runs(folder):
    """Ten days before its end; and when the clock is set back to before its beginning."""
    clock = Clock()
    authority = open_ca(folder, clock=clock)
    server = authority.context()
    serials = []
    for days in (0, 19, 2, 200, -250):
        clock.pass_days(days)
        leaf = read_leaf(shake(server, blind(), HOST))
        assert leaf.not_valid_before_utc <= clock.now <= leaf.not_valid_after_utc - dt.timedelta(days=10)
        serials.append(leaf.serial_number)
    assert serials[0] == serials[1]
    assert len(set(serials[1:])) == 4


def test_no_leaf_outlives_the_ca(folder):
    """One that did would be refused by some clients; with an expired CA there is an alert, not a traceback."""
    clock = Clock()
    authority = open_ca(folder, clock=clock)
    server = authority.context()
    clock.pass_days(3649)
    assert read_leaf(shake(server, blind(), HOST)).not_valid_after_utc == authority.certificate.not_valid_after_utc
    clock.pass_days(10)
    with pytest.raises(ssl.SSLError):
        shake(server, blind(), HOST)


def test_a_thousand_names_take_no_more_room_than_some(authority):
    """The least used go first."""
    kept = authority._find(HOST)
    for number in range(MOST_LEAVES + 50):
        authority._find(f"a{number}.localhost")
        authority._find(HOST)
    assert len(authority._leaves) == MOST_LEAVES
    assert authority._leaves[HOST] is kept
    assert "a0.localhost" not in authority._leaves


def test_a_lack_of_descriptors_costs_one_connection(authority, client, monkeypatch):
    """It is answered with an alert; the next one has its certificate."""

    def fail(*_args):
        raise OSError(24, "Too many open files")

    server = authority.context()
    with monkeypatch.context() as patch:
        patch.setattr(contexts.os, "memfd_create", fail, raising=False)
        with pytest.raises(ssl.SSLError):
            shake(server, client, HOST)
    shake(server, client, HOST)


def test_without_memory_files_keys_are_lent_by_private_ones(authority, client, monkeypatch, tmp_path):
    """As on macOS; they are gone afterwards."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(contexts.tempfile, "tempdir", str(tmp_path / "tmp"))
    os.mkdir(tmp_path / "tmp")
    shake(authority.context(), client, HOST)
    assert os.listdir(tmp_path / "tmp") == []


FORGED = [
    ([x509.DNSName("example.com")], "example.com", "subtree"),
    ([x509.DNSName("localhost.example.com")], "localhost.example.com", "subtree"),
    ([x509.DNSName("notlocalhost")], "notlocalhost", "subtree"),
    ([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))], "127.0.0.1", "subtree"),
    ([x509.IPAddress(ipaddress.ip_address("::1"))], "::1", "subtree"),
    ([x509.DNSName("a.localhost"), x509.DNSName("example.com")], "a.localhost", "subtree"),
]


@pytest.mark.parametrize(("names", "host", "why"), FORGED, ids=str)
def test_a_stolen_key_signs_for_nobody_else(authority, folder, client, names, host, why):
    """What it has signed for another name or an address is refused by who trusts the CA."""
    with pytest.raises(ssl.SSLCertVerificationError, match=why):
        shake(forge(folder, *names), client, host)


def test_the_forgery_is_refused_for_its_name_alone(authority, folder, client):
    """The same, for a name under localhost, is taken: else the test above would show nothing."""
    shake(forge(folder, x509.DNSName("a.localhost")), client, "a.localhost")


async def test_a_server_of_asyncio_takes_the_context(authority, client):
    """Over a real socket, with a certificate that is made in the middle of the handshake."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=authority.context())
    async with server:
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address, ssl=client, server_hostname=HOST)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
