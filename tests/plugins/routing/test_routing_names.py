"""Host names: whose each is, in whatever way it is written, and what a run is told of its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moat_core.types import NAME_RE, is_name
from moat_plugins.routing.names import INDEX_HOSTS, Name, bare, make_env, make_urls, parse_host
from moat_plugins.routing.process import Running, base_url

LABELS = st.from_regex(NAME_RE, fullmatch=True)
PORTS = st.one_of(st.just(""), st.just(":"), st.integers(0, 99999).map(lambda port: f":{port}"))
DOTS = st.sampled_from(["", "."])


def shout(text, upper):
    """TEXT with some of its letters in upper case."""
    return "".join(c.upper() if up else c for c, up in zip(text, upper, strict=False)) + text[len(upper) :]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("web.myapp.localhost", Name("myapp", "web")),
        ("web.myapp.localhost:8080", Name("myapp", "web")),
        ("web.myapp.localhost:1", Name("myapp", "web")),
        ("web.myapp.localhost:", Name("myapp", "web")),
        ("web.myapp.localhost.", Name("myapp", "web")),
        ("web.myapp.localhost.:8080", Name("myapp", "web")),
        ("WEB.MyApp.LOCALHOST:8080", Name("myapp", "web")),
        ("myapp.localhost", Name("myapp")),
        ("myapp.localhost.:443", Name("myapp")),
        ("localhost.localhost", Name("localhost")),
        ("a-b.c-d.localhost", Name("c-d", "a-b")),
        ("1.2.localhost", Name("2", "1")),
        # Three labels are nobody's: not the agent's, and not an endpoint's of another.
        ("x.web.myapp.localhost", None),
        ("a.b.c.d.localhost", None),
        # Empty labels.
        (".localhost", None),
        ("..localhost", None),
        (".myapp.localhost", None),
        ("web..localhost", None),
        ("web.myapp..localhost", None),
        ("web.myapp.localhost..", None),
        ("", None),
        (".", None),
        (":", None),
        (":8080", None),
        # Others' names.
        ("localhost", None),
        ("web.myapp.localhost.evil.com", None),
        ("web.myapp.localhost.com:8080", None),
        ("weblocalhost", None),
        ("web.myapp.local", None),
        ("web.myapp.notlocalhost", None),
        ("example.com", None),
        ("127.0.0.1", None),
        ("127.0.0.1:8080", None),
        ("10.0.0.1", None),
        # IPv6 literals.
        ("[::1]", None),
        ("[::1]:8080", None),
        ("[fe80::1]:80", None),
        ("::1", None),
        ("[::1].localhost:x", None),
        # What is no port is no port.
        ("web.myapp.localhost:80a", None),
        ("web.myapp.localhost:-1", None),
        ("web.myapp.localhost:80:90", None),
        ("web.myapp.localhost: 80", None),
    ],
)
def test_a_host_means_one_endpoint_of_one_agent_or_nothing(host, expected):
    """In any case, with any port, with a trailing dot; and whatever is not quite that is nobody's."""
    assert parse_host(host) == expected


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LocalHost", "localhost.", "localhost:8080", "localhost.:8080", "moat.localhost", "MOAT.localhost:1",
        "moat.localhost.", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:8080", "localhost:",
    ],
)  # fmt: skip
def test_the_index_is_found_in_all_its_spellings(host):
    """With any port, in any case, with a trailing dot, and by address."""
    assert bare(host) in INDEX_HOSTS


@pytest.mark.parametrize(
    "host", ["web.moat.localhost", "localhost.com", "moat.localhost.com", "127.0.0.2", "[::2]", "[::1", "::1", "evil"]
)
def test_other_hosts_are_not_the_index(host):
    """A page under another name, rebound to this machine, is none of it."""
    assert bare(host) not in INDEX_HOSTS


@given(LABELS, LABELS, PORTS, DOTS, st.lists(st.booleans(), max_size=80))
def test_every_name_is_found_again_however_it_is_written(endpoint, agent, port, dot, upper):
    """What a label may be in the config comes out of the host as it went in."""
    assert parse_host(shout(f"{endpoint}.{agent}.localhost", upper) + dot + port) == Name(agent, endpoint)
    assert parse_host(shout(f"{agent}.localhost", upper) + dot + port) == Name(agent)


@given(st.text(st.characters(max_codepoint=255), max_size=60))
def test_odd_hosts_are_refused_and_never_an_error(text):
    """Bytes of any kind, as latin-1: the answer is a name of two labels at most, without dots, or nothing."""
    for host in (text, f"{text}.localhost", f"web.{text}.localhost:8080"):
        name = parse_host(host)
        if name is not None:
            assert name.agent
            assert "." not in name.agent + name.endpoint
            assert (f"{name.endpoint}." if name.endpoint else "") + name.agent + ".localhost" == bare(host)


@given(st.lists(LABELS, min_size=3, max_size=6), PORTS)
def test_more_labels_are_nobodys(labels, port):
    """A third label is not ignored."""
    assert parse_host(".".join(labels) + ".localhost" + port) is None


@given(LABELS, LABELS, st.from_regex(r"[a-z]{2,8}", fullmatch=True).filter(lambda tld: tld != "localhost"))
def test_names_of_other_zones_are_nobodys(endpoint, agent, zone):
    """However they begin."""
    assert parse_host(f"{endpoint}.{agent}.{zone}") is None
    assert parse_host(f"{endpoint}.{agent}.localhost.{zone}") is None


def test_only_ascii_digits_are_a_port():
    """A superscript two is a digit to Python, and not to whoever reads the port as a number."""
    assert parse_host("web.myapp.localhost:²") is None


def test_urls_are_under_the_proxys_address():
    """One each, in the order of the config."""
    ports = {"web": 3000, "my-api": 8000}
    assert make_urls("fox", ports, "http://localhost:8080") == {
        "web": "http://web.fox.localhost:8080",
        "my-api": "http://my-api.fox.localhost:8080",
    }
    assert make_urls("fox", {}, "http://localhost:8080") == {}


@pytest.mark.parametrize(
    ("port", "base", "host"),
    [
        (8080, "http://localhost:8080", "web.fox.localhost:8080"),
        (80, "http://localhost", "web.fox.localhost"),
        (443, "http://localhost:443", "web.fox.localhost:443"),
        (65535, "http://localhost:65535", "web.fox.localhost:65535"),
    ],
)
def test_the_port_is_left_out_where_a_browser_leaves_it_out(port, base, host):
    """At 80, and for HTTP alone."""
    assert base_url(port) == Running(1, port, 0.0).base == base
    assert make_urls("fox", {"web": 1}, base) == {"web": f"http://{host}"}
    assert make_env("fox", {"web": 1}, base)["MOAT_HOST_WEB"] == host


def test_a_run_is_told_all_of_its_names():
    """Hyphens are underscores in variables and stay in names; the older spelling is there, too."""
    assert make_env("fox", {"web": 3000, "my-api": 8000}, "https://localhost:8443") == {
        "MOAT_HOST": "fox.localhost:8443",
        "MOAT_URL": "https://fox.localhost:8443",
        "MOAT_HOST_WEB": "web.fox.localhost:8443",
        "MOAT_URL_WEB": "https://web.fox.localhost:8443",
        "AGENTOPS_URL_WEB": "https://web.fox.localhost:8443",
        "MOAT_HOST_MY_API": "my-api.fox.localhost:8443",
        "MOAT_URL_MY_API": "https://my-api.fox.localhost:8443",
        "AGENTOPS_URL_MY_API": "https://my-api.fox.localhost:8443",
    }
    assert make_env("fox", {}, "http://localhost:8080") == {}


@given(LABELS, st.dictionaries(LABELS, st.integers(1, 65535), min_size=1, max_size=5), st.integers(1, 65535))
def test_what_a_run_is_told_leads_back_to_it(agent, endpoints, port):
    """Every variable can be one, and its host is that endpoint of that agent."""
    base = base_url(port)
    env = make_env(agent, endpoints, base)
    assert all(key.isidentifier() and key == key.upper() for key in env)
    assert len(env) == 2 + 3 * len(endpoints)
    assert parse_host(env["MOAT_HOST"]) == Name(agent)
    for endpoint, url in make_urls(agent, endpoints, base).items():
        assert is_name(endpoint)
        assert parse_host(url.removeprefix("http://")) == Name(agent, endpoint)
