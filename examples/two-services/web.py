"""The service `web`: a page with what `api` says, and a login that comes back to it."""

import json
import os
import secrets
from html import escape
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import ProxyHandler, build_opener

PORT = 3000  # as agent.yaml says
NAME = os.environ.get("MOAT_NAME", "nobody")
# What a browser outside is told. In here, where *.localhost is the container itself, api is at 127.0.0.1.
WEB = os.environ.get("MOAT_URL_WEB", "http://localhost:3000")
API = os.environ.get("MOAT_URL_API", "http://localhost:8080")
API_INSIDE = "http://127.0.0.1:8080"
DIRECT = build_opener(ProxyHandler({}))

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>web of {name}</title>
<h1>web of {name}</h1>
{content}
"""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer one of three paths."""
        url = urlsplit(self.path)
        if url.path == "/":
            self.answer(200, self.home())
        elif url.path == "/login":
            self.login()
        elif url.path == "/callback":
            self.callback(parse_qs(url.query))
        else:
            self.answer(404, f"<p>Nothing is at {escape(url.path)}.")

    def home(self) -> str:
        """Return what api says, and links that work outside."""
        try:
            with DIRECT.open(API_INSIDE, timeout=10) as answer:
                told = json.dumps(json.load(answer), indent=2)
        except OSError as error:
            told = f"nothing: {error}"
        return f"""<p><a href="{API}">api</a> says:<pre>{escape(told)}</pre><p><a href="/login">Log in</a>"""

    def login(self) -> None:
        """Send the user to the provider, which is api here, and remember who was sent."""
        state = secrets.token_hex(8)
        asked = urlencode({"redirect_uri": f"{WEB}/callback", "state": state})
        self.send_response(302)
        self.send_header("Location", f"{API}/authorize?{asked}")
        self.send_header("Set-Cookie", f"state={state}; HttpOnly; SameSite=Lax; Path=/callback")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def callback(self, query: dict[str, list[str]]) -> None:
        """Take the code, from a user whom we have sent."""
        sent = SimpleCookie(self.headers["Cookie"]).get("state")
        if sent is None or query.get("state") != [sent.value]:
            self.answer(400, "<p>This login was not begun here.")
            return
        code = escape(query.get("code", ["none"])[0])
        self.answer(200, f"<p>Logged in. The code was <code>{code}</code>.<p><a href='/'>Back</a>")

    def answer(self, status: int, content: str) -> None:
        """Send a page."""
        body = PAGE.format(name=escape(NAME), content=content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    # "" is all addresses of the container: on 127.0.0.1 nobody outside would reach it.
    ThreadingHTTPServer(("", PORT), Handler).serve_forever()
