"""The service `api`: says whose it is, takes webhooks, and plays a login provider for `web`."""

import json
import os
import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

PORT = 8080  # as agent.yaml says
NAME = os.environ.get("MOAT_NAME", "nobody")
WEB = os.environ.get("MOAT_URL_WEB", "http://localhost:3000")
MOST_BYTES = 1_000_000
LAST: dict[str, object] = {"webhook": None}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with what is known, or send a user back who wants to log in."""
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if path == "/":
            told = {"service": "api", "agent": NAME, "run": os.environ.get("MOAT_RUN_ID", ""), **LAST}
            told["host"] = self.headers["Host"]
            told["scheme"] = self.headers["X-Forwarded-Proto"]
            self.answer(200, told)
        elif path == "/authorize":
            self.authorize(query.get("redirect_uri", [""])[0], query.get("state", [""])[0])
        else:
            self.answer(404, {"error": f"nothing is at {path}"})

    def do_POST(self) -> None:
        """Remember a webhook's event. A real one has a signature, which is to be checked on these very bytes."""
        length = int(self.headers["Content-Length"] or 0)
        if self.path != "/webhook" or length > MOST_BYTES:
            self.close_connection = True
            self.answer(404, {"error": "webhooks are taken at /webhook"})
            return
        LAST["webhook"] = self.rfile.read(length).decode(errors="replace")
        self.answer(200, {"taken": True, "agent": NAME})

    def authorize(self, redirect_uri: str, state: str) -> None:
        """Do what a provider does: go back to an address that is registered, and to no other."""
        if redirect_uri != f"{WEB}/callback":
            self.answer(400, {"error": "redirect_uri is not registered", "registered": f"{WEB}/callback"})
            return
        back = urlencode({"code": secrets.token_hex(4), "state": state})
        self.send_response(302)
        self.send_header("Location", f"{redirect_uri}?{back}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, status: int, told: object) -> None:
        """Send JSON."""
        body = json.dumps(told, indent=2).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    # "" is all addresses of the container: on 127.0.0.1 nobody outside would reach it.
    ThreadingHTTPServer(("", PORT), Handler).serve_forever()
