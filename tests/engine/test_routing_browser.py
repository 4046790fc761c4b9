"""A real Chromium opens runs by name: pages, a WebSocket and an event stream, over HTTP and HTTPS, and the index."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from playwright.async_api import Error, async_playwright
from world import MOAT

from moat_core.api import Moat
from moat_plugins.routing.trust import Machine, trust

pytestmark = pytest.mark.slow

# Without the last ones it looks for its maker's hosts.
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

SERVER = r"""
import base64, hashlib, os, socketserver
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME, PORT = os.environ["MOAT_NAME"], int(os.sys.argv[1])

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def do_GET(self):
        if self.path == "/socket":
            key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
            self.end_headers()
            head = self.rfile.read(2)
            mask, length = self.rfile.read(4), head[1] & 127
            text = bytes(byte ^ mask[i % 4] for i, byte in enumerate(self.rfile.read(length)))
            said = f"{NAME} {PORT} ".encode() + text
            self.wfile.write(bytes([0x81, len(said)]) + said)
            self.rfile.read(2)
            self.close_connection = True
        elif self.path == "/events":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            for number in range(3):
                self.wfile.write(f"data: {NAME} {PORT} {number}\n\n".encode())
                self.wfile.flush()
            self.rfile.read(1)  # open until the browser goes: an event that waited for the end would never come
            self.close_connection = True
        else:
            body = f"<!doctype html><title>{NAME}</title><h1>{NAME} {PORT}</h1>".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

ThreadingHTTPServer(("0.0.0.0", PORT), Handler).serve_forever()
"""

SOCKET = """() => new Promise((done, fail) => {
    const socket = new WebSocket(location.origin.replace("http", "ws") + "/socket");
    socket.onopen = () => socket.send("hello");
    socket.onmessage = (event) => { done(event.data); socket.close(); };
    socket.onerror = () => fail("the socket failed");
})"""
EVENTS = """() => new Promise((done, fail) => {
    const seen = [], source = new EventSource("/events");
    source.onmessage = (event) => { seen.push(event.data); if (seen.length == 3) { source.close(); done(seen); } };
    source.onerror = () => fail("the stream failed");
})"""


@asynccontextmanager
async def browse(home):
    """A browser of its own, which trusts what HOME's database says."""
    environ = {**os.environ, "HOME": str(home)}
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        environ.pop(name, None)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS, env=environ)
        try:
            yield await browser.new_context()
        finally:
            await browser.close()


@pytest.fixture
def person(tmp_path, monkeypatch):
    """A home folder with a browser's database in it, so that ours stay as they are."""
    home = tmp_path / "person"
    (home / ".pki" / "nssdb").mkdir(parents=True)
    subprocess.run(
        ["certutil", "-N", "-d", f"sql:{home}/.pki/nssdb", "--empty-password"], check=True, capture_output=True
    )
    monkeypatch.setenv("HOME", str(home))
    return home


async def open_page(context, url, heading):
    """Go to URL until HEADING is there: what does not listen yet has a page that comes back by itself."""
    page = await context.new_page()
    await page.goto(url)
    await page.get_by_role("heading", name=heading, exact=True).wait_for(timeout=60_000)
    return page


async def test_chromium_opens_two_agents(world, workspace, person):
    """By name, over both schemes; each page is its own, and the index shows both."""
    (workspace / "serve.py").write_text(SERVER)
    command = ["sh", "-c", "python3 serve.py 3000 & exec python3 serve.py 8000"]
    options = {"ports": {"web": 3000, "api": 8000}, "dependencies": ["python"], "command": command}
    async with AsyncExitStack() as stack:
        moat = await stack.enter_async_context(Moat())
        for name, sandbox in (("fox", True), ("owl", False)):
            await stack.enter_async_context(moat.run(workspace, name=name, sandbox=sandbox, **options))
        answer = subprocess.run([*MOAT, "proxy", "status", "--json"], capture_output=True, check=True)
        port = json.loads(answer.stdout)["port"]
        async with browse(person) as context:
            page = await context.new_page()
            with pytest.raises(Error, match="ERR_CERT_AUTHORITY_INVALID"):
                await page.goto(f"https://web.fox.localhost:{port}")
        # As somebody who may not change the machine's own store, which is not this test's to change.
        machine = Machine(home=str(person), is_root=False)
        results = await asyncio.to_thread(trust, str(world.home / "proxy" / "ca" / "ca.pem"), machine)
        assert "failed" not in {each.status for each in results}, results
        async with browse(person) as context:
            await look_at_agents(context, port)
            await look_at_the_index(context, port)


async def look_at_agents(context, port):
    for scheme in ("http", "https"):
        for name in ("fox", "owl"):
            for endpoint, number in (("web", 3000), ("api", 8000)):
                url = f"{scheme}://{endpoint}.{name}.localhost:{port}"
                page = await open_page(context, url, f"{name} {number}")
                assert await page.evaluate(SOCKET) == f"{name} {number} hello"
                assert await page.evaluate(EVENTS) == [f"{name} {number} {i}" for i in range(3)]
                # Neither the index nor another agent can be read from here.
                for other in (
                    f"{scheme}://localhost:{port}/",
                    f"{scheme}://web.{'owl' if name == 'fox' else 'fox'}.localhost:{port}/",
                ):
                    assert await page.evaluate(f"fetch({other!r}).then(() => 'read', () => 'refused')") == "refused"
                await page.close()


async def look_at_the_index(context, port):
    for scheme in ("http", "https"):
        page = await open_page(context, f"{scheme}://localhost:{port}", "Agents")
        for name in ("fox", "owl"):
            await page.get_by_role("heading", name=name, exact=True).wait_for()
        assert "gVisor" in await page.locator("li.run", has_text="fox").inner_text()
        assert "not isolated" in await page.locator("li.run", has_text="owl").inner_text()
        await page.locator(f'a[href^="{scheme}://api.owl.localhost:{port}"]').first.click()
        await page.get_by_role("heading", name="owl 8000", exact=True).wait_for()
        await page.close()


async def test_the_page_follows_what_happens(world, workspace, person):
    """A run that begins appears, and goes again, with no reload; a page that waits for a service goes on by itself."""
    (workspace / "serve.py").write_text(SERVER)
    command = ["sh", "-c", "while [ ! -e go ]; do sleep 0.1; done; exec python3 serve.py 3000"]
    first = subprocess.run([*MOAT, "proxy", "start", "--json"], capture_output=True, check=True)
    port = json.loads(first.stdout)["port"]
    async with browse(person) as context:
        index = await open_page(context, f"http://localhost:{port}", "Agents")
        await index.get_by_text("Nothing is running.").wait_for()
        await index.evaluate("() => { window.same = true; }")
        options = {"name": "fox", "sandbox": False, "ports": {"web": 3000}, "dependencies": ["python"]}
        async with Moat() as moat, moat.run(workspace, command=command, **options):
            await index.get_by_role("heading", name="fox", exact=True).wait_for()
            page = await open_page(context, f"http://web.fox.localhost:{port}", "Waiting for web")
            (workspace / "go").touch()
            await page.get_by_role("heading", name="fox 3000", exact=True).wait_for(timeout=60_000)
            log = await context.new_page()
            await log.goto(f"http://localhost:{port}/")
            await log.get_by_role("link", name="Log of fox").click()
            await log.get_by_role("heading", name="Log of fox").wait_for()
        await index.get_by_text("Nothing is running.").wait_for()
        assert await index.evaluate("() => window.same")
        ended = await context.new_page()
        await ended.goto(f"http://web.fox.localhost:{port}")
        await ended.get_by_role("heading", name="fox has ended").wait_for()
