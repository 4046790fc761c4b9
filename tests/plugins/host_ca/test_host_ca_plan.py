"""What the host's CAs and proxies add to a plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from moat_core.plan import TRUST_BUNDLE, TRUST_ENV, TRUST_EXTRAS
from moat_plugins import dependencies, host_ca
from moat_plugins.host_ca import contribute
from moat_plugins.host_ca.contribute import proxy_args
from moat_plugins.host_ca.sources import Found

CA = (Path(__file__).parent / "data/ca.pem").read_bytes()
PROXIES = {"HTTPS_PROXY": "http://proxy.example:3128", "no_proxy": "localhost,.example"}


@pytest.fixture
def host(monkeypatch):
    """Return a function that decides what the host has."""

    def has(*certificates, broken=(), unreadable=(), environ=None):
        monkeypatch.setattr(contribute, "find_extras", lambda *_: Found(certificates, broken, unreadable))
        monkeypatch.setattr(contribute.os, "environ", environ or {})

    return has


def test_extras_are_trusted_everywhere(planned, host):
    """With extras: in the image's trust, by an init step, and in each program's own variable."""
    host(CA)
    plan = planned(host_ca).freeze()
    assert plan.image.trust == (CA,)
    assert [step.name for step in plan.init_steps] == ["host CAs"]
    env = {key: item.value for key, item in plan.env.items()}
    assert env == dict(TRUST_ENV)
    assert {key for key, value in env.items() if value == TRUST_BUNDLE} == {
        "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT",
    }  # fmt: skip
    assert env["NODE_EXTRA_CA_CERTS"] == TRUST_EXTRAS


@pytest.mark.parametrize("text", ["", "host_ca: {enabled: false}"])
def test_nothing_is_added_for_nothing(planned, host, text):
    """Without extras, or switched off, the plan has no step, no variable and no build."""
    host(*([CA] if text else []))
    plan = planned(host_ca, text=text).freeze()
    assert (plan.image.trust, plan.init_steps, dict(plan.env), plan.notes) == ((), (), {}, ())
    assert plan.image.dockerfile is None


def test_what_is_wrong_is_said(planned, host):
    """Broken certificates are a warning, a missing file of the config an error."""
    host(CA, broken=("x.pem: broken",), unreadable=("/gone: No such file",))
    plan = planned(host_ca)
    assert [problem.severity for problem in plan.problems] == ["error", "warning"]


def test_more_than_fits_is_cut_and_said(planned, host):
    """The init steps have a limit; what goes beyond is left out with a warning, and the plan stays possible."""
    host(*[CA] * 200)
    plan = planned(host_ca).freeze()
    assert 0 < len(plan.image.trust) < 200
    assert len(plan.warnings) == 1
    assert sum(len(step.script) for step in plan.init_steps) < 64 * 1024


def test_user_may_set_another_file(planned, host):
    """What the user sets for a program wins."""
    host(CA)
    builder = planned(host_ca)
    builder.set_env("PIP_CERT", "/mine.pem", by="config")
    assert builder.freeze().env["PIP_CERT"].value == "/mine.pem"


def test_build_trusts_before_it_fetches(planned, host):
    """In a Dockerfile the CAs come right after FROM, before the first RUN that goes to the network."""
    host(CA)
    image = planned(dependencies, host_ca, dependencies=("jq",)).freeze().image
    assert image.dockerfile.index("trust.sh") < image.dockerfile.index("apt-get")
    assert CA.decode().strip() in image.files["moat/trust.sh"].decode()
    assert "ENV" not in image.dockerfile


@pytest.mark.parametrize(
    ("environ", "usable", "local"),
    [
        (PROXIES, PROXIES, []),
        ({"HTTP_PROXY": "", "PATH": "/bin"}, {}, []),
        ({"http_proxy": "http://127.0.0.1:3128"}, {}, ["http_proxy"]),
        ({"http_proxy": "localhost:3128", "NO_PROXY": "localhost"}, {"NO_PROXY": "localhost"}, ["http_proxy"]),
        ({"ALL_PROXY": "socks5h://[::1]:1080"}, {}, ["ALL_PROXY"]),
        ({"HTTP_PROXY": "http://127.example:1"}, {"HTTP_PROXY": "http://127.example:1"}, []),
        ({"HTTP_PROXY": "http://[broken"}, {"HTTP_PROXY": "http://[broken"}, []),
    ],
)
def test_proxies_that_a_build_can_use(environ, usable, local):
    """Settings of the host go to builds, except proxies on the host's loopback, which a build cannot reach."""
    assert proxy_args(environ) == (usable, local)


def test_proxies_reach_the_build_only(planned, host):
    """Proxy settings are build arguments, in no name and no container; a loopback one is warned of in builds."""
    host(environ=PROXIES)
    with_proxy = planned(dependencies, host_ca, dependencies=("jq",)).freeze()
    host(environ={"http_proxy": "http://127.0.0.1:1"})
    without = planned(dependencies, host_ca, dependencies=("jq",)).freeze()
    assert with_proxy.image.build_args == PROXIES
    assert with_proxy.image.tag == without.image.tag
    assert dict(with_proxy.env) == {}
    assert len(without.warnings) == 1
    assert planned(host_ca).freeze().warnings == ()
