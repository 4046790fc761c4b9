"""Puts the router's CA where browsers and other programs of this machine look for CAs, and takes it away again.

All of it as the user: what only root may do is said as a command, and done only by who is root already. Before a store
is touched the certificate is kept in ``trusted`` beside the CA, so that `untrust` finds it when there is another CA.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from moat_core.errors import StoreError
from moat_plugins.routing.certificates import is_constrained

__all__ = ["Machine", "Ran", "Result", "is_trusted", "run", "trust", "untrust"]

_LIMIT_S = 120.0
"""macOS asks the user for a password."""
_RECORDS = "trusted"
_MOST_BYTES = 65536
_NAME_RE = re.compile(r"CN=(moat local CA [0-9a-f]{8}),O=moat")
_RANK = {"skipped": 0, "ok": 1, "failed": 2}
_NSS_FILE = "cert9.db"
_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "brave-browser", "microsoft-edge", "vivaldi")
_SYSTEMS = (
    ("usr/local/share/ca-certificates", ("update-ca-certificates",), ("--fresh",)),  # Debian, Ubuntu, Alpine
    ("etc/pki/ca-trust/source/anchors", ("update-ca-trust",), ()),  # Fedora, RHEL
    ("etc/pki/trust/anchors", ("update-ca-certificates",), ("--fresh",)),  # SUSE
    ("etc/ca-certificates/trust-source/anchors", ("trust", "extract-compat"), ()),  # Arch
)
"""Where a system's own CAs go, below the root; what takes them up; and with what that forgets one that has gone."""
_DATABASES = (
    ("Chromium (snap)", "snap/*/current/.pki/nssdb"),
    ("Chromium (flatpak)", ".var/app/*/.pki/nssdb"),
    ("Chromium (flatpak)", ".var/app/*/data/pki/nssdb"),
    ("Firefox", ".mozilla/firefox/*"),
    ("Firefox", ".config/mozilla/firefox/*"),
    ("Firefox (snap)", "snap/firefox/common/.mozilla/firefox/*"),
    ("Firefox (flatpak)", ".var/app/org.mozilla.firefox/.mozilla/firefox/*"),
    ("Firefox (flatpak)", ".var/app/org.mozilla.firefox/config/mozilla/firefox/*"),
)
"""Where NSS databases may be, below the home."""
_INSTALLERS = {
    "apt-get": "sudo apt install libnss3-tools",
    "dnf": "sudo dnf install nss-tools",
    "pacman": "sudo pacman -S nss",
    "zypper": "sudo zypper install mozilla-nss-tools",
}


@attrs.frozen
class Result:
    """What became of one store.

    Args:
        store: Which, as a user knows it.
        status: ``ok``: it is as asked for; ``skipped``: there was nothing to do, or only the user can do it;
            ``failed``: it is not as asked for.
        message: One sentence.
        fix: The command or the step that does it.
    """

    store: str
    status: Literal["ok", "skipped", "failed"]
    message: str
    fix: str = ""


@attrs.frozen
class Ran:
    """How a command ended, -1 if it did not, and what it said."""

    code: int
    output: str = ""

    @property
    def error(self) -> str:
        """Why it failed, without a full stop; ``""`` if it has not."""
        said = self.output.strip().splitlines() or [f"it ended with {self.code}"]
        return said[-1].rstrip(".") if self.code else ""


def run(argv: Sequence[str], limit_s: float) -> Ran:
    """Run a command that can ask nobody: it has no terminal."""
    try:
        done = subprocess.run(
            argv, input=b"", capture_output=True, timeout=limit_s, check=False, start_new_session=True
        )
    except subprocess.TimeoutExpired:
        return Ran(-1, f"it did not end within {limit_s:.0f} s")
    except OSError as error:
        return Ran(-1, error.strerror or str(error))
    return Ran(done.returncode, (done.stdout + done.stderr).decode(errors="replace"))


@attrs.frozen
class Machine:
    """What is looked at and what is run; other ones in tests.

    Args:
        root: Of the file system.
        home: The user's.
        platform: As ``sys.platform``.
        is_root: Whether the system's store may be written to.
        environ: The user's.
        run: Runs a command for so many seconds at most.
    """

    root: str = "/"
    home: str = attrs.field(factory=lambda: os.path.expanduser("~"))
    platform: str = sys.platform
    is_root: bool = attrs.field(factory=lambda: os.geteuid() == 0)
    environ: Mapping[str, str] = attrs.field(factory=lambda: os.environ)
    run: Callable[[Sequence[str], float], Ran] = run

    def find(self, program: str) -> str | None:
        """Return the path of PROGRAM; what is root's is not on everybody's PATH."""
        folders = [self.environ.get("PATH", ""), *(os.path.join(self.root, each) for each in ("usr/sbin", "sbin"))]
        return shutil.which(program, path=os.pathsep.join(folders))

    def call(self, program: str, *options: str) -> Ran:
        """Run PROGRAM, wherever it is."""
        return self.run([self.find(program) or program, *options], _LIMIT_S)


@attrs.frozen
class _Ca:
    """A CA of ours: what every list calls it, as no other; its certificate; and a file that holds that as PEM."""

    name: str
    der: bytes
    path: str = attrs.field(eq=False)

    @property
    def slug(self) -> str:
        return self.name.lower().replace(" ", "-")

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.der).hexdigest().upper()


@attrs.frozen
class _System:
    """What curl, git and the like use: a folder of files, and a program that takes them up."""

    name: str
    machine: Machine
    path: str
    take_up: tuple[str, ...]
    forget: tuple[str, ...]

    def has(self, ca: _Ca) -> bool:
        return _read(self._file(ca)) == ca

    trusts = has

    def blocked(self) -> str:
        return "" if self.machine.is_root else "only root can change what the whole system trusts"

    def put(self, ca: _Ca) -> str:
        shutil.copyfile(ca.path, self._file(ca))
        os.chmod(self._file(ca), 0o644)
        if error := self.machine.call(*self.take_up).error:
            os.unlink(self._file(ca))
        return error

    def take(self, ca: _Ca) -> str:
        os.unlink(self._file(ca))
        if error := self.machine.call(*self.take_up, *self.forget).error:
            shutil.copyfile(ca.path, self._file(ca))  # in use still: it is to be found the next time
        return error

    def by_hand(self, ca: _Ca, *, puts: bool) -> str:
        place = shlex.quote(self._file(ca))
        if puts:
            return f"sudo install -m 644 {shlex.quote(ca.path)} {place} && sudo {shlex.join(self.take_up)}"
        return f"sudo rm {place} && sudo {shlex.join(self.take_up + self.forget)}"

    def _file(self, ca: _Ca) -> str:
        return os.path.join(self.path, f"{ca.slug}.crt")


@attrs.frozen
class _Nss:
    """A database of NSS's: that of a user's Chromium, or of a profile of Firefox."""

    name: str
    machine: Machine
    path: str

    def has(self, ca: _Ca) -> bool:
        if not self.machine.find("certutil"):
            return True  # who knows
        return _parse(self._run("-L", "-n", ca.name, "-a").output.encode(), self.path) == ca

    def trusts(self, ca: _Ca) -> bool:
        return self.has(ca) and not self._run("-V", "-n", ca.name, "-u", "L").error

    def blocked(self) -> str:
        if not self.machine.find("certutil"):
            return "certutil is not installed"
        is_own = not os.path.exists(self.path) or os.stat(self.path).st_uid == os.geteuid()
        return "" if is_own else "it belongs to another user"

    def put(self, ca: _Ca) -> str:
        if not os.path.exists(os.path.join(self.path, _NSS_FILE)):
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            self._run("-N", "--empty-password")
        if error := self._run("-A", "-n", ca.name, "-t", "C,,", "-i", ca.path).error:
            self.take(ca)  # one with a password has it now, as one to distrust
        return error

    def take(self, ca: _Ca) -> str:
        return self._run("-D", "-n", ca.name).error

    def by_hand(self, ca: _Ca, *, puts: bool) -> str:
        if not self.machine.find("certutil"):
            commands = [command for program, command in _INSTALLERS.items() if self.machine.find(program)]
            return (commands or ["Install the tools of NSS, then try again."])[0]
        if self.blocked():
            return "Do this as that user, without sudo."
        return f"{'Import' if puts else 'Delete'} it in the browser's settings, among the authorities: {ca.path}"

    def _run(self, action: str, *options: str) -> Ran:
        return self.machine.call("certutil", action, "-d", f"sql:{self.path}", *options)


@attrs.frozen
class _Keychain:
    """The user's own on macOS: what Safari, Chrome and Firefox use there."""

    name: str
    machine: Machine
    path: str

    def has(self, ca: _Ca) -> bool:
        return ca.hash in self.machine.call("security", "find-certificate", "-a", "-Z", self.path).output

    def trusts(self, ca: _Ca) -> bool:
        return self.has(ca) and ca.name in self.machine.call("security", "dump-trust-settings").output

    def blocked(self) -> str:
        return "it is a user's own, and this is root" if self.machine.is_root else ""

    def put(self, ca: _Ca) -> str:
        options = ("-r", "trustRoot", "-p", "ssl", "-k", self.path, ca.path)
        return self.machine.call("security", "add-trusted-cert", *options).error

    def take(self, ca: _Ca) -> str:
        return self.machine.call("security", "delete-certificate", "-Z", ca.hash, "-t", self.path).error

    def by_hand(self, ca: _Ca, *, puts: bool) -> str:
        return f"{'Trust' if puts else 'Delete'} it in Keychain Access: {ca.path}"


_Store = _System | _Nss | _Keychain


def trust(path: str, machine: Machine | None = None) -> list[Result]:
    """Have every store of this machine trust the CA at PATH. Runs commands, for seconds.

    Raises:
        StoreError: PATH is no CA of ours, or another user's.
    """
    stores = list(_find_stores(machine or Machine()))
    ca = _record(path)
    results = [_add(store, ca) for store in stores]
    if all(isinstance(store, _System) for store in stores):
        results.append(Result("browsers", "skipped", "None of yours has run yet.", "Start it once, then try again."))
    return results


def untrust(path: str, machine: Machine | None = None) -> list[Result]:
    """Take out of every store what `trust` has put there: the CA at PATH, and any that was at PATH before it."""
    folder = os.path.join(os.path.dirname(path), _RECORDS)
    records = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    stores = list(_find_stores(machine or Machine()))
    results = {store.name: Result(store.name, "skipped", "It is not there.") for store in stores}
    for ca in filter(None, (_read(os.path.join(folder, name)) for name in records)):
        found = [_remove(store, ca) for store in stores]
        # One result a store: of several CAs the one that is worst off.
        results |= {each.store: each for each in found if _RANK[each.status] > _RANK[results[each.store].status]}
        if all(each.status != "failed" for each in found):
            os.unlink(ca.path)
    return list(results.values())


def is_trusted(path: str, machine: Machine | None = None) -> bool:
    """Tell whether any store trusts the CA at PATH. Runs commands."""
    ca = _read(path)
    return ca is not None and any(store.trusts(ca) for store in _find_stores(machine or Machine()))


def _add(store: _Store, ca: _Ca) -> Result:
    if store.trusts(ca):
        return Result(store.name, "ok", "It is trusted already.")
    if why := store.blocked():
        return Result(store.name, "skipped", f"It is left to you: {why}.", store.by_hand(ca, puts=True))
    if why := _attempt(store.put, ca):
        return Result(store.name, "failed", f"It could not be added: {why}.", store.by_hand(ca, puts=True))
    return Result(store.name, "ok", "It is trusted now; a browser that is running has to be started again.")


def _remove(store: _Store, ca: _Ca) -> Result:
    if not store.has(ca):
        return Result(store.name, "skipped", "It is not there.")
    if why := store.blocked() or _attempt(store.take, ca):
        return Result(store.name, "failed", f"It could not be removed: {why}.", store.by_hand(ca, puts=False))
    return Result(store.name, "ok", "It is not trusted any more; a browser that is running may remember it.")


def _attempt(act: Callable[[_Ca], str], ca: _Ca) -> str:
    try:
        return act(ca)
    except OSError as error:
        return str(error)


def _find_stores(machine: Machine) -> Iterator[_Store]:
    if machine.platform == "darwin":
        yield _Keychain("keychain", machine, os.path.join(machine.home, "Library/Keychains/login.keychain-db"))
        return
    for folder, take_up, forget in _SYSTEMS:
        path = os.path.join(machine.root, folder)
        if os.path.isdir(path) and machine.find(take_up[0]):
            yield _System("system", machine, path, take_up, forget)
            break
    for title, path in _find_databases(machine):
        yield _Nss(f"{title}, {path}", machine, path)


def _find_databases(machine: Machine) -> Iterator[tuple[str, str]]:
    data = machine.environ.get("XDG_DATA_HOME") or os.path.join(machine.home, ".local/share")
    # Chromium takes the first that is there; older ones know no other.
    shared = [os.path.join(machine.home, ".pki/nssdb"), os.path.join(data, "pki/nssdb")]
    used = [path for path in shared if os.path.exists(os.path.join(path, _NSS_FILE))]
    if not used and any(machine.find(each) for each in _CHROMIUMS):
        used = [next((path for path in shared if os.path.isdir(path)), shared[0])]
    yield from (("Chromium", path) for path in used)
    for title, pattern in _DATABASES:
        for found in sorted(glob.glob(os.path.join(pattern, _NSS_FILE), root_dir=machine.home)):
            yield title, os.path.join(machine.home, os.path.dirname(found))


def _record(path: str) -> _Ca:
    """Keep a copy of the CA at PATH for `untrust`."""
    ca = _read(path)
    if ca is None or os.stat(path).st_uid != os.geteuid():
        hint = "Do this as the user who runs the router, without sudo."
        raise StoreError(f"{path} is no CA of this user's router.", hint=hint)
    kept = os.path.join(os.path.dirname(path), _RECORDS, f"{ca.slug}.pem")
    try:
        os.makedirs(os.path.dirname(kept), mode=0o700, exist_ok=True)
        shutil.copyfile(path, f"{kept}.new")
        os.replace(f"{kept}.new", kept)
    except OSError as error:
        raise StoreError(f"{kept} cannot be written: {error.strerror}.", hint="Free some disk space.") from error
    return attrs.evolve(ca, path=kept)


def _read(path: str) -> _Ca | None:
    """Return the CA in the file PATH; ``None`` if there is none of ours."""
    try:
        with open(path, "rb") as file:
            return _parse(file.read(_MOST_BYTES), path)
    except OSError:
        return None


def _parse(pem: bytes, path: str) -> _Ca | None:
    """Return the CA; ``None`` if it is not ours, or one that could vouch for anybody."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        name = _NAME_RE.fullmatch(certificate.subject.rfc4514_string())
    except ValueError:
        return None
    return _Ca(name[1], certificate.public_bytes(Encoding.DER), path) if name and is_constrained(certificate) else None
