"""Where requests go, over real sockets: services say who they are, and nobody is ever answered by another's."""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import asynccontextmanager

import pytest
from routing_world import Backend, free_port, routing

from moat_core.store.log import LogWriter
from moat_plugins.routing.certificates import open_ca

pytestmark = pytest.mark.moat(plugins=["routing"])


@asynccontextmanager
async def serving(world, *names, **routes):
    """A run for each of NAMES, with one endpoint, and its service."""
    backends = [await Backend(name).__aenter__() for name in names]
    try:
        for backend in backends:
            world.run(backend.name).route(web=backend.port)
        yield backends
    finally:
        for backend in backends:
            await backend.stop()


@pytest.fixture
async def zoo(world):
    """``solo`` has one endpoint, ``pair`` two, ``trio`` a default one among its three."""
    backends = {}
    for name, *endpoints in (("solo", "only"), ("pair", "web", "api"), ("trio", "web", "api", "default")):
        run = world.run(name, **{endpoint: 3000 + number for number, endpoint in enumerate(endpoints)}).remember()
        for endpoint in endpoints:
            backend = backends[name, endpoint] = await Backend(f"{endpoint} of {name}").__aenter__()
            run.route(**{endpoint: backend.port})
    yield backends
    for backend in backends.values():
        await backend.stop()


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("only.solo.localhost", "only of solo"),
        ("solo.localhost", "only of solo"),
        ("web.pair.localhost", "web of pair"),
        ("api.pair.localhost", "api of pair"),
        ("trio.localhost", "default of trio"),
        ("default.trio.localhost", "default of trio"),
        ("api.trio.localhost", "api of trio"),
        ("WEB.Pair.LocalHost", "web of pair"),
        ("web.pair.localhost.", "web of pair"),
        ("PAIR.localhost.", "pair"),
        ("ap.pair.localhost", "unknown-endpoint"),
        ("default.pair.localhost", "unknown-endpoint"),
        ("default.solo.localhost", "unknown-endpoint"),
        ("web.solo.localhost", "unknown-endpoint"),
        ("web.nobody.localhost", "unknown-agent"),
        ("nobody.localhost", "unknown-agent"),
        ("web.localhost", "unknown-agent"),
        ("pair.web.localhost", "unknown-agent"),
        ("web.moat.localhost", "unknown-agent"),
        ("x.web.pair.localhost", "unknown-host"),
        ("web..localhost", "unknown-host"),
        (".pair.localhost", "unknown-host"),
        ("web.pair.localhost.evil.com", "unknown-host"),
        ("evil.com", "unknown-host"),
        ("10.0.0.1", "unknown-host"),
        ("web.pair.local", "unknown-host"),
    ],
)
async def test_each_name_leads_to_its_own_service_or_to_nobody(net, zoo, host, expected):
    """With the port, without one and with another: it is ignored."""
    for port in (f":{net.port}", "", ":1", ":80", ":65535", ":"):
        answer = await net.ask(host + port)
        if expected == "pair":  # two endpoints, and none is the default: the agent's own page
            assert (answer.status, answer.code) == (200, "")
            assert answer.json["name"] == "pair"
        else:
            assert answer.said == expected
    assert all(host.lower().rstrip(".") in head.lower() for backend in zoo.values() for head in backend.seen)


@pytest.mark.parametrize("number", range(3))
async def test_names_are_not_mixed_up_on_one_connection(net, zoo, number):
    """Requests for all of them, one after the other on a connection that is kept, and pipelined."""
    hosts = {
        "only.solo": "only of solo",
        "web.pair": "web of pair",
        "api.pair": "api of pair",
        "trio": "default of trio",
    }
    wanted = [*hosts.items()] * 5
    wanted = wanted[number:] + wanted[:number]
    reader, writer = await asyncio.open_connection("127.0.0.1", net.port)
    writer.write(b"".join(b"GET / HTTP/1.1\r\nHost: %b.localhost\r\n\r\n" % host.encode() for host, _ in wanted))
    async with asyncio.timeout(10):
        for _, expected in wanted:
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"200 OK" in head
            assert await reader.readexactly(len(expected)) == expected.encode()
    writer.close()


async def test_errors_say_what_there_is(net, zoo):
    """The nearest, and the list: of agents to whoever opens the address, of endpoints to everybody."""
    details = (await net.ask("web.pare.localhost:1")).details
    assert (details["nearest"], details["agents"]) == ("pair", ["pair", "solo", "trio"])
    details = (await net.ask("ap.pair.localhost:8080")).details
    assert (details["nearest"], [each["name"] for each in details["endpoints"]]) == ("api", ["web", "api"])
    assert details["endpoints"][0]["url"] == "http://web.pair.localhost:8080/"
    inside = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
    assert (await net.ask("web.pare.localhost", **inside)).details["agents"] == []
    assert (await net.ask("evil.com")).status == 421
    assert b"pair" not in (await net.ask("evil.com")).body


async def test_a_run_that_starts_is_said_to(net, world):
    """It has its name, and no container yet; once it has one, that is found."""
    fox = world.run("fox")
    answer = await net.ask("web.fox.localhost")
    assert (answer.status, answer.code) == (503, "starting")
    assert (await net.ask("api.fox.localhost")).code == "unknown-endpoint"
    async with Backend("fox") as backend:
        fox.route(web=backend.port)
        assert await net.said("web.fox.localhost") == "fox"


async def test_a_service_that_does_not_listen_yet_is_waited_for(net, world):
    """It is said so with the port inside; the page looks again by itself; once it listens, it is reached."""
    backend = Backend("fox", free_port())
    world.run("fox").route(web=backend.port)
    answer = await net.ask("web.fox.localhost")
    assert (answer.status, answer.code, answer.details["port"]) == (502, "not-listening", 3000)
    assert "retry-after" in answer.headers
    page = await net.ask("web.fox.localhost", accept="text/html")
    assert page.headers["content-type"].startswith("text/html")
    async with backend:
        assert await net.said("web.fox.localhost") == "fox"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "not-listening"),
        (ConnectionResetError(104, "Connection reset by peer"), "not-listening"),
        (OSError(24, "Too many open files"), "unreachable"),
        (OSError(113, "No route to host"), "unreachable"),
        (TimeoutError(110, "Connection timed out"), "too-slow"),
    ],
)
async def test_only_what_was_seen_is_said(net, world, monkeypatch, error, code):
    """That nothing listens is what a refusal says, and not that we have no file left."""
    world.run("fox").route(web=free_port())

    async def fail(*_):
        raise error

    monkeypatch.setattr(net.router.pool, "connect", fail)
    answer = await net.ask("web.fox.localhost")
    assert answer.code == code
    assert code != "unreachable" or error.strerror in answer.body.decode()


async def test_a_run_that_has_ended_is_said_to_have(net, world):
    """Its name first leads to it, then to what became of it, then to the next of that name."""
    async with serving(world, "fox") as (backend,):
        fox = world.runs[0].remember()
        assert await net.said("web.fox.localhost") == "fox"
        fox.end()
        answer = await net.ask("web.fox.localhost")
        assert (answer.status, answer.code, answer.details["run"]) == (503, "run-ended", fox.id)
        world.run("fox").route(web=backend.port)
        assert await net.said("web.fox.localhost") == "fox"


async def test_what_is_told_of_an_ended_run_is_how_it_ended(net, world):
    """Not what the index knew of it a moment before."""
    fox = world.run("fox").remember()
    assert [run["name"] for run in (await net.ask("localhost")).json["runs"]] == ["fox"]
    fox.end()
    details = (await net.ask("web.fox.localhost")).details
    assert (details["state"], details["exit_code"]) == ("exited", 0)


async def test_a_run_without_routes_is_not_said_to_have_ended(net, world):
    """One that was started without this plugin lives, and is no agent that could be reached by name."""
    fox = world.run("fox").remember(urls={"web": "http://127.0.0.1:4001"})
    world.store.forget_resource(fox.claim)
    assert await net.said("web.fox.localhost") == "unknown-agent"


async def test_a_run_that_is_new_is_found_by_the_next_request(net, world):
    """However short ago somebody else was answered: its address may have been printed just now."""
    async with serving(world, "fox"), Backend("new") as new:
        assert await net.said("web.fox.localhost") == "fox"
        world.run("new").route(web=new.port)
        assert await net.said("web.new.localhost", wait=False) == "new"


async def test_a_run_that_goes_is_known_within_a_moment(net, world):
    """What is answered until then comes from where the name led just before; never from another."""
    async with serving(world, "fox", "owl"), Backend("new") as new:
        for name in ("fox", "owl"):
            assert await net.said(f"web.{name}.localhost") == name
        fox, owl = world.runs
        fox.route(web=new.port)
        owl.remember().end()
        assert await net.said("web.fox.localhost", wait=False) in {"fox", "new"}
        assert await net.said("web.owl.localhost", wait=False) in {"owl", "run-ended"}
        assert await net.said("web.fox.localhost") == "new"
        assert await net.said("web.owl.localhost") == "run-ended"


async def test_a_dead_owners_port_in_anothers_hands_is_not_reached(net, world):
    """The owner was killed and its rows are there still; another run's container has got the port."""
    async with Backend("fox") as fox:
        dead = world.run("fox").route(web=fox.port).remember()
        assert await net.said("web.fox.localhost") == "fox"
    dead.die()
    async with Backend("owl", fox.port) as owl:
        assert await net.said("web.fox.localhost") == "run-ended"
        world.run("owl").route(web=owl.port)
        for _ in range(3):
            assert await net.said("web.owl.localhost") == "owl"
            assert await net.said("web.fox.localhost") == "run-ended"


async def test_a_route_that_the_proxy_itself_has_seen_go_is_forgotten(net, world):
    """It looks for its own sake, too (to end when nobody needs it): what it finds then counts for requests."""
    async with Backend("fox") as fox:
        run = world.run("fox").route(web=fox.port).remember()
        assert await net.said("web.fox.localhost:8080") == "fox"
    run.end()
    net.table.look(fresh=True)
    async with Backend("owl", fox.port) as owl:
        world.run("owl").route(web=owl.port)
        net.table.look(fresh=True)
        for _ in range(3):
            assert await net.said("web.owl.localhost:8080") == "owl"
            assert await net.said("web.fox.localhost:8080") == "run-ended"


async def test_a_container_that_moved_is_not_looked_for_where_another_is_now(net, world):
    """An engine that was restarted deals its ports out anew: each of two has the other's."""
    async with Backend("fox") as first, Backend("owl") as second:
        fox, owl = world.run("fox").route(web=first.port), world.run("owl").route(web=second.port)
        for name in ("fox", "owl"):
            assert await net.said(f"web.{name}.localhost") == name
    async with Backend("owl", first.port), Backend("fox", second.port):
        fox.route(web=second.port)
        owl.route(web=first.port)
        for _ in range(3):
            for name in ("fox", "owl"):
                assert await net.said(f"web.{name}.localhost") == name


async def test_of_two_live_runs_at_one_address_the_older_is_not_reached_there(net, world):
    """Its engine has given the port to the newer one: the older has yet to say where it is now."""
    async with Backend("fox") as fox:
        world.run("fox").route(web=fox.port)
        assert await net.said("web.fox.localhost") == "fox"
    async with Backend("owl", fox.port) as owl:
        world.run("owl").route(web=owl.port)
        assert await net.said("web.owl.localhost") == "owl"
        assert await net.said("web.fox.localhost") != "owl"


async def test_a_live_run_that_lost_its_address_is_not_said_to_have_ended(net, world):
    """It will be back where its engine has put it: whoever asks is to try again."""
    async with Backend("fox") as fox, Backend("new") as new:
        run = world.run("fox").route(web=fox.port).remember()
        assert await net.said("web.fox.localhost") == "fox"
        world.run("owl").route(web=fox.port)
        assert await net.said("web.fox.localhost") in {"starting", "not-listening"}
        run.route(web=new.port)
        assert await net.said("web.fox.localhost") == "new"


async def test_connections_of_the_one_before_are_not_used_for_the_next_at_its_address(net, world):
    """A service that goes serves on where it is connected, while the next one listens at its port already."""
    async with Backend("fox") as fox:
        run = world.run("fox").route(web=fox.port).remember()
        assert await net.said("web.fox.localhost") == "fox"
        await fox.stop_listening()
        async with Backend("owl", fox.port) as owl:
            run.end()
            world.run("owl").route(web=owl.port)
            assert await net.said("web.owl.localhost") == "owl"


async def test_a_route_that_goes_while_it_is_connected_to_is_not_used(net, world, monkeypatch):
    """Another run's service may be listening there by then: not one byte is sent to it."""
    port = free_port()
    fox = world.run("fox").route(web=port).remember()
    async with Backend("owl", port) as owl:
        connect = net.router.pool.connect

        async def slowly(address, owner):
            upstream = await connect(address, owner)
            fox.end()
            world.run("owl").route(web=port)
            return upstream

        monkeypatch.setattr(net.router.pool, "connect", slowly)
        assert await net.said("web.fox.localhost") == "run-ended"
        monkeypatch.undo()
        assert owl.seen == []
        assert await net.said("web.owl.localhost") == "owl"


async def test_an_owner_that_dies_while_it_is_connected_to_is_not_used(net, world, monkeypatch):
    """Its rows stay for now; its lock is what counts."""
    port = free_port()
    fox = world.run("fox").route(web=port).remember()
    async with Backend("owl", port) as owl:
        connect = net.router.pool.connect

        async def slowly(address, owner):
            upstream = await connect(address, owner)
            fox.die()
            return upstream

        monkeypatch.setattr(net.router.pool, "connect", slowly)
        assert await net.said("web.fox.localhost") == "run-ended"
        assert owl.seen == []


async def test_a_route_that_moves_while_it_is_connected_to_is_followed(net, world, monkeypatch):
    """The request goes to where the container is now."""
    async with Backend("old") as old, Backend("new") as new:
        fox = world.run("fox").route(web=old.port)
        connect = net.router.pool.connect

        async def slowly(address, owner):
            upstream = await connect(address, owner)
            if address[1] == old.port:
                fox.route(web=new.port)
            return upstream

        monkeypatch.setattr(net.router.pool, "connect", slowly)
        assert await net.said("web.fox.localhost") == "new"
        assert old.seen == []


async def test_a_request_under_way_when_its_run_is_followed_by_another_gets_an_error(net, world):
    """The next one of the name has other endpoints; the one that was asked has gone without a word."""
    async with Backend("fox") as fox:
        run = world.run("fox").route(web=fox.port).remember()
        fox.gate.clear()
        asking = asyncio.ensure_future(net.ask("web.fox.localhost"))
        await fox.got.wait()
        run.end()
        world.run("fox", api=8000)
        fox.hang_up()
        answer = await asking
        assert answer.status in {404, 502, 503}
        assert answer.code


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_under_way_when_its_owner_is_killed_is_told_so(net, world, method):
    """It is answered at once, and not by the next one at that port."""
    async with Backend("fox") as fox:
        run = world.run("fox").route(web=fox.port).remember()
        assert await net.said("web.fox.localhost") == "fox"
        fox.got.clear()
        fox.gate.clear()
        asking = asyncio.ensure_future(net.ask("web.fox.localhost", method=method))
        await fox.got.wait()
        run.die()
        await fox.stop()
        async with Backend("owl", fox.port) as owl:
            world.run("owl").route(web=owl.port)
            assert (await asking).said == "run-ended"
            assert owl.seen == []


async def test_a_proxy_that_starts_while_a_dead_run_is_being_undone(world, moat):
    """The reaper has its lock, and has taken its routes already: nobody is sent anywhere."""
    async with Backend("owl") as owl:
        world.run("fox").route(web=owl.port).unroute()
        async with moat.moat(keep_going=True) as library, routing(world, library) as net:
            assert await net.said("web.fox.localhost") in {"starting", "run-ended"}
        assert owl.seen == []


@pytest.mark.parametrize("host", ["localhost", "moat.localhost", "127.0.0.1", "[::1]", "LOCALHOST.", "localhost:1"])
async def test_the_index_shows_runs(net, zoo, host):
    """As a page and as JSON, by all of its names; links lead to the port by which one came."""
    page = await net.ask(host, accept="text/html,*/*;q=0.8")
    assert page.status == 200
    assert b"<html" in page.body
    told = (await net.ask(host)).json
    assert told["version"] == "1.2.3"
    assert sorted(run["name"] for run in told["runs"]) == ["pair", "solo", "trio"]
    pair = next(run for run in told["runs"] if run["name"] == "pair")
    port = ":1" if host.endswith(":1") else ""
    assert [each["url"] for each in pair["endpoints"]] == [
        f"http://web.pair.localhost{port}/",
        f"http://api.pair.localhost{port}/",
    ]
    assert pair["url"] == f"http://pair.localhost{port}/"
    assert pair["isolation"] == "gvisor"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/", "/events", "/runs/run-00000000/log", "/nowhere"])
async def test_nothing_can_be_changed_through_the_index(net, method, path):
    """It only shows."""
    answer = await net.ask("localhost", path, method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_head_of_the_index_has_no_body(net):
    """And says how long it would be."""
    answer = await net.ask("localhost", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


FOREIGN = [
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"},
    {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"},
    {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
]


@pytest.mark.parametrize("fields", FOREIGN)
@pytest.mark.parametrize("path", ["/", "/events", "/runs/run-00000000/log", "/moat.js"])
async def test_other_origins_pages_get_nothing_of_the_index(net, zoo, fields, path):
    """Not even an event stream to hold open."""
    answer = await net.ask("localhost", path, **fields)
    assert (answer.status, answer.code) == (403, "foreign")
    assert "access-control-allow-origin" not in answer.headers
    assert b"pair" not in answer.body


async def read_events(net, path, until, **headers):
    """The stream at PATH up to the words UNTIL."""
    reader, writer = await asyncio.open_connection("127.0.0.1", net.port)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{lines}\r\n".encode())
    async with asyncio.timeout(10):
        data = b""
        while until not in data:
            piece = await reader.read(65536)
            assert piece, data
            data += piece
    writer.close()
    return data


async def test_the_index_tells_of_changes_by_itself(net, world):
    """A stream of events: what there is, and then what has become of it."""
    world.run("fox").remember()
    reader = asyncio.ensure_future(read_events(net, "/events", b"owl"))
    first = await read_events(net, "/events", b"fox")
    assert b"text/event-stream" in first
    assert b"event: runs" in first
    world.run("owl").remember()
    data = await reader
    assert data.count(b"event: runs") == 2


async def test_a_runs_log_is_shown(net, world):
    """Its last lines, as JSON and as events that go on where it ended."""
    fox = world.run("fox").remember()
    os.makedirs(world.home.run_folder(fox.id), exist_ok=True)
    log = LogWriter(world.home.run_folder(fox.id))
    log.write("stdout", b"alpha\n")
    log.write("stderr", b"beta\n")
    told = (await net.ask("localhost", f"/runs/{fox.id}/log")).json
    assert [(line["stream"], line["text"]) for line in told["lines"]] == [("stdout", "alpha"), ("stderr", "beta")]
    reading = asyncio.ensure_future(read_events(net, f"/runs/{fox.id}/log?after={told['cursor']}", b"gamma"))
    log.write("stdout", b"gamma\n")
    assert b"alpha" not in await reading
    log.close()
    fox.end()
    assert b"exited" in await read_events(net, f"/runs/{fox.id}/log", b"event: end")


@pytest.mark.parametrize(
    "path", ["/runs/run-00000000/log", "/runs/../log", "/runs//log", "/runs/x/y/log", "/runs/%2e%2e/log", "/nowhere"]
)
async def test_there_is_nothing_else_on_the_index(net, path):
    """Neither for a program nor as events."""
    for accept in ("application/json", "text/event-stream"):
        answer = await net.ask("localhost", path, accept=accept)
        assert (answer.status, answer.code) == (404, "unknown-page")


async def test_the_index_is_not_on_the_agents_names(net, zoo):
    """Its paths there are the service's, or nobody's."""
    assert await net.said("web.pair.localhost", path="/events") == "web of pair"
    assert (await net.ask("nobody.localhost", "/events")).code == "unknown-agent"
    page = await net.ask("pair.localhost", "/", accept="text/html")
    assert (page.status, b"trio" in page.body, b"solo" in page.body) == (200, False, False)


async def test_https_is_routed_as_http_is(world, moat, tmp_path):
    """On the same port; the certificate is for the name that is asked for, and links are https."""
    folder = str(tmp_path / "ca")
    context = open_ca(folder).context()
    client = ssl.create_default_context(cafile=os.path.join(folder, "ca.pem"))
    async with (
        serving(world, "fox", "owl"),
        moat.moat(keep_going=True) as library,
        routing(world, library, tls=context) as net,
    ):
        for run in world.runs:
            run.remember()

        async def secure(host, path="/"):
            reader, writer = await asyncio.open_connection("127.0.0.1", net.port, ssl=client, server_hostname=host)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{net.port}\r\nConnection: close\r\n\r\n".encode())
            data = await reader.read()
            writer.close()
            return data.partition(b"\r\n\r\n")[2].decode()

        for name in ("fox", "owl"):
            assert await secure(f"web.{name}.localhost") == name
            assert await secure(f"{name}.localhost") == name
            assert await net.said(f"web.{name}.localhost") == name
        assert f"https://web.fox.localhost:{net.port}/" in await secure("localhost")
        assert "unknown-agent" in await secure("web.nobody.localhost")


async def test_a_service_is_told_the_name_by_which_it_was_asked(net, world):
    """The Host as it was, and who asked."""
    async with serving(world, "fox") as (fox,):
        await net.ask("Web.Fox.localhost.:8080")
    head = fox.seen[0].lower()
    assert "host: web.fox.localhost.:8080\r\n" in head
    assert "x-forwarded-host: web.fox.localhost.:8080\r\n" in head
    assert "x-forwarded-for: 127.0.0.1\r\n" in head
