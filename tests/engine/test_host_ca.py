"""A CA that only the host trusts, on a real engine: programs inside accept what it signed, with and without a build."""

from __future__ import annotations

import subprocess

import pytest
from built import NODE

from moat_core.api import Moat
from moat_core.hooks import hookimpl
from moat_core.plan import TRUST_ENV, trust_script

SANDBOXES = pytest.mark.parametrize("sandbox", [True, False], ids=["runsc", "runc"])

SERVER = """\
import http.server, ssl
server = http.server.HTTPServer(("127.0.0.1", 8443), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("server.pem", "server.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
"""


def openssl(*argv, cwd):
    subprocess.run(["openssl", *argv], cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def signed(workspace, tmp_path):
    """A CA of this test's, a server's certificate that it signed in the workspace, and the config that names it."""
    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    ca = [
        "-subj",
        "/CN=ca of a test",
        "-addext",
        "basicConstraints=critical,CA:TRUE",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
    ]
    openssl(*new, *ca, cwd=tmp_path)
    leaf = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=CA:FALSE"]
    files = [
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-keyout",
        str(workspace / "server.key"),
        "-out",
        str(workspace / "server.pem"),
    ]
    openssl(*new, *leaf, *files, cwd=tmp_path)
    (workspace / "server.py").write_text(SERVER)
    (workspace / "agent.yaml").write_text(f"host_ca: {{files: ['{tmp_path}/ca.pem']}}\n")
    return tmp_path / "ca.pem"


@pytest.fixture
def remove_later():
    """Images that only this test can want, because its CA is in them."""
    images = []
    yield images
    for image in images:
        subprocess.run(["docker", "rmi", "-f", image], check=True, capture_output=True)


@SANDBOXES
async def test_a_base_without_a_build_trusts_it(world, workspace, signed, sandbox):
    """Bundle, extras and variables are there in the plain base image."""
    async with Moat() as moat, moat.run(workspace, config="workspace", sandbox=sandbox) as run:
        assert run.run.plan.image.dockerfile is None
        body = signed.read_bytes().strip()
        assert body in await run.read("/etc/ssl/certs/ca-certificates.crt")
        extras = await run.read("/etc/moat-ca.crt")
        assert body in extras
        assert b"PRIVATE" not in extras
        env = (await run.exec(["env"], check=True)).text
        for name in (
            "SSL_CERT_FILE",
            "REQUESTS_CA_BUNDLE",
            "CURL_CA_BUNDLE",
            "GIT_SSL_CAINFO",
            "PIP_CERT",
            "NODE_EXTRA_CA_CERTS",
        ):
            assert f"{name}=/etc/" in env
        check = await run.exec(["openssl", "verify", "-CAfile", "/etc/ssl/certs/ca-certificates.crt", "server.pem"])
        assert check.ok, check.stderr


async def test_switched_off_nothing_is_there(world, workspace, signed):
    """With `enabled: false` the container is as its image."""
    (workspace / "agent.yaml").write_text("host_ca: {enabled: false}\n")
    async with Moat() as moat, moat.run(workspace) as run:
        assert not (await run.exec(["test", "-e", "/etc/moat-ca.crt"])).ok
        assert "SSL_CERT_FILE" not in (await run.exec(["env"])).text


@pytest.mark.slow
async def test_programs_accept_what_it_signed(world, workspace, signed, remove_later):
    """Python, curl with and without its variable, and git, each by its own way, speak to a server that it signed."""
    async with (
        Moat() as moat,
        moat.run(workspace, config="workspace", dependencies=("python", "curl", "git")) as run,
        run.start(["python", "server.py"]) as server,
    ):
        remove_later.append(run.run.image)
        async for output in server:
            if b"ready" in output.data:
                break
        url = "https://localhost:8443/server.py"
        fetch = f"import urllib.request; urllib.request.urlopen('{url}').read()"
        await run.exec(["python", "-c", fetch], check=True, timeout_s=60)
        await run.exec(["curl", "-fsS", "-o", "/dev/null", url], check=True, timeout_s=60)
        bare = ["env", "-u", "CURL_CA_BUNDLE", "-u", "SSL_CERT_FILE", "curl", "-fsS", "-o", "/dev/null", url]
        await run.exec(bare, check=True, timeout_s=60)
        git = await run.exec(["git", "ls-remote", "https://localhost:8443/none.git"], timeout_s=60)
        assert b"certificate" not in git.stderr
        assert b"not found" in git.stderr
        strict = await run.exec(["curl", "-sS", "--cacert", "/dev/null", url], timeout_s=60)
        assert strict.exit_code != 0, "a client that trusts nothing must refuse, or this test proves nothing"


class AddsOneMore:
    """A plugin that adds a CA to the run alone, so that the image of other tests can be used."""

    def __init__(self, certificate):
        self.certificate = certificate

    @hookimpl(trylast=True)
    def moat_add_to_plan(self, plan):
        plan.add_init_step("one more", trust_script([self.certificate.read_bytes()]), order=20)
        for key, value in TRUST_ENV.items():
            plan.set_env(key, value)


@pytest.mark.slow
async def test_node_accepts_what_it_signed(world, workspace, signed):
    """Node.js with its own list adds the extras to it; without the variable it refuses."""
    (workspace / "agent.yaml").unlink()
    script = (
        "const https = require('https'), fs = require('fs');"
        "const server = https.createServer({key: fs.readFileSync('server.key'), cert: fs.readFileSync('server.pem')},"
        " (_, answer) => answer.end('ok'));"
        "server.listen(8443, 'localhost', () => https.get('https://localhost:8443/', answer => {"
        " console.log(answer.statusCode); process.exit(0) }).on('error', error => { console.log(error.code); process.exit(1) }))"
    )
    node = ["node", "--use-bundled-ca", "-e", script]  # Debian's own build asks the system's store else
    async with Moat(plugins={"more": AddsOneMore(signed)}) as moat, moat.run(workspace, **NODE) as run:
        trusted = await run.exec(node, timeout_s=60)
        assert trusted.text == "200\n", trusted.stderr
        without = await run.exec(node, env={"NODE_EXTRA_CA_CERTS": ""}, timeout_s=60)
        assert without.exit_code == 1


async def test_reinstalling_the_distributions_cas_keeps_it(world, workspace, signed):
    """`update-ca-certificates`, as installing a package runs it, does not lose what was added."""
    async with Moat() as moat, moat.run(workspace, config="workspace", sandbox=False) as run:
        await run.exec(["update-ca-certificates"], user="root", check=True, timeout_s=120)
        assert signed.read_bytes().strip() in await run.read("/etc/ssl/certs/ca-certificates.crt")
