"""What a run with ports is told, claims and writes down; on the fake engine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from routing_ports import Publishes
from routing_process import OPTIONS, begin, sweep, wait_until
from routing_world import Backend, World, ask, free_port

from moat_core import MoatError
from moat_core.errors import PlanError
from moat_core.ledger import LedgerView
from moat_plugins.routing.process import PortMismatch, ensure, find
from moat_plugins.routing.resources import AgentName, Route
from moat_plugins.routing.sockets import PortTaken

pytestmark = pytest.mark.moat(plugins=["routing"])
PORTS = {"web": 3000, "my-api": 8000}


@pytest.fixture
def home(moat):
    """A ``MOAT_HOME`` whose proxy takes any port that is free."""
    moat.file("agent.yaml", "proxy: {port: 0}\n")
    moat.trust()
    yield Path(moat.home.path)
    sweep(moat.home.path)


def rows(home):
    """What the ledger has of routing: kind and run."""
    view = LedgerView(home, [AgentName, Route])
    try:
        return [(entry.resource.kind.partition(".")[2], entry.run_id) for entry in view.read()]
    finally:
        view.close()


def told(plan):
    """What the run is told of its names."""
    words = ("MOAT_HOST", "MOAT_URL", "AGENTOPS_URL")
    return {key: item.value for key, item in plan.env.items() if key.startswith(words)}


def test_a_plan_tells_the_run_its_names(moat):
    """With the port that the proxy is asked to have."""
    plan = moat.plan(name="fox", ports=PORTS)
    assert told(plan) == {
        "MOAT_HOST": "fox.localhost:8080",
        "MOAT_URL": "http://fox.localhost:8080",
        "MOAT_HOST_WEB": "web.fox.localhost:8080",
        "MOAT_URL_WEB": "http://web.fox.localhost:8080",
        "AGENTOPS_URL_WEB": "http://web.fox.localhost:8080",
        "MOAT_HOST_MY_API": "my-api.fox.localhost:8080",
        "MOAT_URL_MY_API": "http://my-api.fox.localhost:8080",
        "AGENTOPS_URL_MY_API": "http://my-api.fox.localhost:8080",
    }
    assert [note.text for note in plan.notes if "routed" in note.text] == [
        "an endpoint is routed at http://web.fox.localhost:8080, or at the port where the proxy runs",
        "an endpoint is routed at http://my-api.fox.localhost:8080, or at the port where the proxy runs",
    ]


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("proxy: {port: 9000}", {}, "fox.localhost:9000"),
        ("proxy: {port: 80}", {}, "fox.localhost"),
        ("proxy: {port: 9000}", {"MOAT_PROXY_PORT": "9001"}, "fox.localhost:9001"),
        ("", {"MOAT_PROXY_PORT": "80"}, "fox.localhost"),
    ],
)
def test_the_port_comes_from_the_config_and_the_environment(moat, monkeypatch, text, environ, expected):
    """The environment wins."""
    moat.file("agent.yaml", f"ports: {{web: 3000}}\n{text}\n")
    for key, value in environ.items():
        monkeypatch.setenv(key, value)
    plan = moat.plan(name="fox")
    assert plan.env["MOAT_HOST"].value == expected
    assert plan.env["MOAT_URL_WEB"].value == f"http://web.{expected}"


def test_a_run_without_ports_is_told_nothing(moat, home):
    """And claims nothing, so that no proxy is started for it."""
    assert told(moat.plan(name="fox")) == {}
    assert moat.cli("run", "--name", "fox", "--", "true").returncode == 0
    assert find(home) is None
    assert rows(home) == []


def test_ports_of_config_and_request_are_joined(moat):
    """The request's number wins for an endpoint of both."""
    moat.file("agent.yaml", "ports: {web: 3000}\n")
    plan = moat.plan(name="fox", ports={"api": 8000, "web": 3001})
    assert {key for key in told(plan) if key.startswith("MOAT_URL_")} == {"MOAT_URL_WEB", "MOAT_URL_API"}


@pytest.mark.parametrize("how", ["config", "request"])
def test_the_users_own_value_wins(moat, how):
    """Whatever is set by hand stays."""
    moat.file("agent.yaml", "env: {MOAT_URL: mine}\n" if how == "config" else "")
    plan = moat.plan(name="fox", ports={"web": 3000}, env={"MOAT_URL": "mine"} if how == "request" else {})
    assert plan.env["MOAT_URL"].value == "mine"
    assert plan.env["MOAT_URL_WEB"].value == "http://web.fox.localhost:8080"


@pytest.mark.parametrize("where", ["name", "--name"])
def test_the_pages_own_name_is_nobodys(moat, where):
    """An agent called ``moat`` could not be reached; one without ports may be called so."""
    moat.file("agent.yaml", "name: moat\n" if where == "name" else "")
    request = {"name": "moat"} if where == "--name" else {}
    with pytest.raises(PlanError) as caught:
        moat.plan(ports={"web": 3000}, **request)
    (problem,) = caught.value.problems
    assert (problem.where, "moat.localhost" in problem.message) == (where, True)
    assert moat.plan(**request).name == "moat"


@pytest.mark.parametrize("name", ["Fox", "fox.box", "-fox", "fox_box", "", "f" * 64, "fox box"])
def test_names_are_labels(moat, name):
    """Checked when the plan is made, for agents and endpoints."""
    if name:
        with pytest.raises(MoatError):
            moat.plan(name=name, ports={"web": 3000})
    with pytest.raises(MoatError):
        moat.plan(name="fox", ports={name: 3000})
    moat.file("agent.yaml", f"ports: {{{json.dumps(name)}: 3000}}\n")
    with pytest.raises(MoatError):
        moat.plan(name="fox")


def test_dry_run_shows_what_it_would_be_told(moat):
    """And starts nothing."""
    home = Path(moat.home.path)
    done = moat.cli("run", "--dry-run", "--name", "fox", "--port", "web=3000", "--", "true")
    assert done.returncode == 0, done.stderr
    assert "http://web.fox.localhost:8080" in done.stdout
    plan = json.loads(
        moat.cli("run", "--dry-run", "--json", "--name", "fox", "--port", "web=3000", "--", "true").stdout
    )
    assert "MOAT_URL_WEB" in json.dumps(plan)
    assert find(home) is None
    assert not home.exists()


async def test_a_run_brings_the_proxy_and_tells_its_real_port(moat, home):
    """In the container's environment, in `url` and in listings; what the user has set stays."""
    async with moat.moat() as library:
        options = {"name": "fox", "ports": PORTS, "env": {"MOAT_HOST": "mine", "MOAT_URL_WEB": "http://mine"}}
        async with library.run(moat.workspace, **options) as run:
            running = find(home)
            base = f"fox.localhost:{running.port}"
            assert run.urls == {"web": f"http://web.{base}", "my-api": f"http://my-api.{base}"}
            (container,) = moat.engine.containers().values()
            env = container["env"]
            assert (env["MOAT_HOST"], env["MOAT_URL_WEB"]) == ("mine", "http://mine")
            assert env["MOAT_URL"] == f"http://{base}"
            assert env["AGENTOPS_URL_MY_API"] == env["MOAT_URL_MY_API"] == f"http://my-api.{base}"
            (info,) = await library.list()
            assert info.urls == run.urls
            assert rows(home) == [("name", run.id), ("route", run.id), ("route", run.id)]  # nowhere, as yet
            assert (await ask(running.port, "web.fox.localhost")).code == "starting"
        assert rows(home) == []
        assert (await ask(running.port, "web.fox.localhost")).code == "run-ended"


async def test_what_the_user_has_set_stays_although_it_is_what_would_have_been(moat, home):
    """By hand is by hand: it may be the address of another proxy."""
    async with moat.moat() as library:
        options = {"name": "fox", "ports": {"web": 3000}, "env": {"MOAT_URL": "http://fox.localhost:8080"}}
        async with library.run(moat.workspace, **options):
            (container,) = moat.engine.containers().values()
            assert container["env"]["MOAT_URL"] == "http://fox.localhost:8080"
            assert container["env"]["MOAT_URL_WEB"] == f"http://web.fox.localhost:{find(home).port}"


async def test_a_run_is_reached_where_its_engine_published_it(moat, home):
    """And where it has moved to: nobody has to ask, and it is never without a route in between."""
    async with Backend("old") as old, Backend("new") as new:
        moat.register(Publishes({3000: old.port}))
        async with moat.moat() as library, library.run(moat.workspace, name="fox", ports={"web": 3000}) as run:
            port = find(home).port
            assert (await reached(port, "web.fox.localhost")) == "old"
            assert rows(home) == [("name", run.id), ("route", run.id)]
            run.run.follow({3000: new.port})
            assert rows(home) == [("name", run.id), ("route", run.id)]
            assert (await reached(port, "web.fox.localhost", no_more={"old"})) == "new"
            run.run.follow({})
            assert (await reached(port, "web.fox.localhost", no_more={"new"})) == "starting"  # it is nowhere
            run.run.follow({3000: old.port})
            assert (await reached(port, "web.fox.localhost")) == "old"
        assert rows(home) == []


async def reached(port, host, *, no_more=frozenset({"starting", "unknown-agent"})):
    """What is said at HOST once the proxy knows that it is there, or whatever else has changed."""
    with anyio.fail_after(5):
        while (said := (await ask(port, host)).said) in no_more:
            pass
    return said


async def test_a_name_in_use_is_told_with_the_run_that_has_it(moat, home):
    """Nothing is made of the second; without ports it may be called so, and so it may when the first is over."""
    async with moat.moat() as library:
        options = {"name": "fox", "ports": {"web": 3000}}
        async with library.run(moat.workspace, **options) as first:
            with pytest.raises(MoatError) as caught:
                async with library.run(moat.workspace, **options):
                    pytest.fail("it has the name")
            assert caught.value.code == "name-in-use"
            assert first.id in caught.value.message
            assert "--name" in caught.value.hint
            assert rows(home) == [("name", first.id), ("route", first.id)]
            assert len(moat.engine.containers()) == 1
            async with library.run(moat.workspace, name="fox"):
                assert len(moat.engine.containers()) == 2
            async with library.run(moat.workspace, name="owl", ports={"web": 3000}) as other:
                assert [row for row in rows(home) if row[0] == "name"] == [("name", first.id), ("name", other.id)]
        async with library.run(moat.workspace, **options) as second:
            assert rows(home) == [("name", second.id), ("route", second.id)]
    assert moat.left() == []


async def test_of_many_that_want_a_name_at_once_one_has_it(moat, home):
    """All the others are told which."""
    async with moat.moat() as library:
        outcomes, over = [], anyio.Event()

        def note(outcome):
            outcomes.append(outcome)
            if len(outcomes) == 8:
                over.set()

        async def attempt():
            try:
                async with library.run(moat.workspace, name="fox", ports={"web": 3000}) as run:
                    note(run.id)
                    await over.wait()
            except MoatError as error:
                note(error.code)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for _ in range(8):
                    group.start_soon(attempt)
        assert outcomes.count("name-in-use") == 7
        assert sum(word.startswith("run-") for word in outcomes) == 1
    assert moat.left() == []


async def test_a_dead_owners_name_is_free(moat, home):
    """Its rows may still be there."""
    world = World(home)
    world.run("fox").route(web=4001).die()
    async with moat.moat() as library, library.run(moat.workspace, name="fox", ports={"web": 3000}) as run:
        assert (await ask(find(home).port, "web.fox.localhost")).code == "starting"
        assert ("name", run.id) in rows(home)
    world.close()


async def test_a_port_that_cannot_be_had_ends_the_run_before_anything_is_made(moat, home):
    """Taken by another program, or not where the proxy runs: the error is the proxy's, and no row is left."""
    async with moat.moat() as library, Backend("other") as other:
        moat.file("agent.yaml", f"proxy: {{port: {other.port}}}\n")
        with pytest.raises(PortTaken):
            async with library.run(moat.workspace, name="fox", ports={"web": 3000}):
                pytest.fail("it has no proxy")
        await ensure(home, 0, OPTIONS)
        with pytest.raises(PortMismatch):
            async with library.run(moat.workspace, name="fox", ports={"web": 3000}):
                pytest.fail("its proxy is elsewhere")
    assert moat.engine.containers() == {}
    assert moat.left() == []


async def test_a_run_finds_the_proxy_that_another_is_starting(moat, home):
    """At the same moment, on one port."""
    port = free_port()
    moat.file("agent.yaml", f"proxy: {{port: {port}}}\n")
    starter = begin(home, port)
    async with moat.moat() as library:
        starter.stdin.write("\n")
        starter.stdin.flush()
        async with library.run(moat.workspace, name="fox", ports={"web": 3000}) as run:
            assert run.url("web") == f"http://web.fox.localhost:{port}"
    assert json.loads(starter.communicate()[0])["pid"] == find(home).pid


async def test_a_proxy_that_is_slow_to_start_fails_no_run(moat, home, monkeypatch):
    """It is warned, and its names are reached once the proxy is there."""
    port = free_port()
    moat.file("agent.yaml", f"proxy: {{port: {port}}}\n")
    warned = []
    async with moat.moat() as library:
        with monkeypatch.context() as patch:
            patch.setattr("moat_plugins.routing.process._START_S", 0.05)
            handle = library.run(
                moat.workspace, config="workspace", name="fox", ports={"web": 3000}, on_event=warned.append
            )
            await handle.__aenter__()
        assert [each for each in warned if "did not say within" in str(getattr(each, "problem", ""))]
        assert handle.url("web") == f"http://web.fox.localhost:{port}"
        while find(home) is None:
            await anyio.sleep(0.05)
        assert find(home).port == port
        await handle.aclose()


def looked(moat):
    """The runs that the store knows."""
    store = moat.store()
    try:
        return store.runs()
    finally:
        store.close()


def test_a_killed_owner_leaves_no_name(moat, home):
    """Whoever undoes what it left takes the claim, too: the name can be had again, and it is said that it has ended."""
    moat.engine.reply(["serve"], hangs=True)
    command = [sys.executable, "-c", "import sys; from moat_core.cli.main import main; sys.exit(main())"]
    owner = subprocess.Popen(
        [*command, "run", "--name", "fox", "--port", "web=3000", "--", "serve"],
        cwd=moat.workspace, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        wait_until(lambda: any(row.urls for row in looked(moat)))
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
    wait_until(lambda: rows(home) == [])
    wait_until(lambda: moat.left() == [])
    answer = anyio.run(ask, find(home).port, "web.fox.localhost")
    assert answer.code == "run-ended"
