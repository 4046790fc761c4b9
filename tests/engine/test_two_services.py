"""`examples/two-services`: two agents of one folder at once, each reached by its names, over HTTP and HTTPS."""

from __future__ import annotations

import html
import http.client
import json
import os
import re
import shutil
import ssl
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import pytest
from world import REPO

ENV = {"MOAT_PROXY_PORT": "0"}
NAMES = ("demo", "other")
_WAITING = {"starting", "not-listening"}


@pytest.fixture
def services(moat, tmp_path):
    """Both agents of a copy of the example, started at once: ``services(flags)`` -> name -> endpoint -> URL."""
    folder = tmp_path / "two-services"
    shutil.copytree(REPO / "examples/two-services", folder)

    def up(name, flags):
        words = [] if name == "demo" else ["--name", name]
        done = moat("run", "-d", *flags, *words, str(folder), env=ENV, timeout=300)
        assert done.returncode == 0, done.stderr.decode()

    def start(flags=()):
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: up(name, flags), NAMES))
        return {info["name"]: info["urls"] for info in json.loads(moat("list", "--json").stdout)}

    yield start
    moat("stop", "--all")
    moat("proxy", "stop")
    assert set(os.listdir(folder)) == set(os.listdir(REPO / "examples/two-services"))


@pytest.fixture
def fetch(moat):
    """Ask as a client does whose machine knows the names: ``fetch(url)`` -> status, headers, text.

    What only says that a service is not there yet is asked again.
    """

    def once(method, url, body, headers):
        parts = urlsplit(url)
        connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=60)
        connection.connect()
        if parts.scheme == "https":
            ca = moat("proxy", "ca", "path").stdout.decode().strip()
            context = ssl.create_default_context(cafile=ca)
            connection.sock = context.wrap_socket(connection.sock, server_hostname=parts.hostname)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request(method, target, body, {"Host": parts.netloc, **headers})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def fetch(url, method="GET", body=None, **headers):
        deadline = time.monotonic() + 30
        while True:
            status, got, text = once(method, url, body, headers)
            if got["Moat-Error"] not in _WAITING or time.monotonic() > deadline:
                return status, got, text
            time.sleep(0.05)

    return fetch


def _said_by_api(page):
    return json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", page, re.DOTALL)[1]))


@pytest.mark.parametrize("flags", [(), ("--no-sandbox",)], ids=["gvisor", "runc"])
def test_each_agent_answers_as_itself(services, fetch, moat, flags):
    """Two agents with the same ports: whichever is asked, over HTTP and HTTPS, says who it is and where its api is."""
    urls = services(flags)

    assert set(urls) == set(NAMES)
    bases = {urlsplit(url).port for endpoints in urls.values() for url in endpoints.values()}
    assert len(bases) == 1, "two proxies"
    port = bases.pop()
    runs = {info["name"]: info for info in json.loads(moat("list", "--json").stdout)}
    assert {info["oci_runtime"] for info in runs.values()} == {"runc" if flags else "runsc"}
    for name in NAMES:
        assert urls[name] == {each: f"http://{each}.{name}.localhost:{port}" for each in ("web", "api")}
        for scheme in ("http", "https"):
            status, _, text = fetch(f"{scheme}://api.{name}.localhost:{port}")
            told = json.loads(text)
            assert (status, told["agent"], told["run"]) == (200, name, runs[name]["id"])
            assert (told["host"], told["scheme"]) == (f"api.{name}.localhost:{port}", scheme)
            status, _, page = fetch(f"{scheme}://web.{name}.localhost:{port}")
            assert (status, _said_by_api(page)["run"]) == (200, runs[name]["id"])
            assert f"<title>web of {name}</title>" in page
            assert f'href="{urls[name]["api"]}"' in page


def test_a_login_and_a_webhook(services, fetch):
    """What docs/routing.md goes through: a login comes back to the agent that began it, and an event arrives at one."""
    urls = services()
    web = urls["demo"]["web"]

    status, sent, _ = fetch(f"{web}/login")
    assert (status, parse_qs(urlsplit(sent["Location"]).query)["redirect_uri"]) == (302, [f"{web}/callback"])
    assert sent["Location"].startswith(f"{urls['demo']['api']}/authorize?")
    status, back, _ = fetch(sent["Location"])
    assert (status, back["Location"].startswith(f"{web}/callback?code=")) == (302, True)
    cookie = sent["Set-Cookie"].partition(";")[0]
    status, _, page = fetch(back["Location"], Cookie=cookie)
    assert (status, "Logged in." in page) == (200, True)
    assert fetch(back["Location"])[0] == 400
    # The provider of one agent does not know the other's address.
    assert fetch(sent["Location"].replace("api.demo.", "api.other."))[0] == 400

    status, _, text = fetch(f"{urls['demo']['api']}/webhook", "POST", '{"type": "order.paid"}')
    assert (status, json.loads(text)) == (200, {"taken": True, "agent": "demo"})
    assert [json.loads(fetch(urls[name]["api"])[2])["webhook"] for name in NAMES] == ['{"type": "order.paid"}', None]


def test_what_the_page_says_of_errors(services, fetch, moat, world):
    """A name that nobody has, an endpoint that is none, a run that has ended: an error with its code, no other's page."""
    urls = services()
    port = urlsplit(urls["demo"]["web"]).port

    def error(host):
        status, headers, text = fetch(f"http://{host}:{port}")
        assert json.loads(text)["error"]["code"] == headers["Moat-Error"]
        return status, headers["Moat-Error"]

    assert error("web.dmo.localhost") == (404, "unknown-agent")
    assert error("wob.demo.localhost") == (404, "unknown-endpoint")
    assert error("web.demo.example") == (421, "unknown-host")
    moat("stop", "other")
    assert error("web.other.localhost") == (503, "run-ended")
    assert fetch(urls["demo"]["web"])[0] == 200
    assert moat("open", "demo", "web", "--print").stdout.decode().strip() == urls["demo"]["web"]
    again = moat("run", "-d", "--name", "demo", "-p", "web=3000", ".", env=ENV)
    assert (again.returncode, b"--name" in again.stderr) == (125, True)


def test_the_services_without_moat(tmp_path):
    """The example's program runs outside, too, and ends both services when it is told to end."""
    folder = tmp_path / "two-services"
    shutil.copytree(REPO / "examples/two-services", folder)
    script = (folder / "start.py").read_text()
    assert "PORT" not in script  # the ports may be taken here, so only syntax and the end are looked at
    for name in ("web.py", "api.py"):
        (folder / name).write_text("import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    with subprocess.Popen(["python3", "start.py"], cwd=folder, stdout=subprocess.PIPE) as program:
        assert [program.stdout.readline() for _ in range(2)] == [b"up\n"] * 2
        program.terminate()
        assert program.wait(10) == 0
        assert program.stdout.read() == b""  # nobody holds it open
