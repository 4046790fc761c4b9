"""``moat proxy …`` and ``moat open``, as they are typed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from routing_process import get, kill, proxies, sweep, wait_until
from routing_world import World, free_port

from moat_core.errors import HostError, UsageError
from moat_plugins.routing import cli
from moat_plugins.routing.cli import _home
from moat_plugins.routing.process import Holding, Running, User, find

pytestmark = pytest.mark.moat(plugins=["routing"])
CLI = [sys.executable, "-c", "import sys; from moat_core.cli.main import main; sys.exit(main())"]
USAGE, OURS = 2, 125


@pytest.fixture
def home(moat):
    yield Path(moat.home.path)
    sweep(moat.home.path)


@pytest.fixture
def world(home):
    world = World(home)
    yield world
    world.close()


@pytest.fixture
def taken():
    """A port that this process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.fixture
def proxy(moat, home):
    """Run ``moat proxy …``."""
    return lambda *argv, **options: moat.cli("proxy", *argv, **options)


def test_its_whole_life(proxy, home):
    """Start, start again, status, restart, stop, stop again; each says what it did."""
    done = proxy("status")
    assert (done.returncode, done.stdout, done.stderr) == (1, "The proxy does not run.\n", "")
    done = proxy("status", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (1, {"running": False})
    done = proxy("start", "--port", "0", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    begun = json.loads(done.stdout)
    assert begun["url"] == f"http://localhost:{begun['port']}"
    assert find(home).pid == begun["pid"]
    done = proxy("start")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"The proxy runs at {begun['url']} (pid {begun['pid']}).\n"
    done = proxy("status")
    assert done.returncode == 0
    assert done.stdout.startswith(f"The proxy runs at {begun['url']} (pid {begun['pid']}, for ")
    told = json.loads(proxy("status", "--json").stdout)
    assert told == {"running": True, **begun, "runs": [], "version": told["version"]}
    done = proxy("restart", "--json")
    again = json.loads(done.stdout)
    assert (done.returncode, again["port"], again["pid"] != begun["pid"]) == (0, begun["port"], True)
    done = proxy("stop")
    assert (done.returncode, done.stderr) == (0, f"The proxy on port {begun['port']} has ended.\n")
    done = proxy("stop")
    assert (done.returncode, done.stderr) == (0, "The proxy does not run.\n")
    assert find(home) is None


def test_status_tells_what_is_served(proxy, world):
    """Each endpoint by its address, its port inside and its run."""
    proxy("start", "--port", "0")
    fox = world.run("fox", web=3000, api=8000).remember()
    port = find(Path(world.home.path)).port
    lines = proxy("status").stdout.splitlines()[1:]
    assert [line.strip() for line in lines] == [
        f"http://web.fox.localhost:{port}/ is port 3000 of fox ({fox.id})",
        f"http://api.fox.localhost:{port}/ is port 8000 of fox ({fox.id})",
    ]
    (run,) = json.loads(proxy("status", "--json").stdout)["runs"]
    assert (run["id"], run["ports"]) == (fox.id, {"web": 3000, "api": 8000})


def test_options_that_come_too_late_are_told(proxy, moat, home):
    """It was started with others: by the verb, by a run; and what nobody asked for is no difference."""
    proxy("start", "--port", "0")
    moat.file("agent.yaml", "ports: {web: 3000}\nproxy: {timeout: 5s, idle: 10m}\n")
    warning = "warning: `proxy.timeout` is 5 s here, and the proxy that runs was started with 120 s."
    for done in (proxy("start"), moat.cli("run", "--", "true")):
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("the proxy that runs was started with") == 1
        assert warning in done.stderr
        assert "moat proxy restart" in done.stderr
    assert find(home).options == {"idle": 600.0, "timeout": 120.0}
    proxy("restart")
    assert find(home).options == {"idle": 600.0, "timeout": 5.0}
    assert "warning" not in proxy("start").stderr


def test_a_restart_that_cannot_be_leaves_what_runs(home, monkeypatch, moat):
    """Its own port may take root to listen on: that is told before anything is ended."""
    moat.cli("proxy", "start", "--port", "0")
    running = find(home)

    def refuse(port):
        raise HostError(f"Port {port} may only be listened on by root.")

    monkeypatch.setattr(cli, "bind", refuse)
    with pytest.raises(HostError, match="only be listened on by root"):
        cli.restart.callback(port=None, as_json=False)
    assert find(home) == running


def test_status_of_one_that_does_not_answer(proxy, home):
    """It holds the lock and serves nobody: that is said."""
    holding = Holding(home)
    assert holding.claim()
    holding.tell(Running(os.getpid(), free_port(), 1.0))
    told = json.loads(proxy("status", "--json").stdout)
    assert (told["running"], "does not answer" in told["error"]) == (True, True)
    assert "does not answer" in proxy("status").stdout
    holding.release()


@pytest.mark.parametrize("argv", [[], ["start"], ["stop"], ["restart"], ["status"], ["ca"], ["ca", "path"]])
def test_help_is_there(proxy, argv):
    """For the group and each of its verbs."""
    done = proxy(*argv, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: moat proxy{' ' if argv else ''}{' '.join(argv)} ")


def test_help_names_all(moat):
    """``moat --help`` the verbs, theirs the rest."""
    said = moat.cli("--help").stdout
    assert "\n  proxy " in said
    assert "\n  open " in said
    said = moat.cli("proxy", "--help").stdout
    assert all(f"\n  {verb} " in said for verb in ("start", "stop", "restart", "status", "ca"))
    said = moat.cli("open", "--help").stdout
    assert "[AGENT] [ENDPOINT]" in said
    assert "--print" in said


@pytest.mark.parametrize(
    "argv",
    [
        ["proxy", "start", "--port", "web"], ["proxy", "start", "--port", "65536"], ["proxy", "start", "--port", "-1"],
        ["proxy", "start", "extra"], ["proxy", "begin"], ["proxy", "stop", "--port", "1"], ["proxy", "status", "all"],
        ["proxy", "restart", "--foreground"], ["proxy", "ca", "burn"], ["open", "a", "b", "c"], ["open", "--browser"],
        ["proxy"],
    ],
)  # fmt: skip
def test_wrong_arguments_are_usage_errors(moat, home, argv):
    """Nothing is started, and no traceback is shown."""
    done = moat.cli(*argv)
    assert done.returncode == USAGE
    assert "Traceback" not in done.stderr
    assert find(home) is None


@pytest.mark.parametrize(
    ("text", "environ"),
    [("proxy: {port: web}\n", {}), ("proxy: {port: 70000}\n", {}), ("proxy: {idle: 0}\n", {}),
     ("", {"MOAT_PROXY_PORT": "web"}), ("", {"MOAT_PROXY_PORT": "70000"})],
)  # fmt: skip
def test_wrong_options_are_usage_errors(moat, proxy, home, text, environ):
    """Of the config and of the environment; it is said where they are."""
    moat.file("agent.yaml", text)
    done = proxy("start", env=environ)
    assert done.returncode == USAGE, done.stderr
    assert ("MOAT_PROXY_PORT" if environ else "agent.yaml") in done.stderr
    assert find(home) is None


def test_the_port_is_the_flags_then_the_environments_then_the_configs(moat, proxy, home):
    """The first of them that is there."""
    ports = [free_port() for _ in range(3)]
    moat.file("agent.yaml", f"proxy: {{port: {ports[0]}}}\n")
    moat.trust()
    for environ, argv, port in (
        ({}, [], ports[0]),
        ({"MOAT_PROXY_PORT": str(ports[1])}, [], ports[1]),
        ({"MOAT_PROXY_PORT": str(ports[1])}, ["--port", str(ports[2])], ports[2]),
    ):
        done = proxy("start", *argv, env=environ)
        assert (done.returncode, find(home).port) == (0, port), done.stderr
        kill(home)


def test_a_taken_port_is_an_error_with_both_ways_out(proxy, home, taken):
    """Also as JSON, and in the foreground."""
    done = proxy("start", "--port", str(taken))
    assert (done.returncode, done.stdout) == (OURS, "")
    assert f"Port {taken} of this machine is taken by" in done.stderr
    assert f"(pid {os.getpid()})" in done.stderr
    assert "End that program" in done.stderr
    assert "--port" in done.stderr
    error = json.loads(proxy("start", "--json", "--port", str(taken)).stderr)["error"]
    assert error["code"] == "port-taken"
    assert proxy("start", "--foreground", "--port", str(taken)).returncode == OURS
    assert find(home) is None


def test_another_port_is_an_error_with_both(proxy, home):
    """Which `restart` mends."""
    proxy("start", "--port", "0")
    first, other = find(home), free_port()
    for argv in (["start"], ["start", "--foreground"]):
        done = proxy(*argv, "--port", str(other))
        assert done.returncode == OURS
        assert f"runs on port {first.port}; port {other} was asked for" in done.stderr
        assert f"moat proxy restart --port {other}" in done.stderr
    assert find(home) == first
    done = proxy("restart", "--port", str(other))
    assert (done.returncode, find(home).port) == (0, other), done.stderr
    assert get(other)[0] == 200


def test_restart_starts_one_that_does_not_run(proxy, home):
    """On the port that is asked for."""
    port = free_port()
    done = proxy("restart", "--port", str(port))
    assert (done.returncode, find(home).port) == (0, port)


def test_a_restart_that_cannot_be_leaves_the_one_that_runs(proxy, home, taken):
    """The runs are not to lose it because somebody else has the port that it was to move to."""
    proxy("start", "--port", "0")
    first = find(home)
    assert proxy("restart", "--port", str(taken)).returncode == OURS
    assert find(home) is not None
    assert get(first.port)[0] == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_the_foreground_it_ends_with_its_terminal(moat, proxy, home, number):
    """It is one like the others, and does not end for want of runs; a second one is told of it."""
    argv = [*CLI, "proxy", "start", "--foreground", "--port", "0"]
    with subprocess.Popen(argv, cwd=moat.workspace, stderr=subprocess.PIPE, text=True) as shown:
        try:
            assert shown.stderr.readline().startswith("The proxy runs at http://localhost:")
            running = find(home)
            assert running.pid == shown.pid
            assert get(running.port)[0] == 200
            done = proxy("start", "--foreground")
            assert (done.returncode, f"already, on port {running.port}" in done.stderr) == (USAGE, True)
            assert proxy("start").returncode == 0
            assert proxies(home) == []
        finally:
            shown.send_signal(number)
        assert shown.wait(20) == 0
        assert "Traceback" not in shown.stderr.read()
    assert find(home) is None


def test_in_the_foreground_it_can_say_json(moat, home):
    """One object on stdout, and nothing else."""
    argv = [*CLI, "proxy", "start", "--foreground", "--port", "0", "--json"]
    with subprocess.Popen(argv, cwd=moat.workspace, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as shown:
        wait_until(lambda: find(home) is not None)
        running = find(home)
        shown.send_signal(signal.SIGTERM)
        out, err = shown.communicate(timeout=20)
    assert json.loads(out or "null") == {**running.to_json(), "url": running.base}
    assert err == b""


def test_in_the_foreground_beside_one_that_is_not_ready_yet(proxy, home):
    """It does not end as if all had been well."""
    holding = Holding(home)
    assert holding.claim()
    done = proxy("start", "--foreground", "--port", "0")
    holding.release()
    assert done.returncode in {USAGE, OURS}
    assert done.stderr


def test_the_ca_is_told(proxy, home):
    """Its path; it is made if it is not there, and so is the state folder, for nobody else."""
    done = proxy("ca", "path")
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()) == home / "proxy" / "ca" / "ca.pem"
    assert b"BEGIN CERTIFICATE" in (home / "proxy" / "ca" / "ca.pem").read_bytes()
    assert (home.stat().st_mode | (home / "proxy").stat().st_mode) & 0o077 == 0


def test_sudo_uses_its_callers_state(tmp_path, monkeypatch):
    """Not root's, whose HOME it may have."""
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    caller = User(1000, 1000, (), {"HOME": str(tmp_path / "caller")})
    assert _home(caller) == tmp_path / "caller" / ".local" / "state" / "moat"
    caller = User(1000, 1000, (), {"HOME": str(tmp_path / "caller"), "MOAT_HOME": "~/elsewhere"})
    assert _home(caller) == tmp_path / "caller" / "elsewhere"


def test_root_makes_no_ca_in_another_users_folder(home, monkeypatch):
    """`sudo moat proxy ca …` would leave files there that their user's proxy cannot read."""
    monkeypatch.setattr(cli, "_caller", lambda: User(1000, 1000, (), {"MOAT_HOME": str(home)}))
    with pytest.raises(UsageError, match="CA is its user's") as caught:
        cli._authority()
    assert "without sudo" in caught.value.hint
    assert not home.exists()


@pytest.fixture
def opened(moat, world):
    """Run ``moat open … --print``: its status, and what it says. A proxy that it starts takes any free port."""
    moat.file("agent.yaml", "proxy: {port: 0}\n")
    moat.trust()

    def run(*argv):
        done = moat.cli("open", *argv, "--print")
        return done.returncode, done.stdout if done.returncode == 0 else done.stderr

    return run


def test_open_prints_where_an_endpoint_is(opened, world, home):
    """By name, by id and by its beginning; the default one without a name, or the page of all."""
    fox = world.run("fox", web=3000).remember()
    world.run("owl", web=3000, api=8000).remember(created=fox.store.run(fox.id).created + 1)
    world.run("cat", web=3000, default=8000).remember(created=1.0)
    status, said = opened("fox")
    base = f"localhost:{find(home).port}\n"
    assert (status, said) == (0, f"http://web.fox.{base}")
    assert opened(fox.id) == (0, f"http://web.fox.{base}")
    assert opened(fox.id[:-1]) == (0, f"http://web.fox.{base}")
    assert opened("owl", "api") == (0, f"http://api.owl.{base}")
    assert opened("owl") == opened() == (0, f"http://owl.{base}")
    assert opened("cat") == (0, f"http://cat.{base}")


def test_open_says_what_there_is_instead(opened, world):
    """Unknown names, no runs, no endpoints: usage errors with a hint, and nothing on stdout."""
    status, said = opened()
    assert (status, "No run with ports" in said) == (USAGE, True)
    world.run("fox", web=3000, api=8000).remember()
    status, said = opened("fax")
    assert (status, "fox" in said) == (USAGE, True)
    status, said = opened("fox", "wbe")
    assert (status, "api, web" in said) == (USAGE, True)
    world.run("owl").remember(ports={}, urls={})
    status, said = opened("owl")
    assert (status, "no endpoints" in said) == (USAGE, True)
    over = world.run("cat").remember()
    over.end()
    status, said = opened("cat")
    assert (status, "is over" in said) == (OURS, True)


def test_open_does_not_lead_to_a_dead_run(opened, world):
    """Its owner was killed, and nobody has undone it yet."""
    world.run("fox").remember().die()
    assert opened("fox")[0] != 0
    assert opened()[0] == USAGE


def test_open_leads_to_where_the_proxy_is_now(opened, proxy, world):
    """It has been moved to another port since the run began."""
    world.run("fox").remember()
    proxy("start", "--port", "0")
    port = find(Path(world.home.path)).port
    assert opened("fox") == (0, f"http://web.fox.localhost:{port}\n")


def test_open_of_a_run_without_routing_names_an_address_that_is_one(opened, world):
    """Started without this plugin it has one address an endpoint, and no page that lists them."""
    urls = {"web": "http://127.0.0.1:4001", "api": "http://127.0.0.1:4002"}
    world.run("fox", web=3000, api=8000).remember(urls=urls)
    assert opened("fox", "api") == (0, "http://127.0.0.1:4002\n")
    status, said = opened("fox")
    assert status != 0 or said.strip() in {*urls.values(), "http://fox.localhost:8080"}


def test_open_starts_a_browser(moat, opened, world, tmp_path):
    """With that address, which is shown as well."""
    world.run("fox").remember()
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/new && mv {tmp_path}/new {tmp_path}/opened\n')
    browser.chmod(0o755)
    done = moat.cli("open", "fox", env={"BROWSER": f"{browser} %s"})
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    url = f"http://web.fox.localhost:{find(Path(world.home.path)).port}\n"
    assert done.stderr == url
    wait_until((tmp_path / "opened").exists)
    assert (tmp_path / "opened").read_text() == url


def test_open_without_a_browser_says_so(moat, opened, world):
    """And what to do."""
    world.run("fox").remember()
    done = moat.cli("open", "fox", env={"BROWSER": "/nowhere/browser %s", "PATH": "/nowhere", "DISPLAY": ""})
    assert done.returncode == OURS
    assert "Open it yourself: http://web.fox.localhost" in done.stderr
