"""Where the router's CA is put, what is left to the user, and that what was put there is taken away again."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import shlex
import shutil
import ssl
import sys
from pathlib import Path

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from moat_core.errors import StoreError
from moat_plugins.routing.certificates import open_ca
from moat_plugins.routing.trust import Machine, Ran, is_trusted, run, trust, untrust

PROGRAMS = ("certutil", "update-ca-certificates", "apt-get")


class Commands:
    """Stands for the machine's programs, and does what they do to the stores.

    Args:
        fail: Words of a command that fails.
    """

    def __init__(self):
        self.databases = {}
        self.keychain = {}
        self.calls = []
        self.fail = ()

    def __call__(self, argv, limit_s):
        assert limit_s > 0
        assert all(isinstance(each, str) for each in argv)
        program = os.path.basename(argv[0])
        self.calls.append([program, *argv[1:]])
        if self.fail and set(self.fail) <= {program, *argv[1:]}:
            return Ran(1, "it began well\nand failed.")
        return getattr(self, program.replace("-", "_"))(*argv[1:])

    def certutil(self, action, _d, database, *options):
        folder = database.removeprefix("sql:")
        held = self.databases.setdefault(folder, {})
        given = dict(zip(options[::2], options[1::2], strict=False))
        name = given.get("-n")
        if action == "-N":
            Path(folder, "cert9.db").touch()
        elif not Path(folder, "cert9.db").exists():
            return Ran(255, "SEC_ERROR_BAD_DATABASE")
        elif action == "-A":
            held[name] = (Path(given["-i"]).read_text(), given["-t"])
        elif name not in held:
            return Ran(255, "could not find certificate")
        elif action == "-D":
            del held[name]
        elif action == "-L":
            return Ran(0, held[name][0].replace("\n", "\r\n"))
        elif action == "-V":
            return Ran(0) if held[name][1] == "C,," else Ran(255, "not trusted")
        return Ran(0)

    def security(self, action, *options):
        if action == "add-trusted-cert":
            der = ssl.PEM_cert_to_DER_cert(Path(options[-1]).read_text())
            name = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0]
            self.keychain[hashlib.sha256(der).hexdigest().upper()] = name.value
        elif action == "delete-certificate":
            assert options[::2][:1] == ("-Z",)
            assert options[2] == "-t"
            del self.keychain[options[1]]
        elif action == "find-certificate":
            return Ran(0, "".join(f"SHA-256 hash: {each}\n" for each in self.keychain))
        elif action == "dump-trust-settings":
            return Ran(0, "".join(f"Cert 0: {each}\n" for each in self.keychain.values()))
        return Ran(0)

    def update_ca_certificates(self, *options):
        assert options in {(), ("--fresh",)}
        return Ran(0)

    def update_ca_trust(self):
        return Ran(0)

    def trust(self, action):
        assert action == "extract-compat"
        return Ran(0)


@pytest.fixture
def commands():
    return Commands()


@pytest.fixture
def machine(tmp_path, commands):
    """A Debian with certutil, whose user has a Chromium and a Firefox; commands are fakes."""
    home, root = tmp_path / "home", tmp_path / "root"
    for folder in ("home/.pki/nssdb", "home/.mozilla/firefox/abc.default", "root/usr/local/share/ca-certificates"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in (".pki/nssdb", ".mozilla/firefox/abc.default"):
        (home / folder / "cert9.db").touch()
    (tmp_path / "bin").mkdir()
    install(tmp_path, *PROGRAMS)
    environ = {"PATH": str(tmp_path / "bin")}
    return Machine(str(root), str(home), "linux", is_root=True, environ=environ, run=commands)


def install(tmp_path, *programs):
    for program in programs:
        (tmp_path / "bin" / program).touch(0o755)


@pytest.fixture
def ca(tmp_path):
    """The path of a real one."""
    open_ca(str(tmp_path / "ca"))
    return str(tmp_path / "ca" / "ca.pem")


def by_store(results):
    return {each.store.partition(",")[0]: each for each in results}


def statuses(results):
    return {each.store.partition(",")[0]: each.status for each in results}


def anchors(tmp_path):
    return os.listdir(tmp_path / "root/usr/local/share/ca-certificates")


def renew(ca):
    os.unlink(ca)
    open_ca(os.path.dirname(ca))


def test_every_store_that_is_there_trusts_it(ca, machine, commands, tmp_path):
    """The system's, Chromium's and each profile's; for servers only; and so it is told."""
    assert not is_trusted(ca, machine)
    before = os.umask(0o077)
    try:
        assert statuses(trust(ca, machine)) == {"system": "ok", "Chromium": "ok", "Firefox": "ok"}
    finally:
        os.umask(before)
    assert is_trusted(ca, machine)
    pem = Path(ca).read_text()
    assert [list(held.values()) for held in commands.databases.values()] == [[(pem, "C,,")]] * 2
    (anchor,) = (tmp_path / "root/usr/local/share/ca-certificates").iterdir()
    assert anchor.read_text() == pem
    assert anchor.suffix == ".crt"
    assert anchor.stat().st_mode & 0o777 == 0o644


def test_it_is_taken_out_of_every_store(ca, machine, commands, tmp_path):
    """Nothing is left, and nothing of others has gone."""
    other = tmp_path / "root/usr/local/share/ca-certificates/company.crt"
    other.write_text("theirs")
    commands.databases[f"{machine.home}/.pki/nssdb"] = {"theirs": ("pem", "C,,")}
    trust(ca, machine)
    assert statuses(untrust(ca, machine)) == {"system": "ok", "Chromium": "ok", "Firefox": "ok"}
    assert [list(held) for held in commands.databases.values()] == [["theirs"], []]
    assert anchors(tmp_path) == ["company.crt"]
    assert os.listdir(tmp_path / "ca/trusted") == []
    assert not is_trusted(ca, machine)


def test_twice_is_once(ca, machine, commands):
    """A second time changes nothing, either way."""
    trust(ca, machine)
    commands.calls.clear()
    assert set(statuses(trust(ca, machine)).values()) == {"ok"}
    assert [call for call in commands.calls if "-A" in call or call[0] != "certutil"] == []
    untrust(ca, machine)
    assert set(statuses(untrust(ca, machine)).values()) == {"skipped"}


@pytest.mark.parametrize("times", [1, 3])
def test_a_ca_that_has_been_replaced_is_taken_away_too(ca, machine, commands, tmp_path, times):
    """All that were trusted, though there is another one now."""
    for _ in range(times):
        trust(ca, machine)
        renew(ca)
    assert not is_trusted(ca, machine)
    assert len(anchors(tmp_path)) == times
    untrust(ca, machine)
    assert anchors(tmp_path) == []
    assert not any(commands.databases.values())


def test_another_cas_certificate_is_not_ours_to_remove(ca, machine, commands, tmp_path):
    """Not even if it goes by the same name."""
    trust(ca, machine)
    theirs = tmp_path / "theirs"
    open_ca(str(theirs))
    pem = (theirs / "ca.pem").read_text()
    (anchor,) = (tmp_path / "root/usr/local/share/ca-certificates").iterdir()
    anchor.write_text(pem)
    for held in commands.databases.values():
        (name,) = held
        held[name] = (pem, "C,,")
    assert not is_trusted(ca, machine)
    assert set(statuses(untrust(ca, machine)).values()) == {"skipped"}
    assert anchor.read_text() == pem
    assert all(commands.databases.values())


def test_without_root_the_system_is_left_to_the_user(ca, machine, commands, tmp_path):
    """With the commands that do it; nobody calls sudo."""
    machine = attrs.evolve(machine, is_root=False)
    results = by_store(trust(ca, machine))
    assert (results["system"].status, results["Chromium"].status) == ("skipped", "ok")
    assert anchors(tmp_path) == []
    first, second = results["system"].fix.split(" && ")
    assert second == "sudo update-ca-certificates"
    sudo, _install, _m, mode, source, place = shlex.split(first)
    assert (sudo, mode) == ("sudo", "644")
    shutil.copy(source, place)  # the user does it
    result = by_store(untrust(ca, machine))["system"]
    assert result.status == "failed"
    assert result.fix == f"sudo rm {shlex.quote(place)} && sudo update-ca-certificates --fresh"
    os.unlink(place)
    assert by_store(untrust(ca, machine))["system"].status == "skipped"
    assert os.listdir(tmp_path / "ca/trusted") == []
    assert not [call for call in commands.calls if call[0] in {"sudo", "update-ca-certificates"}]


@pytest.mark.parametrize(
    ("folder", "program", "call"),
    [
        ("etc/pki/ca-trust/source/anchors", "update-ca-trust", ["update-ca-trust"]),
        ("etc/pki/trust/anchors", "update-ca-certificates", ["update-ca-certificates"]),
        ("etc/ca-certificates/trust-source/anchors", "trust", ["trust", "extract-compat"]),
    ],
)
def test_other_distributions(ca, machine, commands, tmp_path, folder, program, call):
    """Have other folders, and other programs for them."""
    shutil.rmtree(tmp_path / "root/usr")
    (tmp_path / "root" / folder).mkdir(parents=True)
    install(tmp_path, program)
    assert by_store(trust(ca, machine))["system"].status == "ok"
    assert call in commands.calls
    assert len(os.listdir(tmp_path / "root" / folder)) == 1
    assert by_store(untrust(ca, machine))["system"].status == "ok"
    assert os.listdir(tmp_path / "root" / folder) == []


def test_a_program_for_root_is_found_where_those_are(ca, machine, tmp_path):
    """Debian's users do not have sbin on their PATH."""
    (tmp_path / "root/usr/sbin").mkdir()
    os.rename(tmp_path / "bin/update-ca-certificates", tmp_path / "root/usr/sbin/update-ca-certificates")
    assert by_store(trust(ca, machine))["system"].status == "ok"


@pytest.mark.parametrize("action", ["add", "remove"])
def test_a_system_that_does_not_take_it_up_is_left_as_it_was(ca, machine, commands, tmp_path, action):
    """The file says what the system does: so the next attempt finds it."""
    if action == "remove":
        trust(ca, machine)
    before = anchors(tmp_path)
    commands.fail = ("update-ca-certificates",)
    result = by_store((trust if action == "add" else untrust)(ca, machine))["system"]
    assert (result.status, anchors(tmp_path)) == ("failed", before)
    assert "and failed." in result.message
    assert result.fix.startswith("sudo ")
    commands.fail = ()
    assert by_store((trust if action == "add" else untrust)(ca, machine))["system"].status == "ok"


def test_a_database_that_wants_a_password_is_left_as_it_was(ca, machine, commands):
    """It keeps the certificate and distrusts it, unless that is taken away again; the others have theirs."""
    firefox = f"sql:{machine.home}/.mozilla/firefox/abc.default"
    commands.fail = ("-A", firefox)
    results = by_store(trust(ca, machine))
    assert (results["Firefox"].status, results["Chromium"].status) == ("failed", "ok")
    assert "Import" in results["Firefox"].fix
    assert results["Firefox"].fix.endswith(".pem")
    assert ["-D", "-d", firefox] in [call[1:4] for call in commands.calls]


def test_one_that_failed_is_tried_again(ca, machine, commands):
    """What could not be removed is remembered until it is."""
    trust(ca, machine)
    commands.fail = ("-D",)
    assert statuses(untrust(ca, machine)) == {"system": "ok", "Chromium": "failed", "Firefox": "failed"}
    commands.fail = ()
    assert statuses(untrust(ca, machine)) == {"system": "skipped", "Chromium": "ok", "Firefox": "ok"}
    assert not any(commands.databases.values())


def test_one_that_the_user_distrusts_is_not_trusted(ca, machine, commands):
    """In the browser's settings, say; asking for it again mends that."""
    machine = attrs.evolve(machine, is_root=False)
    trust(ca, machine)
    for held in commands.databases.values():
        held.update({name: (pem, ",,") for name, (pem, _) in held.items()})
    assert not is_trusted(ca, machine)
    trust(ca, machine)
    assert is_trusted(ca, machine)


@pytest.mark.parametrize(
    ("installer", "command"),
    [
        ("apt-get", "sudo apt install libnss3-tools"),
        ("dnf", "sudo dnf install nss-tools"),
        ("pacman", "sudo pacman -S nss"),
        ("zypper", "sudo zypper install mozilla-nss-tools"),
        ("emerge", "Install the tools of NSS, then try again."),
    ],
)
def test_without_certutil_there_is_the_command_that_installs_it(ca, machine, tmp_path, installer, command):
    """And what may be in a database is not forgotten."""
    for program in PROGRAMS:
        os.unlink(tmp_path / "bin" / program)
    install(tmp_path, installer)
    for _ in range(2):
        result = by_store(trust(ca, machine))["Firefox"]
        assert (result.status, result.fix) == ("skipped", command)
        result = by_store(untrust(ca, machine))["Firefox"]
        assert (result.status, result.fix) == ("failed", command)
    assert not is_trusted(ca, machine)


PLACES = [
    ".local/share/pki/nssdb",
    "snap/chromium/current/.pki/nssdb",
    ".var/app/org.chromium.Chromium/.pki/nssdb",
    ".var/app/com.google.Chrome/data/pki/nssdb",
    ".config/mozilla/firefox/x.default-release",
    "snap/firefox/common/.mozilla/firefox/x.default",
    ".var/app/org.mozilla.firefox/.mozilla/firefox/x.default",
]


@pytest.mark.parametrize("place", PLACES)
def test_browsers_have_many_homes(ca, machine, commands, place):
    """Where they come as a snap or a flatpak, or keep to the XDG folders."""
    folder = Path(machine.home, place)
    folder.mkdir(parents=True)
    (folder / "cert9.db").touch()
    trust(ca, machine)
    assert commands.databases[str(folder)]
    untrust(ca, machine)
    assert not commands.databases[str(folder)]


@pytest.mark.parametrize(
    ("there", "made"),
    [
        ([], ".pki/nssdb"),  # every Chromium knows it
        ([".pki/nssdb"], ".pki/nssdb"),
        ([".local/share/pki/nssdb"], ".local/share/pki/nssdb"),  # the other would be taken instead of it
        ([".local/share/pki/nssdb", ".pki/nssdb"], ".pki/nssdb"),
    ],
)
def test_a_chromium_that_never_ran_has_a_database_made(ca, machine, commands, tmp_path, there, made):
    """Where it will look for it."""
    shutil.rmtree(machine.home)
    for folder in there:
        os.makedirs(os.path.join(machine.home, folder))
    install(tmp_path, "google-chrome")
    assert statuses(trust(ca, machine)) == {"system": "ok", "Chromium": "ok"}
    assert [folder for folder, held in commands.databases.items() if held] == [os.path.join(machine.home, made)]
    if not there:
        assert os.stat(os.path.join(machine.home, made)).st_mode & 0o777 == 0o700


def test_without_a_browser_that_is_said(ca, machine):
    """And no database is made."""
    shutil.rmtree(machine.home)
    results = by_store(trust(ca, machine))
    assert (results["system"].status, results["browsers"].status) == ("ok", "skipped")
    assert not os.path.exists(machine.home)


def test_another_users_database_is_left_alone(ca, machine, commands, monkeypatch):
    """Root's certutil would make it unreadable for them."""
    theirs, real = f"{machine.home}/.mozilla/firefox/abc.default", os.stat

    def stat(path, *args, **options):
        found = real(path, *args, **options)
        return os.stat_result([*found[:4], found.st_uid + 1, *found[5:10]]) if path == theirs else found

    monkeypatch.setattr(os, "stat", stat)
    result = by_store(trust(ca, machine))["Firefox"]
    assert (result.status, result.fix) == ("skipped", "Do this as that user, without sudo.")
    assert not commands.databases[theirs]


def test_another_users_ca_is_not_trusted_for_them(ca, machine, monkeypatch):
    """As with sudo: what root leaves in the user's folder would be in their way."""
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(ca).st_uid + 1)
    with pytest.raises(StoreError) as caught:
        trust(ca, machine)
    assert "without sudo" in caught.value.hint
    assert not os.path.exists(os.path.join(os.path.dirname(ca), "trusted"))


def make_stranger():
    """A CA that could vouch for anybody, by a name like ours."""
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [(x509.NameOID.ORGANIZATION_NAME, "moat"), (x509.NameOID.COMMON_NAME, "moat local CA 01234567")]
    name = x509.Name([x509.NameAttribute(*each) for each in attributes])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(days=9))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"\0" * 100_000, make_stranger()], ids=range(5))
def test_only_a_ca_of_ours_is_trusted(tmp_path, machine, commands, content):
    """Never one that could sign for the whole world: nothing is run, nothing kept."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError):
        trust(str(path), machine)
    assert not is_trusted(str(path), machine)
    assert commands.calls == []
    assert not (tmp_path / "trusted").exists()


def test_what_is_kept_is_looked_at_too(ca, machine, commands, tmp_path):
    """A file that is not ours among it has nothing removed, and stays."""
    trust(ca, machine)
    for name, content in (("a.pem", make_stranger()), ("b.pem", b""), ("c.txt", b"notes")):
        (tmp_path / "ca/trusted" / name).write_bytes(content)
    untrust(ca, machine)
    assert sorted(os.listdir(tmp_path / "ca/trusted")) == ["a.pem", "b.pem", "c.txt"]
    assert not any(commands.databases.values())


def test_where_nothing_was_ever_trusted_nothing_is_run(ca, machine, commands):
    """Nor is there an error."""
    assert set(statuses(untrust(ca, machine)).values()) == {"skipped"}
    assert commands.calls == []


def test_a_full_disk_is_an_error_before_anything_is_done(ca, machine, commands, monkeypatch):
    """What could not be remembered would never be removed."""

    def fail(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(StoreError, match="No space left"):
        trust(ca, machine)
    assert not any(commands.databases.values())


def test_a_store_that_cannot_be_written_is_one_that_failed(ca, machine, tmp_path):
    """The others are done all the same."""
    trust(ca, machine)
    (place,) = (tmp_path / "root/usr/local/share/ca-certificates").iterdir()
    place.unlink()
    place.mkdir()
    results = by_store(trust(ca, machine))
    assert (results["system"].status, results["Firefox"].status) == ("failed", "ok")


@pytest.fixture
def mac(tmp_path, commands):
    (tmp_path / "home").mkdir()
    return Machine(str(tmp_path), str(tmp_path / "home"), "darwin", is_root=False, environ={}, run=commands)


def test_macos_has_a_keychain(ca, mac, commands):
    """The user's own: trusted for TLS, found and removed by its hash."""
    assert not is_trusted(ca, mac)
    assert statuses(trust(ca, mac)) == {"keychain": "ok"}
    (argv,) = [call for call in commands.calls if "add-trusted-cert" in call]
    keychain = f"{mac.home}/Library/Keychains/login.keychain-db"
    assert argv[2:-1] == ["-r", "trustRoot", "-p", "ssl", "-k", keychain]
    assert is_trusted(ca, mac)
    assert statuses(untrust(ca, mac)) == {"keychain": "ok"}
    assert commands.keychain == {}
    assert not is_trusted(ca, mac)


def test_macos_asks_and_the_user_may_say_no(ca, mac, commands):
    """That is a failure like another; root is not asked at all."""
    commands.fail = ("add-trusted-cert",)
    (result,) = trust(ca, mac)
    assert (result.status, "Keychain Access" in result.fix) == ("failed", True)
    (result,) = trust(ca, attrs.evolve(mac, is_root=True))
    assert result.status == "skipped"


RUNS = [
    ("print('said')", 0, "said"),
    ("import sys; print('first'); sys.exit('why it failed.')", 1, "why it failed"),
    ("import sys; sys.exit(3)", 3, "it ended with 3"),
    ("import sys; sys.exit(sys.stdin.read() or 4)", 4, "it ended with 4"),
    ("import sys; sys.stdout.buffer.write(b'\\xff'); sys.exit(1)", 1, "\ufffd"),
    ("import os; print(os.getsid(0) == os.getpid())", 0, "True"),  # a session without a terminal
]


@pytest.mark.parametrize(("code", "status", "words"), RUNS)
def test_commands_are_run_without_anybody_to_ask(code, status, words):
    """They have no input and no terminal; the last that they said is why they failed."""
    ran = run([sys.executable, "-c", code], 30)
    assert ran.code == status
    assert words in (ran.error if status else ran.output)


@pytest.mark.parametrize(
    ("argv", "limit_s", "words"),
    [([sys.executable, "-c", "input"], 0, "did not end within 0 s"), (["/no/such/program"], 9, "No such file")],
)
def test_a_command_that_does_not_end_or_begin_has_failed(argv, limit_s, words):
    """Without an exception."""
    ran = run(argv, limit_s)
    assert ran.code != 0
    assert words in ran.error
