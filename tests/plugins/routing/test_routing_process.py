"""The proxy's own process: one under each home, wherever it was asked for, however often it is killed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from routing_process import OPTIONS, begin, get, kill, listening, proxies, start_at_once, sweep, wait_until
from routing_tls import hello
from routing_world import Backend, World, ask, free_port

from moat_core.errors import HostError
from moat_plugins.routing.process import Holding, PortMismatch, ProxySlow, Running, ensure, find, stop
from moat_plugins.routing.serve import _until_unneeded
from moat_plugins.routing.sockets import PortTaken, bind, find_holder
from moat_plugins.routing.table import Table


@pytest.fixture
def home(moat):
    """A ``MOAT_HOME``; whatever proxy is left there in the end is killed."""
    yield Path(moat.home.path)
    sweep(moat.home.path)


@pytest.fixture
def world(home):
    world = World(home)
    yield world
    world.close()


async def test_it_is_started_once_and_found_afterwards(home):
    """On a free port, by any process; it says where it is."""
    assert find(home) is None
    running = await ensure(home, 0, OPTIONS)
    assert running == find(home)
    assert running.base == f"http://localhost:{running.port}"
    assert await ensure(home, 0, OPTIONS) == running
    assert await ensure(home, None, OPTIONS) == running
    assert await ensure(home, running.port, OPTIONS) == running
    assert start_at_once(1, home, None) == [running.to_json()]
    assert proxies(home) == [running.pid]
    for address in ("127.0.0.1", "::1"):
        assert get(running.port, address=address)[0] == 200
        assert get(running.port, "web.fox.localhost", address) == (404, "unknown-agent")


@pytest.mark.parametrize("is_free", [True, False], ids=["a free port", "one port"])
def test_many_starters_at_once_end_with_one_proxy(home, is_free):
    """All eight are told of the same one, and the others that were begun are gone."""
    port = 0 if is_free else free_port()
    told = start_at_once(8, home, port)
    assert [each.get("code", "ready") for each in told] == ["ready"] * 8, told
    assert {each["pid"] for each in told} == {find(home).pid}
    wait_until(lambda: len(proxies(home)) == 1)


async def test_a_starter_waits_for_one_that_is_slow_to_get_ready(home):
    """On a busy machine that takes seconds; the port is then taken by what is about to be the proxy itself."""
    port = free_port()
    holding, sockets = Holding(home), bind(port)
    assert holding.claim()
    asking = asyncio.create_task(ensure(home, port, OPTIONS))
    try:
        _, pending = await asyncio.wait([asking], timeout=2.5)
        assert pending, asking.exception()
        running = Running(os.getpid(), port, 1.0)
        holding.tell(running)
        assert await asking == running
    finally:
        asking.cancel()
        for each in sockets:
            each.close()
        holding.release()


async def test_one_that_is_slow_is_said_to_be_and_gets_ready_all_the_same(home, monkeypatch):
    """To who started it and to who waits for that one; a time-out is no death."""
    monkeypatch.setattr("moat_plugins.routing.process._START_S", 0.05)
    with pytest.raises(ProxySlow, match="did not say within"):
        await ensure(home, 0, OPTIONS)
    if find(home) is None:
        with pytest.raises(ProxySlow):
            await ensure(home, 0, OPTIONS)
    wait_until(lambda: find(home) is not None)
    running = find(home)
    assert await ensure(home, 0, OPTIONS) == running
    assert get(running.port, "web.fox.localhost") == (404, "unknown-agent")
    await stop(home)
    monkeypatch.undo()
    assert (await ensure(home, 0, OPTIONS)).pid != running.pid


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0", "::"])
async def test_a_taken_port_is_told_with_its_holder_and_both_ways_out(home, address):
    """Whichever of the machine's addresses it is taken on."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as other:
        other.bind((address, 0))
        other.listen()
        port = other.getsockname()[1]
        assert find_holder(port).endswith(f"(pid {os.getpid()})")
        with pytest.raises(PortTaken) as caught:
            await ensure(home, port, OPTIONS)
    assert f"{port} " in caught.value.message
    assert f"(pid {os.getpid()})" in caught.value.message
    assert "End that program" in caught.value.hint
    assert "moat proxy start --port" in caught.value.hint
    assert "MOAT_PROXY_PORT" in caught.value.hint
    assert find(home) is None


async def test_another_port_than_the_running_ones_is_an_error_with_both(home):
    """And with the way to have it moved; the one that runs goes on."""
    running = await ensure(home, 0, OPTIONS)
    other = free_port()
    with pytest.raises(PortMismatch) as caught:
        await ensure(home, other, OPTIONS)
    assert str(running.port) in caught.value.message
    assert str(other) in caught.value.message
    assert f"moat proxy restart --port {other}" in caught.value.hint
    assert find(home) == running


async def test_a_killed_proxy_says_nothing_and_is_started_again_where_it_was(home):
    """What its file says is believed only as long as it lives; its port is free at once."""
    running = await ensure(home, 0, OPTIONS)
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", running.port)):
            kill(home)
        assert json.loads((home / "proxy" / "lock").read_bytes())["pid"] == running.pid
        assert find(home) is None
        assert await stop(home) is None
        again = await ensure(home, running.port, OPTIONS)
        assert (again.port, again.pid != running.pid) == (running.port, True)
        assert get(again.port)[0] == 200
        running = again


async def test_nothing_is_believed_of_a_file_that_nobody_holds(home):
    """Whatever is in it; nor of one that is being written."""
    (home / "proxy").mkdir(parents=True)
    for text in ("", "{", "[]", '{"pid": 1, "port": 80, "started": 0}', "null", "\0" * 100):
        (home / "proxy" / "lock").write_text(text)
        assert find(home) is None
        holding = Holding(home)
        assert holding.claim()
        assert find(home) is None
        holding.tell(Running(1, 2, 3.0))
        assert find(home) == Running(1, 2, 3.0)
        holding.release()
        assert find(home) is None


async def test_stop_ends_it_and_nothing_is_left(home):
    """Once; the second time there is nothing to end."""
    running = await ensure(home, 0, OPTIONS)
    assert await stop(home) == running
    assert find(home) is None
    assert await stop(home) is None
    with pytest.raises(ConnectionRefusedError):
        get(running.port)
    wait_until(lambda: not proxies(home))


async def test_who_started_it_keeps_no_zombie_of_it(home):
    """A program that goes on for days may start one often."""
    running = await ensure(home, 0, OPTIONS)
    await stop(home)
    wait_until(lambda: not os.path.exists(f"/proc/{running.pid}"), 3)


async def test_what_is_under_way_may_finish_when_it_is_stopped(home, world):
    """A request that a service is still answering is answered; new ones are not taken."""
    async with Backend("fox") as fox:
        world.run("fox").route(web=fox.port)
        running = await ensure(home, 0, OPTIONS)
        fox.gate.clear()
        asking = asyncio.create_task(ask(running.port, "web.fox.localhost"))
        await fox.got.wait()
        stopping = asyncio.create_task(stop(home))
        await asyncio.to_thread(wait_until, lambda: not listening(running.pid))
        fox.gate.set()
        assert (await asking).said == "fox"
        assert await stopping == running


async def test_a_run_that_begins_while_the_proxy_ends_has_one_in_the_end(home, world):
    """It may take some seconds until what is under way has finished: that one is no proxy any more."""
    async with Backend("fox") as fox:
        world.run("fox").route(web=fox.port)
        running = await ensure(home, 0, OPTIONS)
        fox.gate.clear()
        asking = asyncio.create_task(ask(running.port, "web.fox.localhost"))
        await fox.got.wait()
        os.kill(running.pid, signal.SIGTERM)
        await asyncio.to_thread(wait_until, lambda: not listening(running.pid))
        beginning = asyncio.create_task(ensure(home, running.port, OPTIONS))
        await asyncio.wait([beginning], timeout=0.5)
        fox.gate.set()
        assert (await asking).said == "fox"
        again = await beginning
        await asyncio.to_thread(wait_until, lambda: running.pid not in proxies(home))
        assert (await ask(again.port, "web.fox.localhost")).said == "fox"
        assert again.pid != running.pid


async def test_stop_does_not_wait_for_the_next_one(home):
    """Which somebody may start the moment that the lock is free."""
    await ensure(home, 0, OPTIONS)
    done = threading.Event()

    def claim():
        holding = Holding(home)
        while not done.is_set():
            if holding.claim():
                holding.tell(Running(os.getpid(), 1, 2.0))
                done.wait(20)
                holding.release()

    other = threading.Thread(target=claim)
    other.start()
    try:
        async with asyncio.timeout(8):
            await stop(home)
    finally:
        done.set()
        other.join()


async def test_it_outlives_whoever_started_it(home):
    """It is in a session of its own: what kills its starter's whole group leaves it alone."""
    starter = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:]); input()", *begin_argv(home)],
        stdin=subprocess.PIPE, start_new_session=True, env={**os.environ, "PYTHONPATH": path()},
    )  # fmt: skip
    starter.stdin.write(b"\n")
    starter.stdin.flush()
    await asyncio.to_thread(wait_until, lambda: find(home) is not None)
    running = find(home)
    os.killpg(starter.pid, signal.SIGHUP)
    os.killpg(starter.pid, signal.SIGKILL)
    starter.communicate()
    assert os.getsid(running.pid) == running.pid
    assert get(running.port)[0] == 200
    assert os.readlink(f"/proc/{running.pid}/cwd") == "/"


def path():
    return os.pathsep.join(filter(None, sys.path))


def begin_argv(home):
    process = begin(home, 0)
    process.kill()
    process.communicate()
    return process.args


async def test_it_listens_on_this_machines_own_addresses_and_nothing_else(home):
    """On both, in every state of its life; it has raised its file limit."""
    running = await ensure(home, 0, OPTIONS)
    port = f"{running.port:04X}"
    ours = sorted([f"0100007F:{port}", f"00000000000000000000000001000000:{port}"])
    assert listening(running.pid) == ours
    assert get(running.port)[0] == 200
    assert get(running.port, "web.fox.localhost")[0] == 404
    assert listening(running.pid) == ours
    soft, hard = resource.prlimit(running.pid, resource.RLIMIT_NOFILE)
    assert soft == hard


async def test_what_clients_send_does_not_fill_its_log(home):
    """A name in TLS that is not ASCII fails within Python's ssl, which would write a traceback for each."""
    running = await ensure(home, 0, OPTIONS)
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", running.port)) as client:
            client.sendall(hello("bücher.localhost".encode()))
            while client.recv(4096):
                pass
    assert (home / "proxy" / "log").read_bytes() == b""


async def test_its_files_are_its_users_alone(home):
    """The lock, the log and the CA's key; their folder, and the state folder, which may not have been there."""
    await ensure(home, 0, OPTIONS)
    for name in ("..", "", "lock", "log", "ca/ca-key.pem"):
        assert (home / "proxy" / name).stat().st_mode & 0o077 == 0


async def test_two_homes_have_two_proxies(home, world, tmp_path, monkeypatch):
    """Each serves its own runs and knows nothing of the other's."""
    other = World(tmp_path / "other")
    async with Backend("fox") as fox, Backend("owl") as owl:
        world.run("fox").route(web=fox.port)
        other.run("owl").route(web=owl.port)
        first = await ensure(home, 0, OPTIONS)
        monkeypatch.setenv("MOAT_HOME", other.home.path)
        try:
            second = await ensure(Path(other.home.path), 0, OPTIONS)
            assert first.port != second.port
            assert (await ask(first.port, "web.fox.localhost")).said == "fox"
            assert (await ask(second.port, "web.owl.localhost")).said == "owl"
            assert (await ask(first.port, "web.owl.localhost")).said == "unknown-agent"
            assert (await ask(second.port, "web.fox.localhost")).said == "unknown-agent"
            with pytest.raises(PortMismatch):
                await ensure(Path(other.home.path), first.port, OPTIONS)
            await stop(Path(other.home.path))
            with pytest.raises(PortTaken, match=f"pid {first.pid}"):
                await ensure(Path(other.home.path), first.port, OPTIONS)
            assert find(home) == first
        finally:
            sweep(other.home.path)
            other.close()


async def test_one_that_cannot_begin_says_why(home):
    """In one sentence, and with the way to see more."""
    home.mkdir(parents=True)
    (home / "proxy").write_text("in the way")
    with pytest.raises(HostError) as caught:
        await ensure(home, 0, OPTIONS)
    assert "Traceback" not in str(caught.value)
    assert caught.value.hint


async def test_a_broken_ca_is_told(home):
    """What the child found wrong is what the caller reads."""
    (home / "proxy" / "ca").mkdir(parents=True, mode=0o700)
    (home / "proxy" / "ca" / "ca.pem").mkdir()
    with pytest.raises(HostError) as caught:
        await ensure(home, 0, OPTIONS)
    assert "ca" in caught.value.message
    assert "Traceback" not in str(caught.value)
    wait_until(lambda: not proxies(home))


def test_a_lock_that_is_only_looked_at_does_not_hinder(home):
    """Eight that look as often as starters do, and one that takes it and lets it go."""
    done = threading.Event()

    def look():
        while not done.wait(0.02):
            find(home)

    lookers = [threading.Thread(target=look) for _ in range(8)]
    for each in lookers:
        each.start()
    try:
        for number in range(100):
            holding = Holding(home)
            assert holding.claim(), number
            holding.tell(Running(1, 2, 3.0))
            assert find(home) == Running(1, 2, 3.0)
            holding.release()
    finally:
        done.set()
        for each in lookers:
            each.join()


def test_the_lock_has_one_holder(home):
    """A refusal lasts as long as the other has it."""
    first, second = Holding(home), Holding(home)
    assert first.claim()
    assert not second.claim()
    first.tell(Running(1, 2, 3.0))
    assert not second.claim()
    assert find(home) == Running(1, 2, 3.0)
    first.release()
    assert second.claim()
    assert find(home) is None
    second.release()


async def test_it_ends_by_itself_when_nobody_needs_it(home, world):
    """Not while a run with ports lives; some time after the last one."""
    fox = world.run("fox")
    running = await ensure(home, 0, {"idle": 0.1, "timeout": 30.0})
    with pytest.raises(TimeoutError):  # it looks twice a second
        async with asyncio.timeout(1.3):
            await gone(home)
    assert find(home) == running
    fox.end()
    await gone(home)
    await asyncio.to_thread(wait_until, lambda: not proxies(home))


async def gone(home):
    """Wait for the proxy to be gone."""
    while find(home) is not None:
        await asyncio.sleep(0.01)


async def test_the_rows_of_the_dead_keep_no_proxy(home, world):
    """Nobody may ever undo them; they are nobody's routes."""
    world.run("fox").route(web=4001).die()
    await ensure(home, 0, {"idle": 0.1, "timeout": 30.0})
    async with asyncio.timeout(5):
        await gone(home)


async def test_locks_that_cannot_be_looked_at_end_no_proxy(home, world):
    """It has run out of files perhaps, with all the clients that it has; that passes."""
    world.run("fox").route(web=4001)
    table, holding, stopping = Table(home), Holding(home), asyncio.Event()
    assert holding.claim()
    running = Running(os.getpid(), 1, 2.0)
    holding.tell(running)
    table.look()
    os.rename(home / "locks", home / "aside")
    (home / "locks").write_text("")
    going = asyncio.create_task(_until_unneeded(table, holding, running, 60.0, stopping))
    await asyncio.wait([going], timeout=0.05)
    assert not going.done(), going.exception()
    stopping.set()
    await going
    holding.release()
    table.close()


async def test_a_run_that_claims_at_the_edge_is_not_left_alone(home, world):
    """Hundreds of tries around the moment of the end: whoever was told of a proxy after its claim keeps that one."""
    table, outcomes = Table(home), {"kept": 0, "ended": 0}
    rng = random.Random(4)
    for number in range(400):
        holding, stopping = Holding(home), asyncio.Event()
        assert holding.claim()
        running = Running(os.getpid(), 1 + number, 2.0)
        holding.tell(running)
        table.look(fresh=True)
        assert not table.agents
        delay = rng.random() * 0.0015

        def begin_run(delay=delay):
            until = time.perf_counter() + delay
            while time.perf_counter() < until:
                pass
            return world.run("fox"), find(home)

        claiming = asyncio.get_running_loop().run_in_executor(None, begin_run)
        ending = asyncio.create_task(_until_unneeded(table, holding, running, 0.0, stopping))
        run, found = await claiming
        await asyncio.wait([ending], timeout=0.05 if found is None else 0.01)
        if found is None:
            # It would start another, or wait for this one to say again that it is there.
            outcomes["ended"] += 1
        else:
            assert found == running
            assert not ending.done(), number
            assert find(home) == running, number
            outcomes["kept"] += 1
        stopping.set()
        await ending
        run.end()
        world.runs.clear()
        holding.release()
    table.close()
    assert min(outcomes.values()) > 10, outcomes


async def test_runs_that_begin_as_the_proxy_ends_are_all_served(home, world):
    """With real processes: each run writes its claim, asks for the proxy, and is reached by its name."""
    rng, options = random.Random(5), {"idle": 0.01, "timeout": 30.0}
    port = free_port()
    for number in range(6):
        async with Backend(f"fox-{number}") as fox:
            run = world.run(f"fox-{number}")
            running = await ensure(home, port, options)
            run.route(web=fox.port)
            async with asyncio.timeout(5):
                while (said := (await ask(running.port, f"web.fox-{number}.localhost")).said) == "starting":
                    pass
            assert said == f"fox-{number}"
            run.end()
        # The end is looked for twice a second.
        began, delay = time.monotonic(), 0.4 + rng.random() * 0.25
        while find(home) is not None and time.monotonic() - began < delay:
            await asyncio.sleep(0.002)
