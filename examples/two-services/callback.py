"""For the host: takes a login's way back at a plain http://localhost:PORT, and sends the browser on to the service.

    python3 callback.py 5000 http://web.demo.localhost:8080

Some providers take no name below localhost. They get http://localhost:5000/callback.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """One request."""

    target: str

    def do_GET(self) -> None:
        """Send it on, path and query as they are: the code is in there."""
        if not self.path.startswith("/"):
            self.send_error(400)
            return
        self.send_response(307)
        self.send_header("Location", self.target + self.path)
        self.send_header("Cache-Control", "no-store")
        self.end_headers()


if __name__ == "__main__":
    Handler.target = sys.argv[2].rstrip("/")
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
