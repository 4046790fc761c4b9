"""The sh text by which a container trusts more CAs, run by real shells on a folder that stands for its root."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from moat_core.plan import TRUST_BUNDLE, TRUST_EXTRAS, trust_script

ONE = b"-----BEGIN CERTIFICATE-----\nQUFB\n-----END CERTIFICATE-----\n"
TWO = b"-----BEGIN CERTIFICATE-----\nQkJC\n-----END CERTIFICATE-----\n"
SHELLS = [shell for shell in (["dash"], ["bash", "--posix"], ["busybox", "sh"]) if shutil.which(shell[0])]


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def apply(request, tmp_path):
    """Return a function that runs the text with its paths below a folder, and the folder."""
    assert SHELLS

    def run(*certificates, path="/usr/bin:/bin"):
        script = trust_script(certificates)
        for top in ("/etc/", "/usr/local/share/"):
            script = script.replace(top, f"{tmp_path}{top}")
        text = f"PATH={path}\n( set -eu\n{script}\n) </dev/null"
        return subprocess.run([*request.param, "-c", text], capture_output=True, text=True, check=False)

    run.root = tmp_path
    return run


def debian(root, bundle=b"old"):
    for folder in ("etc/ssl/certs", "usr/local/share/ca-certificates"):
        (root / folder).mkdir(parents=True)
    if bundle is not None:
        (root / TRUST_BUNDLE[1:]).write_bytes(bundle)


def test_debian_needs_no_process(apply):
    """Where ca-certificates is installed the text works without starting anything: there is no PATH."""
    debian(apply.root)
    done = apply(ONE, TWO, path="/nowhere")
    assert (done.returncode, done.stderr) == (0, "")
    bundle = (apply.root / TRUST_BUNDLE[1:]).read_bytes()
    assert bundle == b"old\n" + ONE + TWO, "a bundle without a final newline is not glued to the first"
    extras = (apply.root / TRUST_EXTRAS[1:]).read_bytes()
    assert extras.endswith(ONE + TWO)
    assert b"old" not in extras
    anchors = sorted((apply.root / "usr/local/share/ca-certificates").iterdir())
    assert [path.read_bytes() for path in anchors] == [ONE, TWO]
    assert all(path.suffix == ".crt" for path in anchors)


def test_again_changes_nothing(apply):
    """An image that was built with the same CAs is left as it is, and others are added to."""
    debian(apply.root)
    apply(ONE)
    before = (apply.root / TRUST_BUNDLE[1:]).read_bytes()
    assert apply(ONE, path="/nowhere").returncode == 0
    assert (apply.root / TRUST_BUNDLE[1:]).read_bytes() == before
    apply(TWO)
    assert (apply.root / TRUST_BUNDLE[1:]).read_bytes() == before + b"\n" + TWO


def test_image_without_ca_certificates(apply):
    """The folders and the bundle are made."""
    (apply.root / "etc").mkdir()
    done = apply(ONE)
    assert (done.returncode, done.stderr) == (0, "")
    assert (apply.root / TRUST_BUNDLE[1:]).read_bytes() == b"\n" + ONE


@pytest.mark.parametrize("other", ["etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "etc/ssl/ca-bundle.pem"])
def test_other_distributions_keep_their_own_cas(apply, other):
    """Where the bundle has another name it gets Debian's as well, so that nothing that was trusted is lost."""
    path = apply.root / other
    path.parent.mkdir(parents=True)
    path.write_bytes(b"old\n")
    done = apply(ONE)
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_bytes() == b"old\n\n" + ONE == (apply.root / TRUST_BUNDLE[1:]).read_bytes()


def test_failure_is_a_failure(apply):
    """What cannot be written ends the step with an error instead of leaving half of it."""
    (apply.root / "etc").write_text("")
    assert apply(ONE).returncode != 0
