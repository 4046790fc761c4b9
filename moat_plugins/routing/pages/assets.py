"""The files beside this module, and the answers that they are on the index's host."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib import resources

from moat_core.http.answer import Answer
from moat_plugins.routing.pages.policy import asset_headers

__all__ = ["ASSETS", "asset", "hash_of", "read"]

ASSETS = {
    "/moat.css": "text/css; charset=utf-8",
    "/moat.js": "text/javascript; charset=utf-8",
    "/moat.svg": "image/svg+xml",
}
"""What the index's page loads; nothing of it is on an agent's host, whose paths are the agent's."""


@functools.cache
def read(name: str) -> str:
    """Return a file of this package; they are small, and read once."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@functools.cache
def hash_of(name: str) -> str:
    """Return a file's hash as a policy names it (CSP Level 3, 2.3.1)."""
    digest = hashlib.sha256(read(name).encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def asset(path: str) -> Answer | None:
    """Return what is at PATH of the index's host, if it is one of `ASSETS`."""
    kind = ASSETS.get(path)
    if kind is None:
        return None
    return Answer(200, read(path[1:]).encode(), kind, asset_headers())
