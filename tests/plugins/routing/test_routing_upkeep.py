"""What `moat doctor` and `moat status` say of the proxy."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from contextlib import contextmanager

import pytest

from moat_plugins.routing.process import Holding, Running
from moat_plugins.routing.upkeep import check_proxy, describe_proxy


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"runs": [], "version": "1"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


@contextmanager
def serving():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def holding(tmp_path):
    """What a proxy holds while it lives."""
    held = Holding(tmp_path)
    assert held.claim()
    yield held
    held.release()


async def test_none_is_no_fault(tmp_path):
    """The next run with ports starts it; looking makes nothing."""
    assert await check_proxy(tmp_path) == []
    assert describe_proxy(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


async def test_one_that_answers_is_well(tmp_path, holding):
    """And where it is reached is shown."""
    with serving() as port:
        holding.tell(Running(1234, port, 0.0))
        (check,) = await check_proxy(tmp_path)
        assert check.status == "ok"
        assert f"http://localhost:{port}" in check.message
        (line,) = describe_proxy(tmp_path)
        assert line.data == {"pid": 1234, "port": port, "started": 0.0, "options": {}}


async def test_one_that_does_not_answer_is_told_with_what_mends_it(tmp_path, holding):
    """It lives, since it has the lock, and nothing listens where it says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        holding.tell(Running(1234, free.getsockname()[1], 0.0))
        (check,) = await check_proxy(tmp_path)
    assert check.status == "error"
    assert "pid 1234" in check.message
    assert check.fix == "moat proxy restart"
